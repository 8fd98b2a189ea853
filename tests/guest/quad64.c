/* SPDX-License-Identifier: Apache-2.0 */
/* xsmp64 on four processors: guests.list says how many there are. */
#include "xsmp64.c"
