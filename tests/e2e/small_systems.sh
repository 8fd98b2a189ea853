#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# small_systems.sh [NAME...]: small systems beside the Linux kernels of `make check`, each to its sign of
# success on the serial port. They come from Debian's packages into build/guests/small and are never
# installed. DOPPEL: the program (build/doppel).
set -u

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
PATH=$PATH:/usr/sbin:/sbin
doppel=${DOPPEL:-build/doppel}
guests=${GUESTS_DIR:-$top/build/guests}
small=$guests/small
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir -p "$small/apt/lists/partial" "$small/apt/cache/archives/partial"
: >>"$small/apt/status"
wanted=" $* "
updated=
ok=0
failed=0

# ---- packages ------------------------------------------------------------------------------------

# With lists of our own, which hold i386 as well; needs no root.
apt() {
    local tool=$1
    shift
    "$tool" -o Dir::State::lists="$small/apt/lists" -o Dir::State::status="$small/apt/status" \
        -o Dir::Cache="$small/apt/cache" -o APT::Architecture=amd64 -o APT::Architectures::=amd64 \
        -o APT::Architectures::=i386 -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}

# package PACKAGE...: each is unpacked into $small/PACKAGE.
package() {
    local name real
    for name in "$@"; do
        [ ! -e "$small/$name/.done" ] || continue
        # One list of several may be out of order at the mirror: the download tells what is missing.
        if [ ! -e "$small/apt/.done" ] && [ -z "$updated" ]; then
            apt apt-get -qq update && touch "$small/apt/.done"
            updated=yes
        fi
        real=$name
        case $name in
        linux-image-*) # only depends on the kernel's own package
            real=$(apt apt-cache depends "$name" | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' |
                head -n 1) ;;
        esac
        rm -rf "${small:?}/$name"
        mkdir -p "$small/$name/debs"
        (cd "$small/$name/debs" && apt apt-get -qq download "$real") &&
            dpkg-deb -x "$small/$name"/debs/*.deb "$small/$name" && touch "$small/$name/.done" || return 1
    done
}

# initrd BUSYBOX OUT: /init says which kernel it runs on, and powers off.
initrd() {
    local root=$out/root
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/proc" "$root/dev"
    cp "$1" "$root/bin/busybox"
    cat >"$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "small-init: $(/bin/busybox uname -m), $(/bin/busybox grep -c ^processor /proc/cpuinfo) CPUs"
/bin/busybox poweroff -f
END
    chmod 755 "$root/init" "$root/bin/busybox"
    (cd "$root" && find . | cpio -o -H newc --quiet -R 0:0 | gzip -n) >"$2"
}

# ---- running -------------------------------------------------------------------------------------

# is_wanted NAME
is_wanted() { [ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]]; }

# check NAME SECONDS SIGN ARGUMENT...: the system is ended as soon as its serial port has shown SIGN.
check() {
    local name=$1 limit=$2 sign=$3 start=$SECONDS pid
    shift 3
    is_wanted "$name" || return 0
    : >"$out/serial"
    timeout "$limit" "$doppel" run "$@" --serial "file:$out/serial" --display none --no-reboot \
        --name "small-$name-$$" >"$out/log" 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! grep -aqE "$sign" "$out/serial"; do
        sleep 0.5
    done
    kill $pid 2>/dev/null
    wait $pid 2>/dev/null
    if grep -aqE "$sign" "$out/serial"; then
        echo "ok $name ($((SECONDS - start)) s)"
        ok=$((ok + 1))
    else
        echo "FAIL $name: no '$sign' within $limit s; the end of its serial port and what doppel said:"
        tail -c 1000 "$out/serial" | tr -d '\000\033' | sed 's/^/    /'
        tail -n 20 "$out/log" | sed 's/^/    /'
        failed=$((failed + 1))
    fi
}

# needs NAMES PACKAGE...: true if one of the systems is wanted and the packages are there.
needs() {
    local names=$1 name any=
    shift
    for name in $names; do is_wanted "$name" && any=yes; done
    [ -n "$any" ] || return 1
    package "$@" && return 0
    echo "FAIL $names: the packages can not be had: $*"
    failed=$((failed + 1))
    return 1
}

# ---- the systems ---------------------------------------------------------------------------------

# A 32-bit microkernel by Multiboot; it has nothing to run, and says so.
if needs "mach mach-pentium3" gnumach-image-1.8-486:i386; then
    gunzip -c "$small"/gnumach-image-1.8-486:i386/boot/gnumach*.gz >"$out/mach"
    check mach 60 "No bootstrap code loaded" --kernel "$out/mach" --append console=com0
    check mach-pentium3 60 "No bootstrap code loaded" --kernel "$out/mach" --append console=com0 \
        --cpu pentium3
fi

# Memory tests: bzImage, 32- and 64-bit entry. Test 3 is reached when nothing was wrong with 0 to 2.
if needs "memtest-64 memtest-32 memtest-smp" memtest86+; then
    sign='#[3-9]  \[.*'
    check memtest-64 120 "$sign" --kernel "$small/memtest86+/boot/memtest86+x64.bin" \
        --append console=ttyS0,115200 --memory 32M
    check memtest-32 120 "$sign" --kernel "$small/memtest86+/boot/memtest86+ia32.bin" \
        --append console=ttyS0,115200 --memory 32M
    check memtest-smp 120 "2T \(PAR\)" --kernel "$small/memtest86+/boot/memtest86+x64.bin" \
        --append console=ttyS0,115200 --memory 32M --cpus 2
fi

# Firmware in the ROM: real mode, 16-bit protected mode, and what they make of the chipset.
if needs "seabios seabios-486" seabios; then
    rom=$small/seabios/usr/share/seabios
    check seabios 60 "No bootable device" --bios "$rom/bios-256k.bin"
    check seabios-486 60 "No bootable device" --bios "$rom/bios.bin" --cpu 486
fi
if needs "uboot-32 uboot-64" u-boot-qemu; then
    rom=$small/u-boot-qemu/usr/lib/u-boot
    check uboot-32 60 "Hit any key to stop autoboot" --bios "$rom/qemu-x86/u-boot.rom"
    check uboot-64 60 "Hit any key to stop autoboot" --bios "$rom/qemu-x86_64/u-boot.rom"
fi

# A disk started by SeaBIOS through INT 13h: GRUB, which starts iPXE by its 16-bit entry.
if needs "grub-ipxe" seabios grub-common grub-pc-bin ipxe; then
    lkrn=$small/ipxe/boot/ipxe.lkrn modules=$small/grub-pc-bin/usr/lib/grub/i386-pc
    cat >"$out/grub.cfg" <<END
serial --unit=0 --speed=115200
terminal_output serial
linux16 (hd0)4096+$((($(stat -c %s "$lkrn") + 511) / 512))
boot
END
    "$small/grub-common/usr/bin/grub-mkimage" -d "$modules" -O i386-pc -c "$out/grub.cfg" -p / \
        -o "$out/core.img" biosdisk linux16 serial terminal boot
    cat "$modules/boot.img" "$out/core.img" >"$out/disk"
    dd if="$lkrn" of="$out/disk" bs=512 seek=4096 conv=notrunc 2>/dev/null
    truncate -s 16M "$out/disk"
    check grub-ipxe 90 "iPXE initialising devices.*ok" \
        --bios "$small/seabios/usr/share/seabios/bios-256k.bin" --disk "$out/disk,snapshot"
fi

# 32-bit Linux, without and with PAE, and on a processor of its time.
if needs "linux-686 linux-pentium3 linux-686-pae" busybox-static:i386 linux-image-686:i386 \
    linux-image-686-pae:i386; then
    initrd "$(find "$small/busybox-static:i386" -name busybox -type f -perm -u+x | head -n 1)" "$out/rd32"
    append="console=ttyS0 panic=-1 cryptomgr.notests"
    kernel=$(echo "$small"/linux-image-686:i386/boot/vmlinuz-*)
    check linux-686 180 "small-init: i686, 1 CPUs" --kernel "$kernel" --initrd "$out/rd32" --append "$append"
    check linux-pentium3 180 "small-init: i686, 1 CPUs" --kernel "$kernel" --initrd "$out/rd32" \
        --append "$append" --cpu pentium3
    check linux-686-pae 180 "small-init: i686, 2 CPUs" --initrd "$out/rd32" --append "$append" --cpus 2 \
        --kernel "$(echo "$small"/linux-image-686-pae:i386/boot/vmlinuz-*)"
fi

# A hypervisor by Multiboot with modules: dom0 runs paravirtualised in rings 1 and 3.
if needs "xen" xen-hypervisor-4.17-amd64 && scripts/fetch-guest.sh generic busybox; then
    gunzip -c "$small"/xen-hypervisor-4.17-amd64/boot/xen-4.17-amd64.gz >"$out/xen"
    initrd "$guests/busybox/busybox" "$out/rd64"
    check xen 240 "small-init: x86_64, 1 CPUs" --kernel "$out/xen" --memory 768M \
        --append "console=com1 com1=115200 dom0_mem=300M" \
        --initrd "$guests/generic/vmlinuz console=hvc0 cryptomgr.notests,$out/rd64"
fi

echo "small systems: $ok ok, $failed failed"
[ $failed -eq 0 ] && [ $ok -gt 0 ]
