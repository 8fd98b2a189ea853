#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# small_systems.sh [NAME...]: small systems other than today's Linux, each to its sign of success on the
# serial port. They come from the distribution's packages into build/guests/small and are never installed.
# A system whose package can not be had is skipped, and named. DOPPEL: the program (build/doppel).
set -u

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
PATH=$PATH:/usr/sbin:/sbin
doppel=${DOPPEL:-build/doppel}
small=${GUESTS_DIR:-build/guests}/small
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir -p "$small/debs" "$small/apt/lists/partial" "$small/apt/cache/archives/partial"
touch "$small/apt/status"
ok=0 failed=0 skipped=0

# ---- packages ------------------------------------------------------------------------------------

# Lists of our own: they hold i386 as well, and need no root.
own_apt() {
    local tool=$1
    shift
    "$tool" -qq -o Dir::State::lists="$PWD/$small/apt/lists" -o Dir::Cache="$PWD/$small/apt/cache" \
        -o Dir::State::status="$PWD/$small/apt/status" -o APT::Architectures::=amd64 \
        -o APT::Architectures::=i386 -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}

lists() {
    [ -e "$small/apt/.done" ] && return
    own_apt apt-get update >&2
    touch "$small/apt/.done"
}

# package DIRECTORY PACKAGE: unpacks it into $small/DIRECTORY. PACKAGE may end in a pattern for kernels.
package() {
    local dir=$small/$1 name=$2 arch=${2##*:}
    [ -e "$dir/.done" ] && return
    lists
    case $name in
    *'*'*)
        name=$(own_apt apt-cache pkgnames "${name%%\**}" | grep -E "^${name%%\**}[0-9.]+-[0-9]+${name##*\*}\$" |
            sed 's/:.*//' | sort -V | tail -n 1)
        [ -n "$name" ] || return 1
        name=$name:$arch ;;
    esac
    rm -rf "$small/debs/$1" "$dir"
    mkdir -p "$small/debs/$1"
    (d=$PWD && cd "$small/debs/$1" && small=${small#"$d"/} && cd "$d" && own_apt apt-get \
        -o Dir::Cache="$d/$small/apt/cache" download --print-uris "$name") 2>/dev/null |
        sed -n "s/^'\([^']*\)' \([^ ]*\) .*/\1 \2/p" >"$out/uris"
    [ -s "$out/uris" ] || return 1
    (cd "$small/debs/$1" && top_small=$top/$small && "apt-get" -qq \
        -o Dir::State::lists="$top_small/apt/lists" -o Dir::Cache="$top_small/apt/cache" \
        -o Dir::State::status="$top_small/apt/status" -o APT::Architectures::=amd64 \
        -o APT::Architectures::=i386 -o APT::Sandbox::User= -o Debug::NoLocking=1 download "$name") || return 1
    dpkg-deb -x "$small/debs/$1"/*.deb "$dir" && touch "$dir/.done"
}
