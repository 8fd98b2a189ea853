/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stdio: standard input and output. A terminal is put in raw mode, so that Ctrl-C and the like
 * reach the guest, and Ctrl-A is the escape key; it is restored when the port is freed, and by
 * control/janitor.c if the process dies before that. Pipes and files are passed through as they
 * are; the end of standard input leaves the guest running.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "backend/char/charfd.h"
#include "core/vm.h"

#define ESCAPE 0x01 /* Ctrl-A */

struct stdio_char {
    struct charfd c; /* first */
    bool raw;        /* terminal settings were changed */
    bool escaped;    /* the last byte was the escape key */
    struct termios saved;
};

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0) {
        /* Help that nobody can read is no reason to stop. */
    }
}

static void help(void)
{
    say("\r\nCtrl-A x  end the VM at once (like pulling the plug)\r\n"
        "Ctrl-A h  this help\r\n"
        "Ctrl-A a  send Ctrl-A to the guest\r\n");
}

/* The key after Ctrl-A. Returns true if `key` is for the guest. */
static bool escape_key(struct stdio_char *s, uint8_t key)
{
    switch (key) {
    case 'x':
    case 'X':
        say("\r\n");
        vm_request(s->c.vm, VM_REQUEST_STOP, 0);
        return false;
    case 'a':
    case 'A':
    case ESCAPE:
        return true;
    default:
        help();
        return false;
    }
}

static size_t stdio_filter(struct charfd *c, uint8_t *data, size_t len)
{
    struct stdio_char *s = (struct stdio_char *)c;
    size_t i, kept = 0;

    for (i = 0; i < len; i++) {
        if (s->escaped) {
            s->escaped = false;
            if (escape_key(s, data[i]))
                data[kept++] = ESCAPE;
        } else if (data[i] == ESCAPE) {
            s->escaped = true;
        } else {
            data[kept++] = data[i];
        }
    }
    return kept;
}

static void stdio_closed(struct charfd *c)
{
    struct stdio_char *s = (struct stdio_char *)c;

    if (s->raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &s->saved);
}

/* In the background, changing the terminal would stop us: such a VM has no input. */
static bool in_foreground(void)
{
    return tcgetpgrp(STDIN_FILENO) == getpgrp();
}

static void make_raw(struct stdio_char *s)
{
    struct termios raw;

    if (tcgetattr(STDIN_FILENO, &s->saved) < 0)
        return;
    raw = s->saved;
    cfmakeraw(&raw);
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
        return;
    s->raw = true;
    s->c.read_ahead = true;
    s->c.filter = stdio_filter;
    say("doppel: Ctrl-A x ends the VM, Ctrl-A h lists the other keys.\r\n");
}

struct chardev *chardev_stdio_open(struct vm *vm, struct err *err)
{
    struct stdio_char *s = calloc(1, sizeof(*s));
    bool tty = isatty(STDIN_FILENO);
    int in = -1, out;

    if (!s) {
        err_set(err, ENOMEM, "no memory for a serial port.");
        return NULL;
    }
    if (!tty || in_foreground())
        in = charfd_private(STDIN_FILENO, O_RDONLY);
    out = charfd_private(STDOUT_FILENO, O_WRONLY);
    if (charfd_init(&s->c, vm, "serial stdio", in, out, err) < 0)
        goto fail;
    s->c.closed = stdio_closed;
    if (tty && in >= 0)
        make_raw(s);
    return &s->c.chr;

fail:
    charfd_close(&s->c);
    free(s->c.out);
    free(s->c.in);
    free(s);
    return NULL;
}
