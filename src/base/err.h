/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An error for the user: one sentence that says what is wrong and what to do next. Functions return 0
 * or -errno and fill it; outer layers prefix what they were doing.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/types.h"

struct err {
    char text[512];
};

/* Sets the sentence and returns -code (code is a positive errno). err may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "prefix: " in front of the sentence. */
void err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
