/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages for the operator, on standard error, each one sentence. Register traffic is not logged:
 * the trace ring (core/trace.h) records it.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/types.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_at(enum log_level level, const char *who, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Messages above this level are dropped; LOG_LEVEL_WARN at start. Process-wide. */
void log_set_level(enum log_level level);

#define log_error(who, ...) log_at(LOG_LEVEL_ERROR, who, __VA_ARGS__)
#define log_warn(who, ...) log_at(LOG_LEVEL_WARN, who, __VA_ARGS__)
#define log_info(who, ...) log_at(LOG_LEVEL_INFO, who, __VA_ARGS__)
#define log_debug(who, ...) log_at(LOG_LEVEL_DEBUG, who, __VA_ARGS__)

#endif
