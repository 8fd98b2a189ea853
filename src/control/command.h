/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command table. A row is something that can be asked of a running VM over its control socket,
 * a verb of the `doppel` command, or both; a new verb is a new row in commands.c and its function.
 */
#ifndef CONTROL_COMMAND_H
#define CONTROL_COMMAND_H

#include <stdbool.h>

struct json_object;

/* What a handler says went wrong. class_ NULL: GenericError. */
struct qmp_error {
    const char *class_;
    char desc[256];
};

enum arg_kind { ARG_STRING, ARG_UINT, ARG_BOOL };

struct command_arg {
    const char *name;
    enum arg_kind kind;
    bool required;
};

struct command {
    /* Over the socket; NULL: only a verb. */
    const char *name;
    const struct command_arg *args; /* ends with a NULL name; NULL: none */
    /*
     * args were checked against the list; NULL if none were given. Returns the value of "return",
     * which may be NULL for an empty object, or false after filling error. Main thread, machine
     * lock held.
     */
    bool (*serve)(void *opaque, struct json_object *args, struct json_object **ret,
                  struct qmp_error *error);
    /* In the shell; NULL: only over the socket. argv[0] is the verb. Returns the exit status. */
    const char *verb;
    const char *usage; /* what follows the verb */
    int (*main)(int argc, char **argv);
    const char *help;
};

/* Ends with a row that has neither name nor verb. */
extern const struct command commands[];

/* Fills error with a class (NULL: GenericError) and a sentence; returns false. */
bool qmp_error_set(struct qmp_error *error, const char *class_, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Verbs, each in its own file. */
int run_main(int argc, char **argv);
int ps_main(int argc, char **argv);
int inspect_main(int argc, char **argv);
int trace_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int report_main(int argc, char **argv);
int doctor_main(int argc, char **argv);

#endif
