#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# lockstep_plants.sh DOPPEL: --engine lockstep finds each mistake that the translator can be told to
# make (enum bt_plant): status 12, and a report with the block's guest and host code.
set -u
doppel=$1
err=$(mktemp)
trap 'rm -f "$err"' EXIT
failed=0
for plant in 1 2 3 4 5 6; do
    timeout 60 "$doppel" run --kernel build/guests/tiny/exc64.elf --memory 64M --serial null --debugcon null \
        --display none --debug-exit --no-reboot --name "plant-$plant-$$" \
        --engine "lockstep,plant=$plant" 2>"$err"
    status=$?
    for part in 'differs from the interpreter' '^guest code:' '^host code' 'a difference$'; do
        grep -q "$part" "$err" || status="$status without '$part'"
    done
    if [ "$status" = 12 ]; then
        echo "ok plant=$plant"
    else
        echo "FAIL plant=$plant: status $status, not 12"
        cat "$err"
        failed=1
    fi
done
timeout 60 "$doppel" run --kernel build/guests/tiny/exc64.elf --cpus 2 --engine lockstep 2>"$err"
status=$?
if [ "$status" != 2 ] || ! grep -q 'one CPU only' "$err"; then
    echo "FAIL two CPUs: status $status: $(cat "$err")"
    failed=1
fi
exit $failed
