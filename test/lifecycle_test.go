package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// processesOf are the processes of the node's sandboxes of that name, "runsc-sandbox" or "runsc-gofer".
func processesOf(t *testing.T, n *kilntest.Node, name string) []int {
	t.Helper()
	var pids []int
	for p := range tracesOf(t).processes {
		number, is, _ := strings.Cut(p, " ")
		pid, err := strconv.Atoi(number)
		if err == nil && is == name && n.IsAncestor(pid) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Fatalf("the node has no %s", name)
	}
	return pids
}

// kernelsOf are the kernels of the node's sandboxes, without the processes that these have forked.
func kernelsOf(t *testing.T, n *kilntest.Node) []int {
	t.Helper()
	all := processesOf(t, n, "runsc-sandbox")
	return slices.DeleteFunc(slices.Clone(all), func(pid int) bool {
		return slices.ContainsFunc(all, func(parent int) bool {
			text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
			return err != nil || strings.Contains(string(text), fmt.Sprintf("\nPPid:\t%d\n", parent))
		})
	})
}

func killAll(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
	}
}

// awaitAnyEnd waits for the end of one of those processes.
func awaitAnyEnd(t *testing.T, pids []int) {
	t.Helper()
	var polled []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, err = unix.Poll(polled, 30_000)
	}
	if n == 0 || err != nil {
		t.Fatalf("none of %d processes has ended: %v", len(pids), err)
	}
}

// groupsOf are the directories of the control groups of a node's sandboxes.
func groupsOf(t *testing.T, pids []int) []string {
	t.Helper()
	var dirs []string
	for _, pid := range pids {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 && strings.HasPrefix(parts[2], "/kiln/") {
				dirs = append(dirs, filepath.Join("/sys/fs/cgroup", parts[1], parts[2]))
			}
		}
	}
	return dirs
}

func TestASandboxThatLosesAProcessWhileItIsIdleCostsNoCall(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 20, Zip: python(t, sleeper)})
	for _, name := range []string{"runsc-sandbox", "runsc-gofer"} {
		for state, pause := range map[string]time.Duration{"awake": 0, "frozen": 200 * time.Millisecond} {
			t.Run(name+"/"+state, func(t *testing.T) {
				value[float64](t, n, "f", `0`)
				pids := processesOf(t, n, name)
				<-time.After(pause)
				killAll(t, pids)
				<-time.After(100 * time.Millisecond) // a frozen process does not end: there is nothing to wait for
				value[float64](t, n, "f", `0`)
			})
		}
	}
}

func TestALauncherThatIsKilledDoesNotEndTheNode(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 20, Zip: python(t, sleeper)})
	value[float64](t, n, "f", `0`)
	sandboxes := processesOf(t, n, "runsc-sandbox")
	groups := groupsOf(t, sandboxes)
	if len(groups) == 0 {
		t.Fatal("no control group was found: the test looks in the wrong place")
	}
	lost := make(chan failure, 1) // one value, so that its sender never waits
	go func() {
		f, _ := fails(t, n, "f", `10`)
		lost <- f
	}()
	<-time.After(500 * time.Millisecond) // the call is in the function by then
	killAll(t, []int{launcherOf(t, n)})
	if f := <-lost; f.ErrorType != "Runtime.ExitError" {
		t.Errorf("the call that lost its launcher: %+v", f)
	}
	for range 3 {
		value[float64](t, n, "f", `0`)
	}
	for _, pid := range sandboxes {
		if tracesOf(t).processes[strconv.Itoa(pid)+" runsc-sandbox"] {
			t.Errorf("sandbox %d still runs", pid)
		}
	}
	for _, dir := range groups {
		if isThere(dir) {
			t.Errorf("left behind: %s", dir)
		}
	}
	n.Stop()
	for _, dir := range groups {
		if tree := filepath.Dir(dir); isThere(tree) {
			t.Errorf("left behind by both launchers: %s", tree)
		}
	}
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestIdleEnvironmentsEndAfterTheirTime(t *testing.T) {
	for _, flag := range []string{"--idle-timeout", "--max-age"} {
		t.Run(flag, func(t *testing.T) {
			n := kilntest.Start(t, flag, "2s")
			n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, "import uuid\nme = str(uuid.uuid4())\ndef handler(event, context):\n    return me\n")})
			first := value[string](t, n, "f", `1`)
			if again := value[string](t, n, "f", `1`); again != first {
				t.Errorf("the environment ended at once")
			}
			awaitAnyEnd(t, kernelsOf(t, n)) // those that wait for functions stay
			if again := value[string](t, n, "f", `1`); again == first {
				t.Errorf("another sandbox ended")
			}
		})
	}
}
