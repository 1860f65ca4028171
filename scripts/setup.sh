#!/bin/sh
# Installs what the tests need beside Go: the AWS command line, boto3, the interpreters that functions run on, a C compiler for the race
# detector, what native npm packages are built with. Does nothing, and prints nothing, where all of it is there. Leaves Debian packages.
set -eu

missing=
need() { # need FILE PACKAGE
	[ -e "$1" ] || missing="$missing $2"
}
need /usr/bin/python3 python3
need /usr/lib/python3/dist-packages/boto3 python3-boto3
need /usr/bin/aws awscli
need /usr/include/stdio.h libc6-dev
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v gcc >/dev/null 2>&1 || missing="$missing gcc"
# Where there is npm, AWS's runtime interface client is built with it.
if [ -e /usr/bin/npm ]; then
	need /usr/bin/cmake cmake
	need /usr/bin/xz xz-utils
	command -v g++ >/dev/null 2>&1 || missing="$missing g++"
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "please install these Debian packages:$missing" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
# The time to wait is for another apt that is at work, such as a new machine's first upgrade.
apt() {
	apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}
# A machine that was just made has no lists of packages.
[ -n "$(find /var/lib/apt/lists -name '*Packages*' 2>/dev/null)" ] || apt update

packages=
for package in $missing; do
	# Ubuntu 24.04 has no awscli; all other names are in every release since Debian 12 and Ubuntu 22.04.
	if [ "$package" = awscli ] && ! apt-cache show awscli >/dev/null 2>&1; then
		echo "this release has no package awscli: tests of the AWS command line are skipped" >&2
		continue
	fi
	packages="$packages $package"
done
[ -n "$packages" ] || exit 0
echo "installing:$packages"
# shellcheck disable=SC2086 # a list of words
apt install -y --no-install-recommends $packages || {
	# Lists that are out of date name files that are gone.
	apt update
	apt install -y --no-install-recommends $packages
}
