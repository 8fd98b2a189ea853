#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# make-disk.sh OUT [SIZE]: a small ext4 image (64M) with two files in it, made without root.
set -eu

PATH=$PATH:/usr/sbin:/sbin
[ $# -ge 1 ] || { echo "usage: make-disk.sh OUT [SIZE]" >&2; exit 2; }
out=$1
size=${2:-64M}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

echo "hello from the host" >"$root/from-host"
cat >"$root/README" <<'END'
This disk is a raw image on the host: build/demo/disk.img, an NVMe namespace in the guest.
Files written here stay there.
END
rm -f "$out.new"
truncate -s "$size" "$out.new"
mke2fs -q -t ext4 -L doppel -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$out.new"
mv "$out.new" "$out"
