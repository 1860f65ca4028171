package gvisor_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
)

// killProcess kills the process of a sandbox whose command line begins so.
func killProcess(t *testing.T, id, prefix string) {
	t.Helper()
	found := commands(t, prefix)
	for pid, cmdline := range found {
		parent, err := parentOf(pid)
		if err != nil || !strings.Contains(cmdline, "/"+id+"\x00") || found[parent] != "" {
			continue // the guest's kernel forks processes of the same command line
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("sandbox %s has no %s", id, prefix)
}

func parentOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nPPid:\t")
	parent, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(parent)
}

// processes are those that a sandbox cannot be without.
var processes = []string{"runsc-sandbox", "runsc-gofer"}

func TestASandboxEndsWithEitherOfItsProcesses(t *testing.T) {
	dir := t.TempDir()
	e, stop := engine(t, dir)
	r := root(t)
	for _, p := range processes {
		g := start(t, e, sandbox.Spec{ID: p, Root: r, Limits: limits()})
		killProcess(t, p, p)
		awaitDone(t, g)
		if err := g.Exit().Err; err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("%s was killed, and the sandbox ended with %v", p, err)
		}
	}
	stop()
	if left := remains(t, dir); left != nothing {
		t.Errorf("left: %s", left)
	}
}

func TestASandboxThatLostAProcessWhileFrozenDoesNotRunAgain(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	r := root(t)
	for _, p := range processes {
		g := start(t, e, sandbox.Spec{ID: p, Root: r, Limits: limits()})
		if err := g.Freeze(); err != nil {
			t.Fatal(err)
		}
		killProcess(t, p, p)
		if err := g.Thaw(); !errors.Is(err, sandbox.ErrEnded) {
			t.Errorf("%s was killed, and the sandbox thaws: %v", p, err)
		}
		awaitDone(t, g)
		if g.Exit().Err == nil {
			t.Error("the sandbox ended without an error")
		}
	}
}
