package gvisor_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/gvisor"
)

// killLauncher kills the launcher of the engine that runs in this process, and returns when it has ended.
func killLauncher(t *testing.T) {
	t.Helper()
	pid := launcher(t)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err = unix.EINTR
	for err == unix.EINTR {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func launcher(t *testing.T) int {
	t.Helper()
	for pid := range commands(t, "kiln-launcher") {
		if parent, err := parentOf(pid); err == nil && parent == unix.Getpid() {
			return pid
		}
	}
	t.Fatal("there is no launcher")
	return 0
}

func TestALauncherThatIsKilledIsReplaced(t *testing.T) {
	dir := t.TempDir()
	e, stop := engine(t, dir)
	r := root(t)
	var lost []*guest
	for i := range 2 {
		g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("old%d", i), Root: r, Limits: limits()})
		if err != nil {
			t.Fatal(err)
		}
		lost = append(lost, g)
	}
	if err := lost[0].Freeze(); err != nil {
		t.Fatal(err)
	}
	killLauncher(t)
	for _, g := range lost {
		awaitDone(t, g)
		if err := g.Exit().Err; err == nil || !strings.Contains(err.Error(), "launcher") {
			t.Errorf("a sandbox ended with %v", err)
		}
		if err := g.end(); err != nil {
			t.Error(err)
		}
	}
	g := start(t, e, sandbox.Spec{ID: "new", Root: r, Limits: limits()})
	if got := g.mustDo(t, "echo", "here"); got != "here" {
		t.Errorf("it answers %q", got)
	}
	if got := groups(t, dir); len(got) != 1 {
		t.Errorf("control groups: %v", got)
	}
	if err := g.end(); err != nil {
		t.Error(err)
	}
	stop()
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}

func TestStartsThatLoseTheirLauncherFailAndLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	e, stop := engine(t, dir)
	r := root(t)
	// An engine whose first launcher does not come up ends.
	if err := start(t, e, sandbox.Spec{ID: "first", Root: r, Limits: limits()}).end(); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for round := range 3 { // fewer than make the engine give up
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range 8 {
			wg.Go(func() {
				g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("r%d-%d", round, i), Root: r, Limits: limits()})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					return
				}
				if err := g.end(); err != nil {
					t.Error(err)
				}
			})
		}
		<-time.After(time.Duration(20+40*round) * time.Millisecond) // some of them are under way
		killLauncher(t)
		wg.Wait()
		g := start(t, e, sandbox.Spec{ID: fmt.Sprintf("after%d", round), Root: r, Limits: limits()})
		if got := g.mustDo(t, "echo", "here"); got != "here" {
			t.Errorf("it answers %q", got)
		}
		if err := g.end(); err != nil {
			t.Error(err)
		}
	}
	if failed == 0 {
		t.Error("no start failed: nothing was tested")
	}
	stop()
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}

func TestAnEngineWhoseLaunchersKeepEndingEnds(t *testing.T) {
	if built == "" {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	e, err := gvisor.New(gvisor.Config{Dir: dir, Exe: filepath.Join(built, "kiln-sandbox")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	r := root(t)
	for i := range gvisor.MaxRestarts + 1 {
		g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("s%d", i), Root: r, Limits: limits()})
		if err != nil {
			t.Fatal(err)
		}
		killLauncher(t)
		awaitDone(t, g)
		g.conn.Close()
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "launchers have ended") {
		t.Errorf("the engine ended with %v", err)
	}
	if _, err := e.Start(t.Context(), sandbox.Spec{ID: "late", Root: "/", Args: []string{"/x"}, Limits: limits()}); err == nil {
		t.Error("a stopped engine starts sandboxes")
	}
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}
