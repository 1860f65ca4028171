package gvisor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/worker/sandbox"
)

func TestAGuestSeesItsOwnMachine(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	written := t.TempDir()
	g := start(t, e, sandbox.Spec{ID: "view", Root: root(t), Limits: limits(), Mounts: []sandbox.Mount{
		{Source: dir, Target: "/mnt/a"}, {Source: written, Target: "/mnt/b", Writable: true},
	}})
	for _, c := range []struct{ name, want, got string }{
		{"an answer", "hello", g.mustDo(t, "echo", "hello")},
		{"a mounted file", "from the host", g.mustDo(t, "read", "/mnt/a/file")},
		{"a read-only root", "error: open /x: read-only file system", g.mustDo(t, "write", "/x", "x")},
		{"a read-only mount", "error: open /mnt/a/x: read-only file system", g.mustDo(t, "write", "/mnt/a/x", "x")},
		{"a writable mount", "", g.mustDo(t, "write", "/mnt/b/x", "from the guest")},
		{"a writable /tmp", "", g.mustDo(t, "write", "/tmp/x", "x")},
		{"its memory", "MemTotal: 131072 kB; 2 processors; kiln", g.mustDo(t, "machine")},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if text, err := os.ReadFile(filepath.Join(written, "x")); string(text) != "from the guest" {
		t.Errorf("the host reads %q, %v", text, err)
	}
	// The host's devices that come with every mount of /dev are not among them.
	if devices := g.mustDo(t, "list", "/dev"); strings.Contains(devices, "sd") || strings.Contains(devices, "vd") || strings.Contains(devices, "kmsg") {
		t.Errorf("devices: %s", devices)
	}
}

func TestARunningSandboxIsShownAnotherDirectory(t *testing.T) {
	code := t.TempDir()
	if err := os.WriteFile(filepath.Join(code, "file"), []byte("mounted later"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, stop := engine(t, t.TempDir())
	g := start(t, e, sandbox.Spec{ID: "slot", Root: root(t), Limits: limits(), Slot: "/mnt/a"})
	if got := g.mustDo(t, "list", "/mnt/a"); got != "" {
		t.Fatalf("before the mount there is %q", got)
	}
	if err := g.Mount(t.Context(), "task", code); err != nil {
		t.Fatal(err)
	}
	if got := g.mustDo(t, "bind", "/mnt/a/task", "/mnt/b"); got != "" {
		t.Fatalf("bind: %s", got)
	}
	if got := g.mustDo(t, "read", "/mnt/b/file"); got != "mounted later" {
		t.Fatalf("in its place there is %q", got)
	}
	if got := g.mustDo(t, "write", "/mnt/b/file", "x"); !strings.Contains(got, "read-only") {
		t.Errorf("writing to it: %q", got)
	}
	if err := g.Mount(t.Context(), "task", code); err == nil {
		t.Error("a name was used twice")
	}
	if err := g.Mount(t.Context(), "../up", code); err == nil {
		t.Error("a name led out of the slot")
	}
	if err := g.Mount(t.Context(), "opt", code); err != nil {
		t.Errorf("after one that was impossible: %v", err)
	}
	stop()
	if text, err := os.ReadFile(filepath.Join(code, "file")); err != nil || string(text) != "mounted later" {
		t.Fatalf("after the sandbox ended its directory holds %q, %v", text, err)
	}
}

func TestASandboxThatIsKilledLeavesItsMountsUntouched(t *testing.T) {
	code := t.TempDir()
	if err := os.WriteFile(filepath.Join(code, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e, _ := engine(t, t.TempDir())
	g := start(t, e, sandbox.Spec{ID: "killed", Root: root(t), Limits: limits(), Slot: "/mnt/a"})
	if err := g.Mount(t.Context(), "task", code); err != nil {
		t.Fatal(err)
	}
	if err := g.Destroy(); err != nil {
		t.Fatal(err)
	}
	if err := g.Mount(t.Context(), "opt", code); err == nil {
		t.Error("a sandbox that has ended was shown a directory")
	}
	if _, err := os.Stat(filepath.Join(code, "file")); err != nil {
		t.Fatal(err)
	}
}

func TestTheMemoryLimitOfARunningSandboxIsRaised(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	g := start(t, e, sandbox.Spec{ID: "raised", Root: root(t), Limits: sandbox.Limits{MemoryBytes: 32 << 20, TmpBytes: 64 << 20}})
	if err := g.SetMemory(256 << 20); err != nil {
		t.Fatal(err)
	}
	if got := g.mustDo(t, "alloc", "128"); got != "128" {
		t.Fatalf("128 MB of 256: %s", got)
	}
	if u, err := g.Usage(); err != nil || u.PeakMemoryBytes < 128<<20 {
		t.Errorf("it used %+v, %v", u, err)
	}
}

func TestAFrozenSandboxUsesNoProcessor(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	g := start(t, e, sandbox.Spec{ID: "frozen", Root: root(t), Limits: limits()})
	g.mustDo(t, "spin")
	if used := cpuDuring(t, g, 200*time.Millisecond); used < 50*time.Millisecond {
		t.Fatalf("a spinning guest used %v in 200 ms: it does not spin", used)
	}
	if err := errors.Join(g.Freeze(), g.Freeze()); err != nil {
		t.Fatal(err)
	}
	if used := cpuDuring(t, g, 200*time.Millisecond); used != 0 {
		t.Errorf("a frozen guest used %v", used)
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if got := g.mustDo(t, "echo", "awake"); got != "awake" {
		t.Errorf("after thawing it answers %q", got)
	}
}

// cpuDuring is the processor time that a sandbox uses while d passes. There is no event to wait for: what is measured is time.
func cpuDuring(t *testing.T, g *guest, d time.Duration) time.Duration {
	t.Helper()
	before, err := g.Usage()
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(d)
	after, err := g.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return after.CPU - before.CPU
}

func TestTheProcessorShareHolds(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	g := start(t, e, sandbox.Spec{ID: "share", Root: root(t), Limits: limits()})
	g.mustDo(t, "spin")
	for _, share := range []float64{0.5, 0.1} {
		if err := g.SetCPUs(share, 0); err != nil {
			t.Fatal(err)
		}
		used := cpuDuring(t, g, time.Second).Seconds()
		// The machine may be busy, so less is no fault.
		if used > share*1.3+0.02 {
			t.Errorf("with a share of %v it used %.3f of a processor", share, used)
		}
	}
}

func TestAGuestHasItsMemoryAndNoMore(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	neighbour := start(t, e, sandbox.Spec{ID: "neighbour", Root: root(t), Limits: limits()})
	g := start(t, e, sandbox.Spec{ID: "bomb", Root: root(t), Limits: limits()})
	if got := g.mustDo(t, "alloc", "115"); got != "115" {
		t.Fatalf("of 128 MB it cannot have 115: %s", got)
	}
	usage, err := g.Usage()
	if err != nil || usage.PeakMemoryBytes < 110<<20 || usage.PeakMemoryBytes > 128<<20 {
		t.Errorf("with 115 MB in use it is said to use %d MB (%v)", usage.PeakMemoryBytes>>20, err)
	}
	all, err := e.Usage()
	if err != nil || all.MemoryBytes < 110<<20 || all.CPU < usage.CPU || all.OutOfMemory != 0 {
		t.Errorf("all sandboxes are said to use %+v (%v)", all, err)
	}
	if out, err := g.do("alloc", "10000"); err == nil {
		t.Fatalf("it got 10000 MB: %s", out)
	}
	awaitDone(t, g)
	if err := g.Exit().Err; !errors.Is(err, sandbox.ErrKilledByMemory) {
		t.Errorf("it ended with %v", err)
	}
	if got := neighbour.mustDo(t, "echo", "fine"); got != "fine" {
		t.Errorf("its neighbour answers %q", got)
	}
	then, err := e.Usage()
	if err != nil || then.MemoryBytes >= all.MemoryBytes || then.CPU < all.CPU || then.OutOfMemory != 1 {
		t.Errorf("after its end all sandboxes are said to use %+v (%v)", then, err)
	}
}

func awaitDone(t *testing.T, g *guest) {
	t.Helper()
	select {
	case <-g.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the sandbox has not ended")
	}
}

func TestTmpIsBoundedAndNotMemory(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	l := limits()
	l.TmpBytes = 512 << 20
	g := start(t, e, sandbox.Spec{ID: "tmp", Root: root(t), Limits: l})
	if got, want := g.mustDo(t, "fill", "/tmp/big"), "536870912: write /tmp/big: no space left on device"; got != want {
		t.Errorf("filling 512 MB of /tmp with 128 MB of memory: got %q, want %q", got, want)
	}
	if got := g.mustDo(t, "alloc", "100"); got != "100" {
		t.Errorf("with /tmp full it cannot have 100 MB: %s", got)
	}
}

func TestTmpHoldsAsManyFilesAsMemoryBears(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	l := limits()
	l.TmpBytes = 10 << 30
	g := start(t, e, sandbox.Spec{ID: "files", Root: root(t), Limits: l})
	got := g.mustDo(t, "files", "/tmp")
	n, err := strconv.Atoi(strings.SplitN(got, ":", 2)[0])
	if err != nil || n < 30000 || n > 32768 || !strings.HasSuffix(got, "no space left on device") {
		t.Errorf("got %q, want no space after 32768 files", got)
	}
}

func TestProcessesAreBounded(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	l := limits()
	l.MemoryBytes = 1 << 30
	g := start(t, e, sandbox.Spec{ID: "forks", Root: root(t), Limits: l})
	if out := g.mustDo(t, "processes"); !strings.HasSuffix(out, "resource temporarily unavailable") {
		t.Errorf("it stopped with %q", out)
	}
	if got := g.mustDo(t, "echo", "fine"); got != "fine" {
		t.Errorf("with all its processes it answers %q", got)
	}
}

func TestAGuestThatEndsIsSeen(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	g := start(t, e, sandbox.Spec{ID: "ends", Root: root(t), Limits: limits()})
	if out, err := g.do("exit"); err == nil {
		t.Fatalf("it answered %q", out)
	}
	awaitDone(t, g)
	if err := g.Exit().Err; err == nil || errors.Is(err, sandbox.ErrKilledByMemory) || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("it ended with %v", err)
	}
	if usage, err := g.Usage(); err != nil || usage.CPU == 0 {
		t.Errorf("afterwards its use is %+v, %v", usage, err)
	}
}

func TestDestroyEndsAFrozenSandbox(t *testing.T) {
	dir := t.TempDir()
	e, _ := engine(t, dir)
	g := start(t, e, sandbox.Spec{ID: "frozen", Root: root(t), Limits: limits()})
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Destroy(), g.Destroy()); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, g)
	if err := g.Exit().Err; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if left := groups(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAStartThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	e, _ := engine(t, dir)
	start(t, e, sandbox.Spec{ID: "first", Root: root(t), Limits: limits()}).end()
	before := remains(t, dir)
	good := sandbox.Spec{ID: "x", Root: root(t), Args: []string{"/guest"}, Limits: limits()}
	for name, spoil := range map[string]func(*sandbox.Spec){
		"no root":       func(s *sandbox.Spec) { s.Root = "/nonexistent" },
		"no program":    func(s *sandbox.Spec) { s.Args = []string{"/nonexistent"} },
		"no source":     func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/nonexistent", Target: "/mnt/a"}} },
		"bad name":      func(s *sandbox.Spec) { s.ID = "../x" },
		"standard file": func(s *sandbox.Spec) { s.Files = map[int]*os.File{1: os.Stdout} },
		"no memory":     func(s *sandbox.Spec) { s.Limits.MemoryBytes = 0 },
	} {
		s := good
		spoil(&s)
		if _, err := e.Start(t.Context(), s); err == nil {
			t.Errorf("%s: it started", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Millisecond) // amid the start
	defer cancel()
	if _, err := e.Start(ctx, good); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	if after := remains(t, dir); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
}

func TestANameIsTakenOnce(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	first := start(t, e, sandbox.Spec{ID: "twice", Root: root(t), Limits: limits()})
	if _, err := tryStart(e, sandbox.Spec{ID: "twice", Root: root(t), Limits: limits()}); err == nil {
		t.Error("two sandboxes have one name")
	}
	if got := first.mustDo(t, "echo", "here"); got != "here" {
		t.Errorf("the first answers %q", got)
	}
}
