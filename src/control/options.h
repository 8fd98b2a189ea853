/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of `doppel run`: one table of options, from which parsing, help and the "did you
 * mean" sentences come. Parsing only reads argv (and looks at the first bytes of a THING, to know
 * what it is).
 */
#ifndef CONTROL_OPTIONS_H
#define CONTROL_OPTIONS_H

#include <stdio.h>

#include "machine/machine.h"

enum sandbox_mode { SANDBOX_ON, SANDBOX_DEBUG, SANDBOX_OFF };

struct run_options {
    struct machine_config machine; /* strings point into argv or into `memory` */
    enum sandbox_mode sandbox;
    bool help;       /* print help, run nothing */
    bool print_hash; /* icount and a hash of RAM at the end */
    bool verbose;
    /* What the parser cut out of arguments; freed by options_fini. */
    char **owned;
    unsigned nowned;
};

/* argv without the "run". 0, or -EINVAL and a sentence. Call options_fini in either case. */
int options_parse_run(struct run_options *o, int argc, char **argv, struct err *err);
void options_fini(struct run_options *o);

/* Three examples and the defaults. */
void options_usage(FILE *out);
/* Every option. */
void options_help(FILE *out);

/* "512M": bytes; K M G T, powers of two, lower case as well; without a letter, `unit` bytes. */
int parse_size(const char *text, uint64_t unit, uint64_t *bytes, struct err *err);

/* The nearest of a NULL-terminated list, if it is near enough to be a slip of the fingers; or NULL.
 */
const char *nearest_word(const char *word, const char *const *words);

/* Letters, digits, '.', '_' and '-'; not empty, not starting with '.' or '-', at most 48 long. */
bool vm_name_ok(const char *name);

#endif
