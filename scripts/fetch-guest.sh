#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# fetch-guest.sh NAME...: unmodified guests from the distribution's packages, unpacked (never installed)
# under build/guests/NAME. Needs no root: if apt's own lists do not know a package, lists of our own are
# fetched into build/guests/apt.
#
#   cloud     linux-image-cloud-amd64   -> build/guests/cloud/vmlinuz, .../root/lib/modules
#   generic   linux-image-amd64         -> build/guests/generic/vmlinuz, .../root/lib/modules
#   busybox   busybox-static            -> build/guests/busybox/busybox
set -eu

PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
guests=${GUESTS_DIR:-$top/build/guests}

say() { echo "fetch-guest: $*" >&2; }
die() { say "$*"; exit 1; }

apt_lists=
apt() { # complaints go to $guests/apt.log
    tool=$1
    shift
    if [ -n "$apt_lists" ]; then
        "$tool" -o Dir::State::lists="$apt_lists/lists" -o Dir::Cache="$apt_lists/cache" \
            -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@" 2>"$guests/apt.log"
    else
        "$tool" -o APT::Sandbox::User= "$@" 2>"$guests/apt.log"
    fi
}

trouble=
why() { # the first complaint, in brackets
    [ -s "$guests/apt.log" ] && sed -n '1s/^\([EW]: *\)\{0,1\}\(.*\)/ (\2)/p' "$guests/apt.log"
}

own_lists() {
    [ -z "$apt_lists" ] || return 1
    apt_lists=$guests/apt
    mkdir -p "$apt_lists/lists/partial" "$apt_lists/cache/archives/partial"
    say "fetching package lists into $apt_lists"
    apt apt-get -qq update ||
        die "the package lists can not be fetched; check the network and apt's sources$(why)."
    # Success may be partial, or none at all.
    trouble=$(why) || true
}

# The package that really holds the kernel: linux-image-amd64 only depends on it, on the newest.
resolve() {
    case $1 in
    linux-image-*)
        apt apt-cache depends "$1" |
            sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1 ;;
    *) apt apt-cache show "$1" | sed -n 's/^Package: //p' | head -n 1 ;;
    esac
}

# apt-get leaves what it has of a download that is cut off under its final name: not in debs.
get() { # package directory
    rm -rf "$2/debs.new" "$2/debs"
    mkdir -p "$2/debs.new"
    (cd "$2/debs.new" && apt apt-get -qq download "$1") && mv "$2/debs.new" "$2/debs"
}

download() { # package directory
    real=$(resolve "$1")
    [ -n "$real" ] || { own_lists && real=$(resolve "$1"); } || true
    [ -n "$real" ] || die "no package $1 is known to apt; check the network, and that this is Debian with its main archive$trouble."
    say "downloading $real"
    # Lists that are out of date name a version that the archive has no more.
    get "$real" "$2" || { own_lists && real=$(resolve "$1") && [ -n "$real" ] && get "$real" "$2"; } ||
        die "$real can not be downloaded; check the network$(why)."
}

fetch() { # name package
    dir=$guests/$1
    [ ! -e "$dir/.done" ] || return 0
    for tool in apt-get dpkg-deb; do
        command -v $tool >/dev/null || die "$tool is missing; guests are unpacked from Debian packages."
    done
    mkdir -p "$dir"
    set -- "$1" "$2" "$dir"/debs/*.deb
    [ -e "$3" ] || download "$2" "$dir"
    rm -rf "$dir/root"
    dpkg-deb -x "$dir"/debs/*.deb "$dir/root" 2>"$guests/apt.log" || {
        rm -rf "$dir/debs"
        die "$2 can not be unpacked; try again, it will be downloaded once more$(why)."
    }
}

mkdir -p "$guests" || die "$guests can not be made."
# One at a time: two tests may ask for the same guest.
exec 9>"$guests/.lock"
flock 9

for name in "$@"; do
    case $name in
    cloud | generic)
        [ "$name" = cloud ] && package=linux-image-cloud-amd64 || package=linux-image-amd64
        fetch "$name" "$package"
        [ -e "$guests/$name/.done" ] || {
            cp "$guests/$name"/root/boot/vmlinuz-* "$guests/$name/vmlinuz"
            : >"$guests/$name/.done"
        } ;;
    busybox)
        fetch busybox busybox-static
        [ -e "$guests/busybox/.done" ] || {
            # /bin/busybox, or /usr/bin/busybox where /bin is merged.
            cp "$(find "$guests/busybox/root" -name busybox -type f -perm -u+x | head -n 1)" \
                "$guests/busybox/busybox"
            : >"$guests/busybox/.done"
        } ;;
    *) die "unknown guest '$name'; there are cloud, generic and busybox." ;;
    esac
done
