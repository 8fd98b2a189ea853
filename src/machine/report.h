/* SPDX-License-Identifier: Apache-2.0 */
/* Why did my guest die? What a triple fault, SIGQUIT or the operator makes the machine tell. */
#ifndef MACHINE_REPORT_H
#define MACHINE_REPORT_H

#include <stdio.h>

#include "base/types.h"

struct cpu_exception;
struct cpu_state;
struct machine;

/*
 * Everything below, for every vCPU; `culprit` (-1: none) comes first. The vCPUs stand; no lock
 * held.
 */
void report_write(struct machine *m, FILE *out, const char *why, int culprit);

/* The parts, each of which ends in a newline. */

/* "#PF page fault at rip ..., write to a page not present, user mode, address ..." */
void report_exception(FILE *out, const struct cpu_exception *e);
void report_registers(FILE *out, const struct cpu_state *cs);
/* "real mode", "protected mode, 32-bit code", ... */
const char *report_mode(const struct cpu_state *cs);

#endif
