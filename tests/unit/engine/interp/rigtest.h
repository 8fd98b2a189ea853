/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests on a rig: TEST_WITH(rig_new, name), or another function that makes one. */
#ifndef TESTS_UNIT_ENGINE_INTERP_RIGTEST_H
#define TESTS_UNIT_ENGINE_INTERP_RIGTEST_H

#define FIXTURE struct rig *r

#include "tests/lib/unit.h"
#include "tests/unit/engine/interp/rig.h"

static inline void teardown(struct rig *r)
{
    rig_free(r);
}

#endif
