/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What doppel uses of the processor it runs on where that has it: the one place that asks. A VM
 * keeps the answer (struct vm, host), so that a test can make one that does without.
 */
#ifndef BASE_HOSTCPU_H
#define BASE_HOSTCPU_H

#include "base/types.h"

#define HOST_AVX      BIT(0) /* and its kernel saves the registers */
#define HOST_AVX512   BIT(1) /* F and BW, likewise */
#define HOST_XINUSE   BIT(2) /* XGETBV with ECX = 1: which parts of registers are in use */
#define HOST_FSGSBASE BIT(3) /* programs may set the GS base by themselves */
#define HOST_BMI2     BIT(4)
/* Not to be done without: facts, and what every 64-bit processor but the first ones has. */
#define HOST_X87_SELECTORS BIT(8) /* the x87 state has code and data selectors */
#define HOST_LAHF          BIT(9) /* LAHF and SAHF in 64-bit code */

uint32_t hostcpu_probe(void);
/* `have` less some features, and less what these leave without use. */
uint32_t hostcpu_without(uint32_t have, uint32_t features);
/* The feature that an option names; 0: none. */
uint32_t hostcpu_feature(const char *name);
#define HOSTCPU_NAMES "avx, avx512, xinuse, fsgsbase, bmi2"

#endif
