#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# make-initrd.sh KERNEL OUT: an initramfs for build/guests/KERNEL (cloud or generic): busybox, the modules
# that a shell with an NVMe disk and ext4 needs where the kernel has them as modules, and scripts/init.
# make-initrd.sh KERNEL OUT DIR: what is in DIR as well, its own init included.
set -eu

PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
guests=${GUESTS_DIR:-$top/build/guests}
modules="nvme ext4 crc32c_generic button evdev"

[ $# = 2 ] || [ $# = 3 ] || { echo "usage: make-initrd.sh cloud|generic OUT [DIR]" >&2; exit 2; }
kernel=$1
out=$2
package=$guests/$kernel/root
version=$(ls "$package/lib/modules")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/mnt" "$root/tmp" "$root/etc"
cp "$guests/busybox/busybox" "$root/bin/busybox"
cp "$top/scripts/init" "$root/init"
[ -z "${3:-}" ] || cp -R "$3/." "$root"
chmod 755 "$root/init" "$root/bin/busybox"

[ -e "$package/lib/modules/$version/modules.dep" ] || depmod -b "$package" "$version"
# What is built into the kernel needs no file: modprobe names only what there is. In order of loading.
: >"$root/etc/modules"
for module in $modules; do
    modprobe -d "$package" -S "$version" --show-depends "$module" 2>/dev/null || true
done | sed -n 's|^insmod .*\(/lib/modules/[^ ]*\).*|\1|p' | awk '!seen[$0]++' |
    while read -r file; do
        mkdir -p "$root$(dirname "$file")"
        cp "$package$file" "$root$file"
        echo "$file" >>"$root/etc/modules"
    done

(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet --reproducible -R 0:0 | gzip -9n) >"$out.new"
mv "$out.new" "$out"
