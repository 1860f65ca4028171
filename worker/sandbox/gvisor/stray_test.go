package gvisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kiln/worker/sandbox"
)

// TestNoSandboxHoldsTheControlOfAnother starts sandboxes at the same time and looks at what each of their processes has open.
func TestNoSandboxHoldsTheControlOfAnother(t *testing.T) {
	dir := t.TempDir()
	e, _ := engine(t, dir)
	spec := sandbox.Spec{Root: root(t), Limits: limits()}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			s := spec
			s.ID = fmt.Sprintf("parallel%d", i)
			g, err := tryStart(e, s)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				if err := g.end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
	wg.Wait()
	owners := listeners(t)
	seen := 0
	for pid, cmdline := range commands(t, "runsc-") {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well formed
		for _, fd := range fds {
			link, err := os.Readlink(fd)
			owner := owners[link]
			if err != nil || owner == "" || !strings.Contains(cmdline, "parallel") {
				continue
			}
			seen++
			if !strings.Contains(cmdline, "/"+owner+"\x00") {
				t.Errorf("process %d (%s) holds the control socket of %s", pid, strings.ReplaceAll(cmdline, "\x00", " "), owner)
			}
		}
	}
	if seen == 0 {
		t.Error("no control socket was seen: the test looks at the wrong place")
	}
}

// TestALauncherMayHaveAnyNumberOfFilesOpen starts so many sandboxes that the launcher has more files open than the number from which on
// gVisor wants a sandbox's standard files.
func TestALauncherMayHaveAnyNumberOfFilesOpen(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	r := root(t)
	var wg sync.WaitGroup
	for i := range 90 {
		wg.Go(func() {
			g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("many%d", i), Root: r, Limits: limits()})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				if err := g.end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
	wg.Wait()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", launcher(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 260 {
		t.Errorf("the launcher has %d files open: the test starts too few sandboxes", len(files))
	}
}

// listeners are the sandboxes' names by their listening sockets, as links in /proc/PID/fd show them.
func listeners(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	owners := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && strings.HasSuffix(fields[7], ".sock") && strings.Contains(fields[7], "parallel") {
			owners["socket:["+fields[6]+"]"] = filepath.Base(filepath.Dir(fields[7]))
		}
	}
	return owners
}

// commands are the command lines of processes that begin so.
func commands(t *testing.T, prefix string) map[int]string {
	t.Helper()
	found := make(map[int]string)
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(text), prefix) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err != nil {
			t.Fatal(err)
		}
		found[pid] = string(text)
	}
	return found
}
