#!/bin/sh
# Installs what the tests need beside Go: the AWS command line, boto3, the interpreters that functions run on.
set -eu

missing=""
need() { # need FILE PACKAGE
	[ -e "$1" ] || missing="$missing $2"
}
need /usr/bin/aws awscli
need /usr/lib/python3/dist-packages/boto3 python3-boto3
need /usr/bin/python3 python3
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v gcc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "please install these Debian packages:$missing" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends $missing >/dev/null
