#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# install-deps.sh KIND...: makes sure that what doppel needs from the distribution is there. Names the
# packages that are missing before it installs them, as root or through sudo; NO_INSTALL=1, or no way to
# become root, and it only names them and fails. Asks for nothing if nothing is missing.
#
#   build  to build doppel        guests  to fetch and pack guests (make demo, e2e)
#   test   for make check         fuzz    for make fuzz
#   fmt    for make fmt           bench  for make bench, besides build and guests
set -eu

PATH=$PATH:/usr/sbin:/sbin

say() { echo "doppel: $*" >&2; }

missing=
need() { # package, then a test that says whether it is there
    package=$1
    shift
    "$@" >/dev/null 2>&1 || case " $missing " in
    *" $package "*) ;;
    *) missing="$missing $package" ;;
    esac
}
program() { need "$2" command -v "$1"; }
fuzzer() { echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | clang -fsanitize=fuzzer -x c -o /dev/null -; }
header() { need "$2" test -e "/usr/include/$1" -o -e "/usr/include/$(uname -m)-linux-gnu/$1"; }

for kind in "${@:-build}"; do
    case $kind in
    build)
        program gcc gcc
        header stdio.h libc6-dev
        program make make
        header Zydis/Zydis.h libzydis-dev
        header seccomp.h libseccomp-dev
        header json-c/json.h libjson-c-dev ;;
    guests)
        program cpio cpio
        program gzip gzip
        program depmod kmod
        program mke2fs e2fsprogs
        program apt-get apt ;;
    test)
        header cmocka.h libcmocka-dev
        program objcopy binutils
        program python3 python3 ;;
    fuzz)
        program clang clang
        need libclang-rt-dev fuzzer
        program llvm-cov llvm
        program python3 python3 ;;
    bench)
        program musl-gcc musl-tools
        program python3 python3 ;;
    fmt)
        program clang-format clang-format ;;
    *)
        say "install-deps.sh: unknown kind '$kind'; there are build, guests, test, fuzz, fmt and bench."
        exit 2 ;;
    esac
done

[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null; then
    root=sudo
else
    root=none
fi
if ! command -v apt-get >/dev/null; then
    say "these packages (Debian's names) are missing:$missing"
    say "install what your distribution calls them and try again."
    exit 1
fi
if [ -n "${NO_INSTALL:-}" ] || [ "$root" = none ]; then
    say "these packages are missing:$missing"
    say "install them as root and try again: apt-get install$missing"
    exit 1
fi
say "these packages are missing and will be installed${root:+ with sudo}:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
        >"$log" 2>&1
}
# The lists may be missing or out of date.
install || {
    $root apt-get update -qq >"$log" 2>&1 || true
    reason=$(cat "$log")
    install
} || {
    [ -n "$reason" ] || reason=$(cat "$log")
    reason=$(echo "$reason" | sed -n '/^[EW]: /{s/^[EW]: *//p;q}')
    say "they can not be installed${reason:+ ($reason)}."
    say "check the network and apt's sources, or try: apt-get update && apt-get install$missing"
    exit 1
}
