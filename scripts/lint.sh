#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rules of the house that a machine can check. Usage: scripts/lint.sh BUILD CHIP-OBJECT...
# (the objects under BUILD/hw, built already; tests/lib and libdoppel.a as well).
set -u
build=$1
shift
bad=0
complain() { echo "lint: $*" >&2; bad=1; }

# Every source says its licence.
for file in $(git ls-files '*.c' '*.h' '*.S' '*.sh' '*.def' '*.mk' Makefile); do
    head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || complain "$file has no SPDX line"
done

# Layers point down only: what each may include, besides system headers and itself.
allow() {
    local layer=$1 pattern=$2 line
    while IFS= read -r line; do
        complain "$line: src/$layer may not include that"
    done < <(grep -rHno '^#include "[^"]*"' "src/$layer" | grep -vE "#include \"($pattern)" || true)
}
allow base 'base/'
allow core 'base/|core/|engine/engine\.h|cpu/model\.h'
allow cpu 'base/|core/|cpu/'
allow engine 'base/|core/|cpu/|engine/'
allow backend 'base/|core/|backend/'
allow hw 'base/|core/|backend/[a-z]+/[a-z]+\.h|hw/'
allow machine 'base/|core/|cpu/|engine/engine\.h|hw/|backend/|machine/'
allow control 'base/|core/|cpu/|engine/engine\.h|hw/(input|acpi)/|backend/|machine/|control/'

# A chip knows no other chip: of hw/ it may include its own header, and PCI functions the PCI ones.
while IFS=: read -r file _ include; do
    stem=$(basename "$file" | sed 's/\.[ch]$//')
    what=$(sed 's/.*"hw\/\(.*\)"/\1/' <<<"$include")
    case $what in
    */"${stem%%_*}".h | */"$stem".h | */"${stem%%_*}"_internal.h | region.h | pci/pci.h | pci/msi.h) ;;
    *) complain "$file includes hw/$what: a chip knows no other chip" ;;
    esac
done < <(grep -rHn '^#include "hw/' src/hw)

# No state outside a struct: two VMs in one process must work. log_level is the operator's, not a VM's.
while IFS= read -r line; do
    complain "$line: mutable file-scope variable"
done < <(objdump -t "$@" "$build"/core/*.o "$build"/cpu/*.o 2>/dev/null |
    awk '/file format/ { file = $1 } NF > 3 && $(NF - 2) ~ /^\.(data|bss)(\.[^r]|$)/ && $(NF - 1) !~ /^0+$/ && / O / { print file, $NF }')

# Each chip links alone against the core and tests/lib.
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
echo 'int main(void) { return 0; }' >"$probe/main.c"
for object in "$@"; do
    case $object in
    */block/nvme*) with="$(ls "$build"/hw/block/nvme*.o) $build/hw/pci/pci.o $build/hw/pci/msi.o" ;;
    */pci/*) with="$build/hw/pci/pci.o $build/hw/pci/msi.o" ;;
    *) with= ;;
    esac
    extra=
    for o in $with; do [ "$o" = "$object" ] || extra="$extra $o"; done
    # shellcheck disable=SC2086
    gcc -o "$probe/a.out" "$probe/main.c" "$object" $extra "$build"/core/*.o "$build"/base/*.o -pthread \
        2>"$probe/log" || { complain "$object does not link alone:"; grep -m 3 'undefined reference' "$probe/log" >&2; }
done

[ $bad -eq 0 ] && echo "lint: clean"
exit $bad
