/* SPDX-License-Identifier: Apache-2.0 */
/* Each case runs in a child, which the sandbox may end. */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/sandbox.h"
#include "tests/lib/unit.h"

#define GOOD 7

/* Enters as `kind` (the whole process, if it is SANDBOX_KINDS), and calls. Returns the wait status.
 */
static int inside(unsigned kind, enum sandbox_mode mode, int (*call)(void))
{
    pid_t pid = fork();
    int status;

    if (!pid) {
        struct rlimit no_core = {0, 0};
        struct sandbox sandbox;
        struct err err;

        setrlimit(RLIMIT_CORE, &no_core);
        if (sandbox_enter(&sandbox, mode, &err))
            _exit(1);
        sandbox_thread(&sandbox, kind);
        _exit(call());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int write_a_byte(void)
{
    return write(STDERR_FILENO, "", 0) == 0 ? GOOD : 1;
}

static int open_a_file(void)
{
    return open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? GOOD : 1;
}

static int make_a_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int make_code(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
           MAP_FAILED;
}

static int make_memory(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
                   MAP_FAILED
               ? GOOD
               : 1;
}

static int make_a_process(void)
{
    return fork() < 0;
}

static int accept_a_client(void)
{
    return accept4(-1, NULL, NULL, 0) < 0 && errno == EBADF ? GOOD : 1;
}

static int has_no_new_privs(void)
{
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? GOOD : 1;
}

static void assert_good(int status)
{
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), GOOD);
}

static void assert_killed(int status)
{
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

TEST(what_is_open_works)
{
    assert_good(inside(SANDBOX_KINDS, SANDBOX_ON, write_a_byte));
    assert_good(inside(VM_THREAD_VCPU, SANDBOX_ON, write_a_byte));
    assert_good(inside(VM_THREAD_WORKER, SANDBOX_ON, write_a_byte));
    assert_good(inside(VM_THREAD_VCPU, SANDBOX_ON, make_memory));
}

TEST(nothing_new_can_be_opened)
{
    assert_good(inside(SANDBOX_KINDS, SANDBOX_ON, open_a_file));
    assert_killed(inside(SANDBOX_KINDS, SANDBOX_ON, make_a_socket));
}

TEST(no_code_and_no_process_can_be_made)
{
    assert_killed(inside(SANDBOX_KINDS, SANDBOX_ON, make_code));
    assert_killed(inside(SANDBOX_KINDS, SANDBOX_ON, make_a_process));
}

TEST(a_vcpu_may_less_than_the_main_thread)
{
    assert_good(inside(VM_THREAD_MAIN, SANDBOX_ON, accept_a_client));
    assert_killed(inside(VM_THREAD_VCPU, SANDBOX_ON, accept_a_client));
    assert_killed(inside(VM_THREAD_WORKER, SANDBOX_ON, accept_a_client));
}

TEST(debug_exits_with_the_signal_of_a_shell)
{
    int status = inside(SANDBOX_KINDS, SANDBOX_DEBUG, make_a_socket);

    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + SIGSYS);
}

TEST(off_still_gives_up_new_privileges)
{
    assert_good(inside(SANDBOX_KINDS, SANDBOX_OFF, has_no_new_privs));
}
