package attack

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// systemCall is one call that a function makes. An argument is a number, a text, or zeros.
type systemCall struct {
	Name   string `json:"name"`
	Number int    `json:"number"`
	Args   []any  `json:"args"`
	// want are the right ends, separated by spaces.
	want string
}

// zeros is an argument that points to some.
func zeros(n int) []int { return []int{n} }

// dangerous are calls that would reach the host's kernel, its clock, its devices, or the guest's own kernel beyond what a user may.
var dangerous = []systemCall{
	{Name: "bpf", Number: unix.SYS_BPF, Args: []any{0, zeros(128), 128}, want: "EPERM"},
	{Name: "perf_event_open", Number: unix.SYS_PERF_EVENT_OPEN, Args: []any{zeros(128), 0, -1, -1, 0}, want: "ENODEV"},
	{Name: "userfaultfd", Number: unix.SYS_USERFAULTFD, Args: []any{0}, want: "ENOSYS"},
	{Name: "io_uring_setup", Number: unix.SYS_IO_URING_SETUP, Args: []any{8, zeros(256)}, want: "ENOSYS"},
	{Name: "keyctl", Number: unix.SYS_KEYCTL, Args: []any{6, -1}, want: "ENOKEY EPERM"},
	{Name: "add_key", Number: unix.SYS_ADD_KEY, Args: []any{"user", "k", "v", 1, -3}, want: "EACCES"},
	{Name: "ptrace of the guest", Number: unix.SYS_PTRACE, Args: []any{unix.PTRACE_ATTACH, 1, 0, 0}, want: "EPERM"},
	{Name: "memory of the guest", Number: unix.SYS_PROCESS_VM_READV, Args: []any{1, zeros(16), 1, zeros(16), 1, 0}, want: "EPERM"},
	{Name: "descriptor of the guest", Number: unix.SYS_PIDFD_GETFD, Args: []any{0, 3, 0}, want: "ENOSYS EBADF"},
	{Name: "kill of the guest", Number: unix.SYS_KILL, Args: []any{1, 9}, want: "EPERM"},
	{Name: "kcmp", Number: unix.SYS_KCMP, Args: []any{1, 1, 0, 0, 0}, want: "EPERM"},
	{Name: "reboot", Number: unix.SYS_REBOOT, Args: []any{0xfee1dead, 672274793, 0x1234567, 0}, want: "EPERM"},
	{Name: "kexec_load", Number: unix.SYS_KEXEC_LOAD, Args: []any{0, 0, 0, 0}, want: "EPERM"},
	{Name: "init_module", Number: unix.SYS_INIT_MODULE, Args: []any{"x", 1, ""}, want: "EPERM"},
	{Name: "finit_module", Number: unix.SYS_FINIT_MODULE, Args: []any{0, "", 0}, want: "EPERM"},
	{Name: "delete_module", Number: unix.SYS_DELETE_MODULE, Args: []any{"x", 0}, want: "EPERM"},
	{Name: "settimeofday", Number: unix.SYS_SETTIMEOFDAY, Args: []any{zeros(16), 0}, want: "EPERM"},
	{Name: "clock_settime", Number: unix.SYS_CLOCK_SETTIME, Args: []any{0, zeros(16)}, want: "EPERM"},
	{Name: "adjtimex", Number: unix.SYS_ADJTIMEX, Args: []any{zeros(256)}, want: "EPERM"},
	{Name: "sethostname", Number: unix.SYS_SETHOSTNAME, Args: []any{"x", 1}, want: "EPERM"},
	{Name: "swapon", Number: unix.SYS_SWAPON, Args: []any{"/tmp/x", 0}, want: "EPERM"},
	{Name: "acct", Number: unix.SYS_ACCT, Args: []any{"/tmp/x"}, want: "EPERM"},
	{Name: "quotactl", Number: unix.SYS_QUOTACTL, Args: []any{0x80000100, "/dev/vda", 0, 0}, want: "EPERM"},
	{Name: "mount", Number: unix.SYS_MOUNT, Args: []any{"x", "/tmp", "tmpfs", 0, ""}, want: "EPERM"},
	{Name: "remount of the code", Number: unix.SYS_MOUNT, Args: []any{"", "/var/task", "", unix.MS_REMOUNT | unix.MS_BIND, ""}, want: "EPERM"},
	{Name: "umount of the code", Number: unix.SYS_UMOUNT2, Args: []any{"/var/task", unix.MNT_DETACH}, want: "EPERM"},
	{Name: "fsopen", Number: unix.SYS_FSOPEN, Args: []any{"tmpfs", 0}, want: "EPERM"},
	{Name: "open_tree", Number: unix.SYS_OPEN_TREE, Args: []any{-100, "/var/task", 1}, want: "EPERM"},
	{Name: "mount_setattr", Number: unix.SYS_MOUNT_SETATTR, Args: []any{-100, "/var/task", 0, zeros(32), 32}, want: "ENOSYS"},
	{Name: "pivot_root", Number: unix.SYS_PIVOT_ROOT, Args: []any{"/tmp", "/tmp"}, want: "EPERM"},
	{Name: "chroot", Number: unix.SYS_CHROOT, Args: []any{"/tmp"}, want: "EPERM"},
	{Name: "mount namespace", Number: unix.SYS_UNSHARE, Args: []any{unix.CLONE_NEWNS}, want: "EPERM"},
	{Name: "network namespace", Number: unix.SYS_UNSHARE, Args: []any{unix.CLONE_NEWNET}, want: "EPERM"},
	{Name: "block device", Number: unix.SYS_MKNODAT, Args: []any{-100, "/tmp/b", unix.S_IFBLK | 0o600, 8 << 8}, want: "EPERM"},
	{Name: "character device", Number: unix.SYS_MKNODAT, Args: []any{-100, "/tmp/c", unix.S_IFCHR | 0o600, 1<<8 | 1}, want: "EPERM"},
	{Name: "open_by_handle_at", Number: unix.SYS_OPEN_BY_HANDLE_AT, Args: []any{-100, zeros(32), 0}, want: "EOPNOTSUPP ENOTSUP EPERM"},
	{Name: "fanotify_init", Number: unix.SYS_FANOTIFY_INIT, Args: []any{0, 0}, want: "ENOSYS EPERM"},
	{Name: "user 0", Number: unix.SYS_SETUID, Args: []any{0}, want: "EPERM"},
	{Name: "group 0", Number: unix.SYS_SETGID, Args: []any{0}, want: "EPERM"},
	{Name: "groups", Number: unix.SYS_SETGROUPS, Args: []any{0, 0}, want: "EPERM"},
	{Name: "more open files", Number: unix.SYS_PRLIMIT64, Args: []any{0, unix.RLIMIT_NOFILE, "\x00\x10" + strings.Repeat("\x00", 7) + "\x10" + strings.Repeat("\x00", 6), 0}, want: "EPERM"},
	{Name: "limits of the guest", Number: unix.SYS_PRLIMIT64, Args: []any{1, unix.RLIMIT_NOFILE, zeros(16), 0}, want: "EPERM"},
	{Name: "real-time scheduling", Number: unix.SYS_SCHED_SETSCHEDULER, Args: []any{0, unix.SCHED_FIFO, "\x01" + strings.Repeat("\x00", 7)}, want: "EINVAL EPERM"},
	{Name: "packet socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_PACKET, unix.SOCK_RAW, 0}, want: "EPERM"},
	{Name: "raw socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_INET, unix.SOCK_RAW, 1}, want: "EPERM"},
	{Name: "raw IPv6 socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_INET6, unix.SOCK_RAW, 58}, want: "EPERM"},
	{Name: "socket to the hypervisor", Number: unix.SYS_SOCKET, Args: []any{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, want: "EAFNOSUPPORT"},
	{Name: "kernel crypto socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, want: "EAFNOSUPPORT"},
	{Name: "Bluetooth socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_BLUETOOTH, unix.SOCK_RAW, 1}, want: "EAFNOSUPPORT"},
	{Name: "netfilter socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, want: "EPROTONOSUPPORT"},
	{Name: "express data path socket", Number: unix.SYS_SOCKET, Args: []any{unix.AF_XDP, unix.SOCK_RAW, 0}, want: "EAFNOSUPPORT"},
}

func TestDangerousSystemCallsAreRefused(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "calls", MemoryMB: 1769, Timeout: 60, Zip: program(t, "syscalls.py")})
	got := answer[map[string]string](t, n, "calls", encode(t, dangerous))
	for _, c := range dangerous {
		if !slices.Contains(strings.Fields(c.want), got[c.Name]) {
			t.Errorf("%s: %s, want %s", c.Name, got[c.Name], c.want)
		}
	}
	// The environment is as it was.
	if again := answer[map[string]string](t, n, "calls", `[]`); len(again) != 0 {
		t.Errorf("afterwards it answers %v", again)
	}
}
