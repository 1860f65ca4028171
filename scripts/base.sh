#!/bin/sh
# Prints the path of a tarball of a bare Debian root: debootstrap's minbase and the packages named as arguments.
# It is made once and kept in ${XDG_CACHE_HOME:-/var/cache}/kiln; delete the file to have it made anew. Needs root and debootstrap.
# DEBIAN_MIRROR and DEBIAN_SUITE choose where the packages come from and of which release they are.
set -eu

suite=${DEBIAN_SUITE:-bookworm}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
cache=${XDG_CACHE_HOME:-/var/cache}/kiln
packages=$(printf '%s\n' "$@" | sort -u | paste -sd, -)
tarball=$cache/$suite-$(printf '%s' "$mirror $packages" | sha256sum | cut -c1-16).tar

if [ -e "$tarball" ]; then
	echo "$tarball"
	exit
fi
for tool in debootstrap unshare; do
	command -v "$tool" >/dev/null 2>&1 || { echo "please install $tool" >&2; exit 1; }
done

mkdir -p "$cache"
scratch=$(mktemp -d "$cache/base.XXXXXX")
# debootstrap mounts /proc and /sys below its target: in a mount namespace of its own those are gone before anything is deleted.
trap 'rm -rf --one-file-system "$scratch"' EXIT
trap 'exit 1' HUP INT PIPE TERM

if ! timeout 1800 unshare --mount --propagation private \
	debootstrap --variant=minbase --include="$packages" "$suite" "$scratch/root" "$mirror" >"$scratch/log" 2>&1; then
	tail -n 20 "$scratch/log" >&2
	echo "debootstrap $suite from $mirror did not succeed" >&2
	exit 1
fi
rm -f "$scratch"/root/var/cache/apt/archives/*.deb
tar -C "$scratch/root" --numeric-owner -cf "$scratch/tar" .
mv "$scratch/tar" "$tarball"
echo "$tarball"
