#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# demo.sh: boots an unmodified Debian cloud kernel to a shell with a disk. Everything it makes is under
# build/; nothing is installed but missing tools (install-deps.sh). Called by `make demo`, after the build.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
doppel=${DOPPEL:-build/doppel}
demo=build/demo

scripts/install-deps.sh guests
scripts/fetch-guest.sh busybox cloud
mkdir -p "$demo"
for source in scripts/init scripts/make-initrd.sh build/guests/cloud/vmlinuz; do
    [ "$demo/initrd.gz" -nt "$source" ] && continue
    scripts/make-initrd.sh cloud "$demo/initrd.gz"
    break
done
[ -e "$demo/disk.img" ] || scripts/make-disk.sh "$demo/disk.img"

set -- run --kernel build/guests/cloud/vmlinuz --initrd "$demo/initrd.gz" \
    --append 'console=ttyS0 quiet doppel.demo' --memory 512M --cpus 1 \
    --disk "$demo/disk.img,bus=nvme" --net none --serial stdio --name demo "$@"

echo
echo "The command, for you to change:"
printf '  %s' "$doppel"
for word in "$@"; do
    case $word in
    *' '*) printf " '%s'" "$word" ;;
    *) printf ' %s' "$word" ;;
    esac
done
echo
echo
echo "To leave: poweroff -f in the guest, or Ctrl-A x. From another terminal: $doppel trace demo"
echo
exec "$doppel" "$@"
