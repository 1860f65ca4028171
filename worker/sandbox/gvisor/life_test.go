package gvisor_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/gvisor"
)

// holderDir, in the environment, makes this test's binary hold sandboxes with that directory until it is killed; holderBuilt and
// holderRoot are where it finds what it needs.
const (
	holderDir   = "KILN_TEST_HOLDER_DIR"
	holderBuilt = "KILN_TEST_HOLDER_BUILT"
	holderRoot  = "KILN_TEST_HOLDER_ROOT"
)

// hold starts three sandboxes, freezes one, says so, and waits for its end.
func hold(dir string) int {
	built = os.Getenv(holderBuilt)
	e, err := gvisor.New(gvisor.Config{Dir: dir, Exe: filepath.Join(built, "kiln-sandbox")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go e.Run(context.Background()) // killed with the process
	for i := range 3 {
		g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("held%d", i), Root: os.Getenv(holderRoot), Limits: limits()})
		if err == nil && i == 1 {
			err = g.Freeze()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// startHolder returns a process that holds sandboxes.
func startHolder(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	if built == "" {
		t.Skip("needs root")
	}
	holder := exec.Command("/proc/self/exe")
	holder.Env = append(os.Environ(), holderDir+"="+dir, holderBuilt+"="+built, holderRoot+"="+root(t))
	holder.Stderr = os.Stderr
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		holder.Process.Kill()
		t.Fatalf("the holder says %q, %v", line, err)
	}
	return holder
}

func TestSandboxesEndWithAKilledKiln(t *testing.T) {
	dir := t.TempDir()
	holder := startHolder(t, dir)
	if got := len(groups(t, dir)); got != 3 {
		t.Fatalf("there are %d sandboxes, want 3", got)
	}
	holder.Process.Kill()
	holder.Wait()
	// The launcher holds the lock until it is done.
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}

func TestTheNextStartSweepsWhatTwoKillsLeft(t *testing.T) {
	dir := t.TempDir()
	holder := startHolder(t, dir)
	launcher := childOf(t, holder.Process.Pid)
	// Stopped, it cannot see kiln's end before its own.
	for _, step := range []func() error{
		func() error { return unix.Kill(launcher, unix.SIGSTOP) },
		holder.Process.Kill,
		func() error { return unix.Kill(launcher, unix.SIGKILL) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	holder.Wait()
	if got := len(groups(t, dir)); got != 3 {
		t.Fatalf("of the sandboxes' control groups %d are left, want all 3", got)
	}
	e, stop := engine(t, dir)
	g := start(t, e, sandbox.Spec{ID: "held1", Root: root(t), Limits: limits()})
	if got := g.mustDo(t, "echo", "again"); got != "again" {
		t.Errorf("it answers %q", got)
	}
	if got := groups(t, dir); len(got) != 1 {
		t.Errorf("control groups: %v", got)
	}
	stop()
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}

func TestADirectoryHasOneEngine(t *testing.T) {
	dir := t.TempDir()
	e, _ := engine(t, dir)
	start(t, e, sandbox.Spec{ID: "first", Root: root(t), Limits: limits()})
	second, err := gvisor.New(gvisor.Config{Dir: dir, Exe: filepath.Join(built, "kiln-sandbox")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := second.Run(ctx); err == nil || !strings.Contains(err.Error(), "another kiln") {
		t.Errorf("got %v", err)
	}
}

func TestALauncherOutlivesASignalToItsService(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	r := root(t)
	start(t, e, sandbox.Spec{ID: "first", Root: r, Limits: limits()})
	if err := unix.Kill(childOf(t, os.Getpid()), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g := start(t, e, sandbox.Spec{ID: "second", Root: r, Limits: limits()})
	if got := g.mustDo(t, "echo", "here"); got != "here" {
		t.Errorf("it answers %q", got)
	}
}

func TestSandboxesLeaveNothingBehind(t *testing.T) {
	dir := t.TempDir()
	e, stop := engine(t, dir)
	r := root(t)
	cycle := func(i int) {
		g := start(t, e, sandbox.Spec{ID: fmt.Sprintf("cycle%d", i), Root: r, Limits: limits(), Mounts: []sandbox.Mount{{Source: r, Target: "/mnt/a"}}})
		g.mustDo(t, "write", "/tmp/x", "x")
		if i%2 == 0 {
			if err := g.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.end(); err != nil {
			t.Fatal(err)
		}
	}
	cycle(0)
	before, open := remains(t, dir), descriptors()
	for i := range 20 {
		cycle(i + 1)
	}
	if after := remains(t, dir); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	// gVisor closes some files of a sandbox a moment after its end.
	if after := descriptors(); after > open+8 {
		t.Errorf("there are %d descriptors open, before there were %d", after, open)
	}
	stop()
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}

// descriptors counts what this process and its launcher have open. Those of processes are left out: Go leaves them to the garbage
// collector if nobody waits for the process by its means, as gVisor does not.
func descriptors() int {
	launcher, _ := firstChild(os.Getpid())
	n := 0
	for _, pid := range []int{os.Getpid(), launcher} {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well formed
		for _, f := range files {
			if to, err := os.Readlink(f); err == nil && to != "anon_inode:[pidfd]" {
				n++
			}
		}
	}
	return n
}

// nothing is what remains of an engine that has ended.
const nothing = "groups [], processes 0, mounts 0, files [], /var/run []"

// remains describes what there is on this machine of a directory's sandboxes.
func remains(t *testing.T, dir string) string {
	t.Helper()
	processes := 0
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	for _, c := range commands {
		if text, err := os.ReadFile(c); err == nil && strings.HasPrefix(string(text), "runsc-") && strings.Contains(string(text), gvisor.TreeName(dir)) {
			processes++
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*/*"))
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := filepath.Glob("/var/run/runsc-*")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("groups %v, processes %d, mounts %d, files %v, /var/run %v", groups(t, dir), processes, strings.Count(string(mounts), dir), files, sockets)
}

// groups lists the control groups of a directory's sandboxes, of whichever version.
func groups(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for _, root := range []string{"/sys/fs/cgroup/*/kiln", "/sys/fs/cgroup/kiln"} {
		files, err := filepath.Glob(filepath.Join(root, gvisor.TreeName(dir), "*/cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			found = append(found, filepath.Base(filepath.Dir(f)))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	child, err := firstChild(pid)
	if err != nil {
		t.Fatal(err)
	}
	return child
}

func firstChild(pid int) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		if first := strings.Fields(string(text)); len(first) > 0 {
			return strconv.Atoi(first[0])
		}
	}
	return 0, fmt.Errorf("process %d has no children", pid)
}

func TestTheFiltersAreThoseOfThisGVisor(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("there are none for " + runtime.GOARCH)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "gvisor.dev/gvisor").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(out)); gvisor.FiltersVersion != want {
		t.Errorf("the filters are of gVisor %s, not of %s: run go generate", gvisor.FiltersVersion, want)
	}
}
