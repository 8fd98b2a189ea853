/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

/* The one process-wide setting: how much the operator wants to read. */
static _Atomic int log_level = LOG_LEVEL_WARN;

void log_set_level(enum log_level level)
{
    atomic_store(&log_level, (int)level);
}

void log_at(enum log_level level, const char *who, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char line[1024];
    va_list ap;

    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    fprintf(stderr, "doppel: %s: %s: %s\n", names[level], who, line);
}
