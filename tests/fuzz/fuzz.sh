#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh SECONDS TARGET...: runs libFuzzer targets under ASan and UBSan, and prints how many of the lines
# of the files each is about were reached. Fails on a finding, or below 80 % (COVERAGE=0 to only print).
set -u
seconds=$1
shift
build=build/fuzz
want=${COVERAGE:-80}
flags="-std=gnu17 -Isrc -I. -g -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined \
    -fprofile-instr-generate -fcoverage-mapping -Wall -Wextra -pthread"
libs="-lZydis -lseccomp -ljson-c -pthread"
mkdir -p $build

# The files a target is about, by its stem.
files_of() {
    case $1 in
    nvme) echo src/hw/block/nvme*.c ;;
    pci) ls src/hw/pci/*.c | grep -v msi ;;
    bzimage | multiboot | pvh) echo "src/machine/boot/$1.c" ;;
    qmp) echo src/control/qmp.c src/control/ctl.c src/control/commands.c ;;
    decode) echo src/engine/interp/decode.c ;;
    translate) ls src/engine/bt/{form,translate,cache,tlb,run}.c ;;
    *) find src -name "$1.c" ;;
    esac
}

# Its inputs begin with a header, so that short ones say nothing.
options_of() {
    case $1 in
    decode | translate) echo -len_control=0 ;;
    esac
}

# The whole tree once, with coverage and sanitisers, two files at a time. An object bears the time at which
# its compilation began: a header edited meanwhile is newer.
sources=$(git ls-files -co --exclude-standard 'src/*.c' 'tests/lib/*.c' |
    grep -vxE 'src/main.c|tests/lib/(fuzzmain|unit).c')
objects=$(sed "s|^|$build/|; s|c$|o|" <<<"$sources")
for src in $sources; do
    obj=$build/${src%.c}.o
    [ "$obj" -nt "$src" ] &&
        [ -z "$(find src tests/lib \( -name '*.h' -o -name '*.def' \) -newer "$obj" -print -quit)" ] && continue
    mkdir -p "$(dirname "$obj")"
    echo "$src $obj"
done | xargs -r -P 2 -L 1 sh -c "touch \$1.began && clang $flags -c -o \$1 \$0 && touch -r \$1.began \$1" || exit 1
rm -f $build/all.a
# shellcheck disable=SC2086
ar rcs $build/all.a $objects

bad=0
for target in "$@"; do
    bin=$build/$target
    # shellcheck disable=SC2086
    clang $flags -fsanitize=fuzzer -o "$bin" "tests/fuzz/${target}_fuzz.c" $build/all.a $libs || exit 1
    mkdir -p "$build/corpus/$target"
    if ! LLVM_PROFILE_FILE=$bin.profraw timeout $((seconds + 60)) "$bin" -max_total_time="$seconds" \
        -max_len=4096 $(options_of "$target") -artifact_prefix="$build/$target-" -print_final_stats=1 -verbosity=0 \
        "$build/corpus/$target" >"$bin.log" 2>&1; then
        echo "FAIL $target: see $bin.log"
        tail -n 25 "$bin.log"
        bad=1
        continue
    fi
    llvm-profdata merge -o "$bin.prof" "$bin.profraw"
    # shellcheck disable=SC2046
    llvm-cov export -summary-only -instr-profile="$bin.prof" "$bin" $(files_of "$target") |
        python3 -c '
import json, sys
target, want, runs = sys.argv[1], float(sys.argv[2]), sys.argv[3]
data = json.load(sys.stdin)["data"][0]
percent = data["totals"]["lines"]["percent"]
each = ", ".join("%s %.0f %%" % (f["filename"].split("/")[-1], f["summary"]["lines"]["percent"]) for f in data["files"])
print("%s %s: %s runs, %.0f %% of lines (%s)" % ("ok  " if percent >= want else "LOW ", target, runs, percent, each))
sys.exit(percent < want)' "$target" "$want" "$(sed -n 's/stat::number_of_executed_units: *//p' "$bin.log")" || bad=1
done
exit $bad
