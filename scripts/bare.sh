#!/bin/sh
# Runs .ci/run on the committed tree in a bare Debian root that has make, git, certificates and Go but nothing else, so that what
# this machine happens to have is not taken for granted. Only Go itself and its module and build caches are this machine's.
# Needs root, git, go and debootstrap. BARE_SECONDS bounds its time (3600). Leaves a tarball of the root in ${XDG_CACHE_HOME:-/var/cache}/kiln
# and what Go adds to its caches; mounts, processes, control groups and files are gone when it ends, also after a failure or a Ctrl-C.
set -eu

# inside GOROOT GOMODCACHE GOCACHE GROUP runs as the first process of its own mount and PID namespaces, in the directory that becomes
# the root.
inside() {
	mount --bind . .
	cd "$PWD"
	mount --bind "$1" usr/local/go
	mount -o remount,bind,ro usr/local/go
	mount --bind "$2" root/go/pkg/mod
	mount --bind "$3" root/.cache/go-build
	mount -t proc proc proc
	mount --rbind /sys sys
	hierarchies | while read -r hierarchy; do
		mount --bind "$hierarchy/$4" ".$hierarchy"
	done
	devices
	# A chroot would not do: the kernel makes no user namespace, which sandboxes need, for a process whose root is not its namespace's.
	mkdir host
	pivot_root . host
	cd /
	umount -l host
	rmdir host
	update-ca-certificates >/dev/null 2>&1
	export HOME=/root PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	# The build cache remembers results of tests too, which say nothing about this root.
	export GOFLAGS=-count=1
	cd /root/kiln
	status=0
	timeout --kill-after=10 "${BARE_SECONDS:-3600}" bash .ci/run || status=$?
	kill -KILL -1 2>/dev/null || true
	thaw /sys/fs/cgroup
	exit "$status"
}

devices() {
	mount -t tmpfs -o mode=755 dev dev
	for device in null zero full random urandom tty; do
		touch "dev/$device"
		mount --bind "/dev/$device" "dev/$device"
	done
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
	mount -t tmpfs -o mode=1777 shm dev/shm
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	ln -s /proc/self/fd/0 dev/stdin
	ln -s /proc/self/fd/1 dev/stdout
	ln -s /proc/self/fd/2 dev/stderr
}

# hierarchies lists where control groups are mounted: one directory with version 2, one per controller with version 1.
hierarchies() {
	findmnt --raw --noheadings --output TARGET --types cgroup,cgroup2 | grep '^/sys/fs/cgroup'
}

# thaw DIRECTORY lets the frozen processes of version 1 groups run, and so die: with version 2 the dead need not be thawed.
thaw() {
	find "$1" -name freezer.state | while read -r state; do
		# The group may be gone by then, and a hierarchy's own root has no such file to write.
		echo THAWED 2>/dev/null >"$state" || true
	done
}

# own_groups makes a group in every hierarchy, which the root takes for the hierarchy itself: it sees no other sandboxes, and no other
# kiln sees its.
own_groups() {
	hierarchies | while read -r hierarchy; do
		mkdir "$hierarchy/$group"
		for controller in cpu memory pids; do
			grep -qsw "$controller" "$hierarchy/cgroup.controllers" || continue
			echo "+$controller" >"$hierarchy/cgroup.subtree_control"
		done
	done
}

# network makes the root reach its package servers as this machine does.
network() {
	cp /etc/resolv.conf /etc/hosts "$root/etc/"
	apt-config dump Acquire 2>/dev/null | grep -Ei '^Acquire::(https?|Check)' >"$root/etc/apt/apt.conf.d/90host" || true
	for certificate in /usr/local/share/ca-certificates/*.crt; do
		[ ! -e "$certificate" ] || cp "$certificate" "$root/usr/local/share/ca-certificates/"
	done
}

# cleanup ends the PID namespace by its first process. That ends only when all the others have, and the mount namespace with it:
# nothing is mounted below scratch then.
# shellcheck disable=SC2317 # called by the trap
cleanup() {
	trap '' HUP INT PIPE TERM
	if [ -n "$child" ]; then
		first=$(cat "/proc/$child/task/$child/children" 2>/dev/null) || true
		kill -KILL "${first:-$child}" 2>/dev/null || true
		hierarchies | while read -r hierarchy; do thaw "$hierarchy/$group"; done
		wait "$child" || true
	fi
	hierarchies | while read -r hierarchy; do
		[ ! -d "$hierarchy/$group" ] || find "$hierarchy/$group" -depth -type d -exec rmdir {} + || true
	done
	rm -rf --one-file-system "$scratch"
}

if [ "${1:-}" = inside ]; then
	shift
	inside "$@"
fi

here=$(cd "$(dirname "$0")" && pwd)
base=$(sh "$here/base.sh" make git ca-certificates)
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/kiln-bare.XXXXXX")
root=$scratch/root
group=$(basename "$scratch")
child=
trap cleanup EXIT
trap 'exit 1' HUP INT PIPE TERM

mkdir "$root"
tar -C "$root" --numeric-owner -xf "$base"
mkdir -p "$root/usr/local/go" "$root/root/go/pkg/mod" "$root/root/.cache/go-build"
git clone --quiet --no-hardlinks "$(dirname "$here")" "$root/root/kiln"
network
own_groups

modules=$(go env GOMODCACHE)
builds=$(go env GOCACHE)
goroot=$(go env GOROOT)
mkdir -p "$modules" "$builds"
set -- BARE_SECONDS="${BARE_SECONDS:-3600}"
for name in GOPROXY GONOPROXY GOSUMDB GONOSUMDB GOPRIVATE; do
	set -- "$@" "$name=$(go env "$name")"
done
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
	value=$(printenv "$name") || continue
	set -- "$@" "$name=$value"
done

began=$(date +%s)
cd "$root"
env -i PATH="$PATH" "$@" unshare --mount --propagation private --pid --fork --kill-child \
	sh "$here/bare.sh" inside "$goroot" "$modules" "$builds" "$group" &
child=$!
status=0
wait "$child" || status=$?
child=
took=$(($(date +%s) - began))
if [ "$status" = 0 ]; then
	echo "bare: .ci/run passed in $took s"
else
	echo "bare: .ci/run ended with status $status after $took s" >&2
fi
exit "$status"
