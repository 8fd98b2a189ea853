/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox: from before the first guest instruction on, the process has no new privileges and a
 * seccomp list per kind of thread; a call outside the list ends the process. A guest that owns the
 * engine or a device can open no file, make no socket and map no code.
 *
 * All files, sockets and executable mappings are made before. The whole process gets the union of
 * the lists (threads inherit it); each thread then narrows itself to its own list (sandbox_thread).
 * Builds with the address or thread sanitiser run without lists: their run time needs far more
 * calls.
 */
#ifndef CONTROL_SANDBOX_H
#define CONTROL_SANDBOX_H

#include "base/err.h"
#include "control/options.h"
#include "core/vm.h"

#define SANDBOX_KINDS (VM_THREAD_WORKER + 1)

struct sock_filter;

struct sandbox {
    bool on;
    /* A compiled list per kind of thread. */
    struct sock_filter *program[SANDBOX_KINDS];
    unsigned short length[SANDBOX_KINDS];
};

/*
 * Puts the process in the sandbox; the main thread still has the union of the lists, because the
 * threads it makes inherit what it has. What cannot be had from this host is an error: a VM without
 * its sandbox is only run when it was asked for.
 */
int sandbox_enter(struct sandbox *sandbox, enum sandbox_mode mode, struct err *err);
/* vm->thread_started, with the sandbox as thread_opaque. */
void sandbox_thread(void *sandbox, enum vm_thread kind);
void sandbox_fini(struct sandbox *sandbox);

#endif
