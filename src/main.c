/* SPDX-License-Identifier: Apache-2.0 */
/* The doppel command: looks the verb up in the command table (control/commands.c). */
#include <stdio.h>
#include <string.h>

#include "base/types.h"
#include "control/command.h"
#include "control/options.h"

#define STATUS_USAGE 2
#define MAX_VERBS    32

static void help(FILE *out)
{
    const struct command *c;

    fputs("doppel runs unmodified operating systems and shows what they do to their devices.\n\n",
          out);
    for (c = commands; c->name || c->verb; c++)
        if (c->verb)
            fprintf(out, "  doppel %-8s %-26s %s\n", c->verb, c->usage, c->help);
    fputs("\ndoppel run alone prints examples; man doppel says the rest.\n", out);
}

static int unknown(const char *verb)
{
    const char *words[MAX_VERBS + 1];
    const struct command *c;
    const char *near;
    unsigned n = 0;

    for (c = commands; (c->name || c->verb) && n < MAX_VERBS; c++)
        if (c->verb)
            words[n++] = c->verb;
    words[n] = NULL;
    near = nearest_word(verb, words);
    if (near)
        fprintf(stderr, "doppel: there is no verb '%s'; did you mean doppel %s?\n", verb, near);
    else
        fprintf(stderr, "doppel: there is no verb '%s'; doppel --help lists them all.\n", verb);
    return STATUS_USAGE;
}

int main(int argc, char **argv)
{
    const struct command *c;

    if (argc < 2) {
        help(stderr);
        return STATUS_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help(stdout);
        return 0;
    }
    for (c = commands; c->name || c->verb; c++)
        if (c->verb && !strcmp(c->verb, argv[1]))
            return c->main(argc - 1, argv + 1);
    return unknown(argv[1]);
}
