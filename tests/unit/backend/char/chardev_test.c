/* SPDX-License-Identifier: Apache-2.0 */
/* The character back ends over pipes and sockets of this process, turned by a loop without threads.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/char/charfd.h"
#include "core/vm.h"
#include "tests/lib/unit.h"

struct fixture {
    struct vm vm;
    struct chardev *chr;
    char dir[32], path[64];
    size_t room;      /* what the device can take */
    char got[100000]; /* what it received */
    size_t ngot;
};

static size_t can_receive(void *opaque)
{
    return ((struct fixture *)opaque)->room;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
    struct fixture *f = opaque;

    assert_true(len <= f->room);
    f->room -= len;
    memcpy(f->got + f->ngot, data, len);
    f->ngot += len;
}

static struct fixture *setup(void)
{
    struct vm_config config = {
        .name = "t", .ram_bytes = PAGE_SIZE, .clock = CLOCK_MANUAL, .with_loop = true};
    struct fixture *f = calloc(1, sizeof(*f));
    struct err err;

    signal(SIGPIPE, SIG_IGN);
    strcpy(f->dir, "/tmp/doppel-test-XXXXXX");
    assert_int_equal(vm_init(&f->vm, &config, &err), 0);
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/x", f->dir);
    return f;
}

static void teardown(struct fixture *f)
{
    chardev_free(f->chr);
    vm_fini(&f->vm);
    unlink(f->path);
    rmdir(f->dir);
    free(f);
}

static void use(struct fixture *f, struct chardev *chr)
{
    f->chr = chr;
    chr->can_receive = can_receive;
    chr->receive = receive;
    chr->opaque = f;
}

static void open_spec(struct fixture *f, const char *kind)
{
    char spec[128];
    struct err err;
    struct chardev *chr;

    snprintf(spec, sizeof(spec), "%s:%s", kind, f->path);
    chr = chardev_open(&f->vm, spec, &err);
    assert_non_null(chr);
    use(f, chr);
}

