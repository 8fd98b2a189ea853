/* SPDX-License-Identifier: Apache-2.0 */
/* What this host can do for a VM: a list of findings, each with what follows from it. */
#ifndef CONTROL_DOCTOR_H
#define CONTROL_DOCTOR_H

#include "base/types.h"

enum finding_kind { FINDING_OK, FINDING_LACKS, FINDING_PROBLEM };

struct finding {
    enum finding_kind kind; /* LACKS: something is slower or not there; PROBLEM: VMs do not run */
    char what[32];
    char detail[160];
    const char *follows;
};

#define DOCTOR_MAX 32

/* Looks at the host. Returns how many findings it wrote. */
unsigned doctor_examine(struct finding findings[DOCTOR_MAX]);

#endif
