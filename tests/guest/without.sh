#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# without.sh DOPPEL: every host feature that doppel can do without, missing: vec64 passes on each engine,
# under the sandbox, and is not offered what it could not have.
set -u
doppel=$1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0

# without LIST GONE: GONE are the features that the guest must not see.
without() {
    for engine in bt interp; do
        LIMIT=${LIMIT:-60} tests/guest/run "$doppel" vec64 --engine "$engine,without=$1" >"$out" 2>&1
        status=$?
        for feature in $2; do
            grep -qx "does not offer $feature" "$out" || status="$status and $feature is offered"
        done
        if [ "$status" = 0 ]; then
            echo "ok $engine,without=$1"
        else
            echo "FAIL $engine,without=$1: status $status"
            cat "$out"
            failed=1
        fi
    done
}

without avx "avx avx512 xgetbv1"
without avx512 avx512
without xinuse xgetbv1
without fsgsbase ""
without bmi2 bmi2
without avx,fsgsbase,bmi2 "avx avx512 xgetbv1 bmi2"
without avx512,xinuse "avx512 xgetbv1"
exit $failed