/* A bare pump over two pipes: to[1] is the outside's keyboard, from[0] its screen. */
static void open_pipes(struct fixture *f, int to[2], int from[2])
{
    struct charfd *c = calloc(1, sizeof(*c));
    struct err err;

    assert_non_null(c);
    assert_int_equal(pipe2(to, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(charfd_init(c, &f->vm, "test", to[0], from[1], &err), 0);
    use(f, &c->chr);
}

static void turn(struct fixture *f)
{
    unsigned i;

    for (i = 0; i < 20; i++)
        loop_once(f->vm.loop, 0);
}

static void out(struct fixture *f, const void *data, size_t len)
{
    f->chr->ops->write(f->chr, data, len);
}

static void more_room(struct fixture *f, size_t room)
{
    f->room = room;
    f->chr->ops->accept_input(f->chr);
    turn(f);
}

TEST_F(unknown_kind_is_refused_in_a_sentence)
{
    struct err err;

    assert_null(chardev_open(&f->vm, "tcp:1", &err));
    assert_non_null(strstr(err.text, "stdio, file:PATH, unix:PATH or null"));
    assert_null(chardev_open(&f->vm, "file:", &err));
    assert_null(chardev_open(&f->vm, "file:/nonexistent/x", &err));
    assert_non_null(strstr(err.text, "/nonexistent/x"));
}

TEST_F(null_takes_everything)
{
    f->chr = chardev_open(&f->vm, "null", NULL);
    assert_non_null(f->chr);
    out(f, "abc", 3);
    f->chr->ops->accept_input(f->chr);
}

TEST_F(file_gets_what_is_written)
{
    char text[8] = "";
    int fd;

    open_spec(f, "file");
    out(f, "abc", 3);
    out(f, "def", 3);
    fd = open(f->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof(text)), 6);
    assert_string_equal(text, "abcdef");
    close(fd);
}

TEST_F(input_flows_only_as_the_device_has_room)
{
    int to[2], from[2];

    open_pipes(f, to, from);
    assert_int_equal(write(to[1], "abcdef", 6), 6);
    turn(f);
    assert_int_equal(f->ngot, 0);
    more_room(f, 2);
    assert_int_equal(f->ngot, 2);
    more_room(f, 100);
    assert_int_equal(f->ngot, 6);
    assert_memory_equal(f->got, "abcdef", 6);
    close(to[1]);
    close(from[0]);
}

TEST_F(end_of_input_leaves_output_alone)
{
    char text[8];
    int to[2], from[2];

    open_pipes(f, to, from);
    f->room = 10;
    close(to[1]);
    turn(f);
    out(f, "abc", 3);
    assert_int_equal(read(from[0], text, sizeof(text)), 3);
    close(from[0]);
}

TEST_F(slow_reader_gets_all_in_order_up_to_the_bound)
{
    static uint8_t sent[CHARFD_OUT_MAX], seen[CHARFD_OUT_MAX];
    size_t i, total = 0;
    ssize_t n;
    int to[2], from[2];

    open_pipes(f, to, from);
    for (i = 0; i < sizeof(sent); i++)
        sent[i] = (uint8_t)(i * 31 >> 3);
    out(f, sent, sizeof(sent));
    for (i = 0; i < 1000 && total < sizeof(seen); i++) {
        n = read(from[0], seen + total, 1000);
        total += n > 0 ? (size_t)n : 0;
        loop_once(f->vm.loop, 0);
    }
    assert_int_equal(total, sizeof(seen));
    assert_memory_equal(seen, sent, sizeof(seen));
    close(to[1]);
    close(from[0]);
}

TEST_F(output_past_the_bound_is_dropped)
{
    static uint8_t sent[4 * CHARFD_OUT_MAX];
    struct charfd *c;
    int to[2], from[2];

    open_pipes(f, to, from);
    c = container_of(f->chr, struct charfd, chr);
    out(f, sent, sizeof(sent));
    assert_int_equal(c->out_len, CHARFD_OUT_MAX);
    close(to[1]);
    close(from[0]);
}

TEST_F(reader_that_left_is_put_up_with)
{
    int to[2], from[2];

    open_pipes(f, to, from);
    close(from[0]);
    out(f, "abc", 3);
    turn(f);
    out(f, "abc", 3);
    f->room = 3;
    assert_int_equal(write(to[1], "xyz", 3), 3);
    more_room(f, 3);
    assert_int_equal(f->ngot, 3);
    close(to[1]);
}

static int client(struct fixture *f)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    memcpy(addr.sun_path, f->path, strlen(f->path) + 1);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    turn(f);
    return fd;
}

TEST_F(socket_keeps_the_latest_output_for_its_client)
{
    static uint8_t sent[CHARFD_OUT_MAX];
    char first;
    int fd;

    open_spec(f, "unix");
    out(f, "early", 5);
    out(f, sent, sizeof(sent) - 1);
    out(f, "z", 1);
    fd = client(f);
    assert_int_equal(read(fd, &first, 1), 1);
    assert_int_equal(first, 0);
    close(fd);
}

TEST_F(socket_serves_one_client_after_the_other)
{
    char text[8];
    int fd;

    open_spec(f, "unix");
    f->room = 100;
    fd = client(f);
    out(f, "abc", 3);
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    assert_int_equal(write(fd, "in", 2), 2);
    turn(f);
    assert_memory_equal(f->got, "in", 2);
    close(fd);
    turn(f);
    fd = client(f);
    out(f, "def", 3);
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    assert_memory_equal(text, "def", 3);
    close(fd);
}

TEST_F(stale_socket_is_replaced_and_a_live_one_refused)
{
    char spec[128];
    struct err err;

    open_spec(f, "unix");
    snprintf(spec, sizeof(spec), "unix:%s", f->path);
    assert_null(chardev_open(&f->vm, spec, &err));
    assert_non_null(strstr(err.text, "remove it or choose another name"));
    chardev_free(f->chr);
    open_spec(f, "unix");
}

TEST_F(input_is_replayed_through_the_gate)
{
    int to[2], from[2];

    open_pipes(f, to, from);
    gate_record(&f->vm.gate);
    assert_int_equal(write(to[1], "abc", 3), 3);
    more_room(f, 3);
    gate_replay(&f->vm.gate);
    assert_int_equal(write(to[1], "xyz", 3), 3);
    more_room(f, 3);
    assert_memory_equal(f->got, "abcabc", 6);
    close(to[1]);
    close(from[0]);
}
