/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "control/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/options.h"

/* Ours alone: nobody else can have put a socket there for us to talk to. */
static bool is_private(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           !(st.st_mode & 077);
}

static int base_path(char *base, size_t size, struct err *err)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    int n;

    if (xdg && *xdg == '/' && stat(xdg, &st) == 0 && st.st_uid == geteuid())
        n = snprintf(base, size, "%s/doppel", xdg);
    else
        n = snprintf(base, size, "/tmp/doppel-%u", (unsigned)geteuid());
    if (n < 0 || (size_t)n >= size)
        return err_set(err, ENAMETOOLONG,
                       "XDG_RUNTIME_DIR is too long for sockets; set a shorter one.");
    if (mkdir(base, 0700) < 0 && errno != EEXIST)
        return err_set(err, errno, "the runtime directory %s can not be made: %s.", base,
                       strerror(errno));
    if (!is_private(base))
        return err_set(err, EPERM,
                       "%s is not a directory of yours with mode 700; move it out of the way.",
                       base);
    return 0;
}

static int vm_paths(struct rundir *dir, const char *name, struct err *err)
{
    char base[64];
    int r = base_path(base, sizeof(base), err);

    dir->lock_fd = -1;
    if (r < 0)
        return r;
    if (!vm_name_ok(name))
        return err_set(err, EINVAL, "'%s' is no name of a VM; doppel ps lists the running ones.",
                       name);
    snprintf(dir->path, sizeof(dir->path), "%s/%.48s", base, name);
    snprintf(dir->socket, sizeof(dir->socket), "%s/control.sock", dir->path);
    if (strlen(dir->socket) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return err_set(err, ENAMETOOLONG,
                       "the path %s is too long for a socket; use a shorter name.", dir->path);
    return 0;
}

/*
 * Locks dir's pid file. -EWOULDBLOCK: somebody has it. The file may have been removed by its last
 * owner between open and lock: then it is not the one in the directory, and we try again.
 */
static int lock_pid(const struct rundir *dir, bool create)
{
    char path[sizeof(dir->path) + 8];
    int tries;

    snprintf(path, sizeof(path), "%s/pid", dir->path);
    for (tries = 0; tries < 10; tries++) {
        struct stat ours, there;
        int fd, saved;

        if (create && mkdir(dir->path, 0700) < 0 && errno != EEXIST)
            return -errno;
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);
        if (fd < 0 && errno == ENOENT && create)
            continue;
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            saved = errno;
            close(fd);
            return -saved;
        }
        if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
            ours.st_dev == there.st_dev)
            return fd;
        close(fd);
    }
    return -EAGAIN;
}

int rundir_take(struct rundir *dir, const char *name, struct err *err)
{
    char pid[16];
    int r = vm_paths(dir, name, err);

    if (r < 0)
        return r;
    r = lock_pid(dir, true);
    if (r == -EWOULDBLOCK)
        return err_set(
            err, EEXIST,
            "a VM named %s is running already; choose another --name, or doppel stop %s.", name,
            name);
    if (r < 0)
        return err_set(err, -r, "the runtime directory %s can not be used: %s.", dir->path,
                       strerror(-r));
    dir->lock_fd = r;
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(r, 0) < 0 || pwrite(r, pid, strlen(pid), 0) < 0) {
        r = err_set(err, errno, "%s/pid can not be written: %s.", dir->path, strerror(errno));
        rundir_remove(dir);
        return r;
    }
    unlink(dir->socket);
    return 0;
}

void rundir_remove(struct rundir *dir)
{
    char path[sizeof(dir->path) + 8];

    if (dir->lock_fd < 0)
        return;
    unlink(dir->socket);
    snprintf(path, sizeof(path), "%s/pid", dir->path);
    unlink(path);
    rmdir(dir->path);
    close(dir->lock_fd);
    dir->lock_fd = -1;
}

/* True if locked by a living VM; its pid. What a dead one left is removed. */
static bool probe(struct rundir *dir, pid_t *pid)
{
    char path[sizeof(dir->path) + 8], text[16] = "";
    int fd = lock_pid(dir, false);

    *pid = 0;
    if (fd >= 0) {
        dir->lock_fd = fd;
        rundir_remove(dir);
        return false;
    }
    if (fd != -EWOULDBLOCK)
        return false;
    snprintf(path, sizeof(path), "%s/pid", dir->path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, text, sizeof(text) - 1) > 0)
            *pid = (pid_t)atol(text);
        close(fd);
    }
    return true;
}

int rundir_each(void (*fn)(void *opaque, const char *name, pid_t pid), void *opaque,
                struct err *err)
{
    char base[64];
    struct dirent *entry;
    int r = base_path(base, sizeof(base), err);
    DIR *list;

    if (r < 0)
        return r;
    list = opendir(base);
    if (!list)
        return err_set(err, errno, "%s can not be read: %s.", base, strerror(errno));
    while ((entry = readdir(list))) {
        struct rundir dir;
        pid_t pid;

        if (vm_name_ok(entry->d_name) && vm_paths(&dir, entry->d_name, NULL) == 0 &&
            probe(&dir, &pid))
            fn(opaque, entry->d_name, pid);
    }
    closedir(list);
    return 0;
}

bool rundir_alive(const char *name)
{
    struct rundir dir;
    pid_t pid;

    return vm_paths(&dir, name, NULL) == 0 && probe(&dir, &pid);
}

int rundir_connect(const char *name, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct rundir dir;
    int r = vm_paths(&dir, name, err);
    int fd;

    if (r < 0)
        return r;
    memcpy(addr.sun_path, dir.socket, strlen(dir.socket) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, errno, "a socket can not be made: %s.", strerror(errno));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    r = errno;
    close(fd);
    if (r == ENOENT || r == ECONNREFUSED)
        return err_set(err, r, "no VM named %s runs; doppel ps lists the running ones.", name);
    return err_set(err, r, "VM %s can not be reached: %s.", name, strerror(r));
}
