#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# soak.sh NAME [COUNT]: long runs, for `make soak T=NAME`. Prints the figure of the run in its last line.
#   boot      COUNT (20) boots of the cloud kernel in a row: how many succeed
#   lockstep  one boot of the cloud kernel to power-off, interpreter against translator
#   virtual   COUNT (5) pairs of runs with the virtual clock: how many pairs end alike
set -eu

cd "$(dirname "$0")"
case ${1:-} in
boot) exec python3 linux_boot.py soak "${2:-20}" ;;
lockstep) BOOT_TIMEOUT=${BOOT_TIMEOUT:-7200} exec python3 linux_boot.py LockstepSoak ;;
virtual)
    count=${2:-5}
    good=0
    for run in $(seq "$count"); do
        python3 linux_boot.py Virtual && good=$((good + 1))
    done
    echo "soak virtual: $good of $count pairs end alike"
    [ "$good" = "$count" ] ;;
*)
    echo "soak.sh: say which: boot, lockstep or virtual" >&2
    exit 2 ;;
esac
