/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/bt/look.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- names for perf ------------------------------------------------------------------------- */

#define LINE_BYTES 96

static int add_line(const struct bt_vm *bt, char *line, uint32_t from, uint32_t to,
                    const char *name)
{
    return snprintf(line, LINE_BYTES, "%" PRIx64 " %x %s\n",
                    (uint64_t)(uintptr_t)bt->code.rx + from, to - from, name);
}

/* One write: whoever ends the process loses nothing. Best effort, it is only names. */
static void append(const struct bt_vm *bt, const char *lines, int n)
{
    if (n > 0 && write(bt->perf_map, lines, (size_t)n) < 0)
        return;
}

static void name_stubs(const struct bt_vm *bt)
{
    const struct bt_stubs *s = &bt->stubs;
    const struct {
        const char *name;
        uint32_t at;
    } stubs[] = {
        {"bt:enter", s->enter},
        {"bt:leave_site", s->leave_site},
        {"bt:leave_direct", s->leave_direct},
        {"bt:leave_indirect", s->leave_indirect},
        {"bt:slow", s->slow},
    };
    char line[LINE_BYTES];

    for (unsigned i = 0; i < ARRAY_LEN(stubs); i++) {
        uint32_t end = bt->stubs_end;

        for (unsigned j = 0; j < ARRAY_LEN(stubs); j++)
            if (stubs[j].at > stubs[i].at && stubs[j].at < end)
                end = stubs[j].at;
        append(bt, line, add_line(bt, line, stubs[i].at, end, stubs[i].name));
    }
}

/*
 * perf wants this name and that the file is the process owner's. /tmp is everybody's: what is there
 * already is taken away, not followed.
 */
int bt_perf_map_open(struct bt_vm *bt, struct err *err)
{
    char path[64];

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    unlink(path);
    bt->perf_map = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (bt->perf_map < 0)
        return err_set(err, errno, "--perf-map: cannot write %s: %s.", path, strerror(errno));
    name_stubs(bt);
    return 0;
}

void bt_perf_map_close(struct bt_vm *bt)
{
    if (bt->perf_map >= 0)
        close(bt->perf_map);
    bt->perf_map = -1;
}

void bt_perf_map_block(struct bt_vm *bt, const struct bt_block *b, uint32_t hot_end, uint32_t cold,
                       uint32_t cold_end)
{
    char lines[2 * LINE_BYTES], name[64];
    int n;

    snprintf(name, sizeof(name), "bt:%" PRIx64 ":cpl%u:hot", b->va, mode_cpl(b->key));
    n = add_line(bt, lines, b->entry_indirect, hot_end, name);
    snprintf(name, sizeof(name), "bt:%" PRIx64 ":cpl%u:cold", b->va, mode_cpl(b->key));
    append(bt, lines, n + add_line(bt, lines + n, cold, cold_end, name));
}
