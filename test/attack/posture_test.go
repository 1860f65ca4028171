package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// held are the capabilities that each kind of process may have, in a user namespace that owns nothing of the host: those with which
// files are opened whoever owns them, and what each needs to go into its empty root and to run the guest's code.
var held = map[kind]uint64{
	sentry: files | 1<<unix.CAP_SYS_PTRACE,
	gofer:  files | 1<<unix.CAP_SYS_CHROOT,
	stub:   files | 1<<unix.CAP_SYS_PTRACE,
}

const files = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID

// loose are flags of gVisor that open something of the host to a guest, or its memory to a reader of files.
var loose = []string{
	"debug", "profile", "TESTONLY", "host-uds", "host-fifo", "net-raw", "allow-suid", "allow-flag-override", "strace", "nvproxy", "tpuproxy",
	"rdma", "fuse", "--network=host", "--network=sandbox", "gdb", "fdlimit", "save-restore",
}

func TestTheProcessesOfASandboxHaveNoPowerOverTheHost(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 256, Zip: echo(t)})
	answer[int](t, n, "f", `1`)
	all := processesOf(t, n)
	for _, k := range []kind{sentry, gofer, stub} {
		if len(ofKind(all, k)) == 0 {
			t.Errorf("no %s was found", k)
		}
	}
	for _, p := range all {
		t.Run(fmt.Sprintf("%s-%d", p.kind, p.pid), func(t *testing.T) {
			p.checkStatus(t)
			p.checkNamespaces(t)
			p.checkArguments(t)
			if _, err := os.Stat(p.file("root" + canary)); err == nil {
				t.Error("it sees the host's files")
			}
			if environ := hostFile(p.file("environ")); environ != "" {
				t.Errorf("its environment is %q", environ)
			}
			p.checkDescriptors(t, n.Dir)
		})
	}
}

func (p process) file(name string) string { return filepath.Join("/proc", strconv.Itoa(p.pid), name) }

func (p process) checkStatus(t *testing.T) {
	t.Helper()
	if p.status["Seccomp"] != "2" || p.status["NoNewPrivs"] != "1" {
		t.Errorf("Seccomp %s, NoNewPrivs %s; want 2 and 1", p.status["Seccomp"], p.status["NoNewPrivs"])
	}
	if p.status["Groups"] != "" {
		t.Errorf("it has the groups %s", p.status["Groups"])
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		caps, err := strconv.ParseUint(p.status[set], 16, 64)
		if err != nil || caps&^held[p.kind] != 0 {
			t.Errorf("%s is %s, at most %x is right", set, p.status[set], held[p.kind])
		}
	}
}

func (p process) checkNamespaces(t *testing.T) {
	t.Helper()
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
		own, err := os.Readlink(p.file("ns/" + ns))
		host, hostErr := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || hostErr != nil || own == host {
			t.Errorf("its %s namespace is %s, the host's is %s (%v, %v)", ns, own, host, err, hostErr)
		}
	}
}

func (p process) checkArguments(t *testing.T) {
	t.Helper()
	for _, a := range p.args {
		for _, l := range loose {
			if strings.HasPrefix(a, "-") && strings.Contains(a, l) {
				t.Errorf("it was started with %s", a)
			}
		}
	}
	if p.kind == sentry && !slices.Contains(p.args, "--watchdog-action=panic") {
		t.Errorf("a kernel that hangs is not ended: %q", p.args)
	}
}

// checkDescriptors wants nothing open of the host's but what the guest is shown, which lies below /root, what has no name any more,
// and the limits that Go's runtime reads.
func (p process) checkDescriptors(t *testing.T, data string) {
	t.Helper()
	entries, err := os.ReadDir(p.file("fd"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(p.file("fd/" + e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		switch {
		case !strings.HasPrefix(to, "/"), to == "/", to == "/dev/null", strings.HasSuffix(to, " (deleted)"), within(to, "/root"):
		case isReadOnly(p.file("fdinfo/"+e.Name())) && (strings.Contains(to, "/cpu.") || p.kind == gofer && within(to, "/run/kiln")):
		default:
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
		if within(to, data) && !strings.HasSuffix(to, " (deleted)") {
			t.Errorf("descriptor %s is %s, the node's own", e.Name(), to)
		}
	}
}

// isReadOnly reports whether a file was opened for reading only, by the octal flags that /proc tells.
func isReadOnly(fdinfo string) bool {
	for line := range strings.Lines(hostFile(fdinfo)) {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32)
			return err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY
		}
	}
	return false
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
