#!/bin/sh
# Boots a virtual machine whose only control groups are of version 2, by QEMU in software and Debian's kernel, and runs the list of
# checks in test/machine/checks there, with the tree as it is and bin/kiln. Prints their output and one line of result.
# Needs root, go, debootstrap, mke2fs and qemu-system-x86_64. CGROUP2_SECONDS bounds its time (7200), QEMU_ACCEL=kvm makes it faster where
# that works. Leaves a tarball of the machine's root in ${XDG_CACHE_HOME:-/var/cache}/kiln and nothing else.
set -eu

# shellcheck disable=SC2317 # called by the trap
cleanup() {
	trap '' HUP INT PIPE TERM
	[ -z "$child" ] || { kill "$child" 2>/dev/null && wait "$child"; } || true
	rm -rf --one-file-system "$scratch"
}

# programs builds what the checks run and what their tests have built.
programs() {
	while read -r kind first rest; do
		# shellcheck disable=SC2086 # a line is words
		case $kind in
		build)
			mkdir -p "$root/built/$first"
			CGO_ENABLED=0 go build -trimpath -o "$root/built/$first/program" $rest "$first"
			;;
		test) CGO_ENABLED=0 go test -c -o "$root/kiln/${rest%% *}/package.test" "${rest%% *}" ;;
		esac
	done <test/machine/checks
}

cd "$(dirname "$0")/.."
for tool in go debootstrap mke2fs qemu-system-x86_64; do
	command -v "$tool" >/dev/null 2>&1 || { echo "please install $tool" >&2; exit 1; }
done
base=$(sh scripts/base.sh ca-certificates iproute2 linux-image-cloud-amd64 nodejs python3)
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/kiln-cgroup2.XXXXXX")
root=$scratch/root
child=
trap cleanup EXIT
trap 'exit 1' HUP INT PIPE TERM

mkdir "$root"
tar -C "$root" --numeric-owner -xf "$base"
mkdir "$root/kiln"
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf - | tar -C "$root/kiln" -xf -
cp -r bin "$root/kiln/"
install test/machine/init "$root/sbin/kiln-init"
install test/machine/go "$root/usr/local/bin/go"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
programs
truncate -s 8G "$scratch/disk"
mke2fs -q -t ext4 -d "$root" "$scratch/disk"

began=$(date +%s)
timeout --kill-after=10 "${CGROUP2_SECONDS:-7200}" qemu-system-x86_64 \
	-accel "${QEMU_ACCEL:-tcg}" -cpu max -smp 2 -m 3G -nodefaults -display none -no-reboot \
	-kernel "$root/vmlinuz" -initrd "$root/initrd.img" \
	-append "console=ttyS0 root=/dev/vda rw init=/sbin/kiln-init quiet panic=-1 no_timer_check" \
	-drive "file=$scratch/disk,format=raw,if=virtio,cache=unsafe" \
	-serial stdio -serial "file:$scratch/failed" </dev/null &
child=$!
wait "$child" || true
child=
took=$(($(date +%s) - began))
failed=$(tr -d '\r\n' <"$scratch/failed") || true
case $failed in
0) echo "cgroup v2: every check passed, $took s" ;;
'') echo "cgroup v2: the machine ended after $took s without a result" >&2 ;;
*) echo "cgroup v2: $failed of the checks failed, $took s" >&2 ;;
esac
[ "$failed" = 0 ]
