package attack

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// facts is what a function can find out.
type facts struct {
	Found       map[string][]string
	KernelLog   string
	Uname       []string
	Processors  int
	Processes   []int
	MemoryKB    int
	Zone        []string
	Interfaces  []string
	Descriptors map[string]string
	Bytes, Free map[string]int64
	Status      map[string]string
	BootID      string
}

// hostSecrets are facts of this machine that could stand in a file.
func hostSecrets(t *testing.T, n *kilntest.Node) map[string]string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"host name": name, "boot id": hostFile("/proc/sys/kernel/random/boot_id"), "machine id": hostFile("/etc/machine-id"),
		"kernel": unix.ByteSliceToString(kernel.Release[:]), "boot command line": hostFile("/proc/cmdline"), "data directory": n.Dir,
	}
	for line := range strings.Lines(hostFile("/proc/meminfo")) {
		if total, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			secrets["memory"] = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(total), "kB"))
		}
	}
	for name, secret := range secrets {
		if len(secret) < 5 {
			delete(secrets, name) // it would stand somewhere by chance
		}
	}
	return secrets
}

func TestASandboxShowsNoFactsOfTheHost(t *testing.T) {
	n := kilntest.Start(t)
	const memoryMB = 1769
	n.Deploy(t.Context(), kilntest.Function{Name: "looks", MemoryMB: memoryMB, Timeout: 60, Zip: program(t, "facts.py")})
	secrets := hostSecrets(t, n)
	got := answer[facts](t, n, "looks", encode(t, map[string]any{"secrets": secrets, "sizes": []string{"/tmp", "/dev", "/proc", "/", "/usr", "/var/task"}}))
	for name, paths := range got.Found {
		t.Errorf("the host's %s stands in %v", name, paths)
	}
	for name, secret := range secrets {
		if strings.Contains(got.KernelLog, secret) {
			t.Errorf("the kernel's log holds the host's %s", name)
		}
		if slices.Contains(got.Uname, secret) {
			t.Errorf("uname holds the host's %s", name)
		}
	}
	for what, c := range map[string]struct{ got, want any }{
		"name":       {got.Uname[1], "sandbox"},
		"memory":     {got.MemoryKB, memoryMB << 10},
		"processors": {min(got.Processors, 3), 2},
		"processes":  {len(got.Processes), 2},
		"time zone":  {got.Zone, []string{"UTC", "UTC"}},
		"interfaces": {got.Interfaces, []string{"lo"}},
		// Its standard files, the log among them, and the line to the worker.
		"descriptors":   {len(got.Descriptors), 4},
		"capabilities":  {got.Status["CapEff"] + got.Status["CapPrm"] + got.Status["CapBnd"], strings.Repeat("0", 48)},
		"no privileges": {got.Status["NoNewPrivs"], "1"},
		"size of /tmp":  {got.Bytes["/tmp"], 512 << 20},
	} {
		if fmt.Sprint(c.got) != fmt.Sprint(c.want) {
			t.Errorf("its %s: %v, want %v", what, c.got, c.want)
		}
	}
	if size := got.Bytes["/dev"]; size > memoryMB<<20 {
		t.Errorf("/dev has %d bytes, which tells of the host's memory", size)
	}
	n.Deploy(t.Context(), kilntest.Function{Name: "twin", MemoryMB: memoryMB, Timeout: 60, Zip: program(t, "facts.py")})
	twin := answer[map[string]string](t, n, "twin", `{"do":"read","paths":["/proc/sys/kernel/random/boot_id"]}`)
	if strings.TrimSpace(twin["/proc/sys/kernel/random/boot_id"]) == got.BootID {
		t.Error("two sandboxes have one boot id")
	}
	// A function that could read twice how full the host's disk is would learn how fast its neighbours write.
	var disk unix.Statfs_t
	if err := unix.Statfs(n.Dir, &disk); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/usr", "/var/task"} {
		if got.Bytes[dir] == int64(disk.Blocks)*disk.Frsize {
			t.Errorf("%s has the size of the host's disk", dir)
		}
	}
}

func TestNoPathLeadsOutOfASandbox(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "looks", MemoryMB: 512, Timeout: 30, Zip: program(t, "facts.py")})
	const canary = "canary-of-the-host"
	var paths []string
	for _, dir := range []string{"/root", "/tmp", "/var/lib", "/opt", "/run", n.Dir} {
		path := filepath.Join(dir, fmt.Sprintf("kiln-attack-%d", os.Getpid()))
		if err := os.WriteFile(path, []byte(canary), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
		for _, way := range []string{
			"", "/..", "/usr/..", "/usr/lib/../..", "/var/task/..", "/var/task/../../..", "/var/runtime/../../..", "/proc/1/root", "/proc/1/cwd",
			"/proc/self/root", "/proc/self/root/../..", "/proc/self/cwd/../../..", "/proc/self/fd/3/..", "/proc/self/task/1/root", "/dev/fd/..", "/proc/self/map_files/..",
		} {
			paths = append(paths, way+path)
		}
	}
	for path, text := range answer[map[string]string](t, n, "looks", encode(t, map[string]any{"do": "read", "paths": paths})) {
		if strings.Contains(text, canary) {
			t.Errorf("%s is the host's file", path)
		}
	}
}

func TestNoSocketLeadsOutOfASandbox(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "dials", MemoryMB: 256, Timeout: 30, Zip: program(t, "sockets.py")})
	name := fmt.Sprintf("kiln-attack-%d", os.Getpid())
	var addresses []string
	for _, a := range []struct{ network, address string }{
		{"unix", "@" + name}, {"unix", filepath.Join(n.Dir, "socket")}, {"unix", "/run/" + name}, {"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"},
	} {
		l, err := net.Listen(a.network, a.address)
		if err != nil {
			t.Logf("this machine has no %s: %v", a.network, err)
			continue
		}
		defer l.Close()
		addresses = append(addresses, a.network+" "+l.Addr().String())
	}
	if len(addresses) < 4 {
		t.Fatalf("only %v could be listened on", addresses)
	}
	// What the worker keeps for other sandboxes, and where clouds keep what their machines may do.
	sockets, err := filepath.Glob("/run/kiln/*/*/*.sock")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		addresses = append(addresses, "unix "+s)
	}
	addresses = append(addresses, "tcp4 169.254.169.254:80", "tcp4 169.254.170.2:80", "tcp6 [fd00:ec2::254]:80", "tcp4 "+strings.TrimPrefix(n.Endpoint, "http://"))
	for address, said := range answer[map[string]string](t, n, "dials", encode(t, addresses)) {
		if said == "connected" {
			t.Errorf("%s can be reached", address)
		}
	}
}
