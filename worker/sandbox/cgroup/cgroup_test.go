package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unified is where a machine with both versions mounts the second, without most of its controllers.
const unified = mountpoint + "/unified"

// family starts a process with a child and returns when both run.
func family(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo ready; wait")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }) // for a test that failed
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// trees are the trees that this machine can have, by version.
func trees(t *testing.T) map[string]*Tree {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	found := make(map[string]*Tree)
	tree, err := OpenTree(fmt.Sprintf("test%d", os.Getpid()))
	if err != nil {
		t.Skipf("this machine lacks control groups: %v", err)
	}
	version, _ := Version()
	found[fmt.Sprintf("version %d", version)] = tree
	if _, err := os.Stat(filepath.Join(unified, "cgroup.procs")); err == nil && version == 1 {
		found["version 2 without controllers"] = &Tree{layout: v2{unified}, name: tree.name}
		if err := os.MkdirAll(filepath.Join(unified, tree.name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for name, tree := range found {
			if err := tree.Remove(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	return found
}

// bare makes a group without limits.
func bare(t *testing.T, tree *Tree, name string) *Group {
	t.Helper()
	g := tree.Group(name)
	for _, dir := range g.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestAGroupHoldsAProcessAndItsChildren(t *testing.T) {
	for version, tree := range trees(t) {
		t.Run(version, func(t *testing.T) {
			g, parent := bare(t, tree, "family"), family(t)
			if err := g.Add(parent.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if pids, err := g.Processes(); err != nil || len(pids) != 2 {
				t.Errorf("it holds %v, %v, want parent and child", pids, err)
			}
			for range 2 {
				if err := g.Freeze(); err != nil {
					t.Fatal(err)
				}
			}
			// Killed while frozen.
			if err := g.Kill(); err != nil {
				t.Fatal(err)
			}
			parent.Wait()
			if err := g.Remove(); err != nil {
				t.Fatal(err)
			}
			if err := g.Remove(); err != nil {
				t.Errorf("removing what is gone: %v", err)
			}
			if err := g.Kill(); err != nil {
				t.Errorf("killing what is gone: %v", err)
			}
		})
	}
}

func TestSweepEndsWhatIsFrozen(t *testing.T) {
	for version, tree := range trees(t) {
		t.Run(version, func(t *testing.T) {
			g, parent := bare(t, tree, "left"), family(t)
			bare(t, tree, "empty")
			if err := g.Add(parent.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if err := g.Freeze(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- parent.Wait() }()
			n, err := tree.Sweep(t.Context())
			if err != nil || n != 2 {
				t.Errorf("swept %d groups, %v, want 2", n, err)
			}
			<-ended
			if n, err := tree.Sweep(t.Context()); err != nil || n != 0 {
				t.Errorf("then swept %d groups, %v, want none", n, err)
			}
		})
	}
}

func TestLimitsAreThoseThatTheKernelHas(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	tree, err := OpenTree(fmt.Sprintf("limits%d", os.Getpid()))
	if err != nil {
		t.Skipf("this machine lacks control groups: %v", err)
	}
	defer tree.Remove()
	g, err := tree.Create("a", Limits{MemoryBytes: 64<<20 + 1, CPUs: 0.07, Weight: 100, Tasks: 50})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Remove()
	if _, err := tree.Create("a", Limits{MemoryBytes: 1 << 20, Weight: 1, Tasks: 1}); err == nil {
		t.Error("a second group has the name of the first")
	}
	if err := g.SetCPUs(0, 10_000); err != nil {
		t.Errorf("no limit of the processor: %v", err)
	}
	if err := g.limit(Limits{MemoryBytes: 1 << 20, Weight: 1, Tasks: 1 << 40}); err == nil {
		t.Error("a limit that the kernel did not take is none to rely on")
	}
	for _, bytes := range []int64{8 << 20, 64 << 20, 16 << 20} {
		if err := g.SetMemory(bytes); err != nil {
			t.Errorf("memory changed to %d: %v", bytes, err)
		}
	}
	m, err := g.Memory()
	if err != nil || m.Peak < m.Current {
		t.Errorf("memory %+v, %v", m, err)
	}
	if peak := gauge(t, g); peak != m.Peak {
		t.Errorf("the gauge says %d of %+v", peak, m)
	}
	if oom, err := g.OutOfMemory(); err != nil || oom {
		t.Errorf("out of memory: %v, %v", oom, err)
	}
}

// gauge reads the gauge of a group twice, as whoever keeps it does.
func gauge(t *testing.T, g *Group) int64 {
	t.Helper()
	peak, err := g.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer peak.Close()
	first, err1 := peak.Read()
	second, err2 := peak.Read()
	if err1 != nil || err2 != nil || second < first {
		t.Errorf("the gauge said %d, %v and then %d, %v", first, err1, second, err2)
	}
	return second
}

// What version 2 writes and reads, with files in place of the kernel.
func TestVersion2SpeaksItsLanguage(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "", "a/memory.max": "", "a/memory.oom.group": "",
		"a/memory.swap.max": "", "a/cpu.max": "", "a/cpu.weight": "", "a/pids.max": "", "a/memory.current": "4096\n", "a/memory.peak": "8192\n",
		"a/memory.stat": "anon 1\nactive_file 1024\ninactive_file 512\n", "a/cpu.stat": "usage_usec 1500\nuser_usec 1\n",
		"a/memory.events": "oom 3\noom_kill 2\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &Group{layout: v2{root}, path: "a"}
	if _, missing := g.layout.lacks(); len(missing) > 0 {
		t.Errorf("it misses %v", missing)
	}
	if err := g.limit(Limits{MemoryBytes: 1 << 20, CPUs: 0.5, Weight: 25, Tasks: 7}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory.max": "1048576", "memory.oom.group": "1", "memory.swap.max": "0", "cpu.max": "10000 20000", "cpu.weight": "25", "pids.max": "7"} {
		if text, err := os.ReadFile(filepath.Join(root, "a", name)); err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("%s is %q, %v, want %q", name, text, err, want)
		}
	}
	if m, err := g.Memory(); err != nil || m != (Memory{Current: 4096, Peak: 8192, Cache: 1536}) {
		t.Errorf("memory %+v, %v", m, err)
	}
	if peak := gauge(t, g); peak != 8192 {
		t.Errorf("the gauge says %d", peak)
	}
	if d, err := g.CPU(); err != nil || d != 1500*time.Microsecond {
		t.Errorf("processor %v, %v", d, err)
	}
	if oom, err := g.OutOfMemory(); err != nil || !oom {
		t.Errorf("out of memory: %v, %v", oom, err)
	}
}

// BenchmarkUsage is what a scrape of the metrics pays, with one group and with many.
func BenchmarkUsage(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	for _, n := range []int{1, 300} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tree, err := OpenTree(fmt.Sprintf("usage%d", os.Getpid()))
			if err != nil {
				b.Skipf("this machine lacks control groups: %v", err)
			}
			defer func() {
				if _, err := tree.Sweep(b.Context()); err != nil {
					b.Error(err)
				}
				if err := tree.Remove(); err != nil {
					b.Error(err)
				}
			}()
			for i := range n {
				if _, err := tree.Create(fmt.Sprint(i), Limits{MemoryBytes: 1 << 20, Weight: 1, Tasks: 1}); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if _, err := tree.Usage(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
