package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"
	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// killTime is how long after the end of a process, or without what a sandbox needs, its caller may wait for an answer.
const killTime = time.Second

// frozenAfter is how long after its answer an environment is frozen, with some patience.
const frozenAfter = 200 * time.Millisecond

// ends are the error types of an invocation or INIT whose sandbox was taken away.
var ends = []string{"Runtime.ExitError", "Runtime.Unknown"}

// wantOwnFault fails the test unless err is an error answer that blames the platform and not the caller, as AWS does with status 500
// or 503, and came soon after begun.
func wantOwnFault(t testing.TB, err error, begun time.Time) {
	t.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != "ServiceException" && e.ErrorCode() != "ServiceUnavailableException" {
		t.Errorf("got %v, want ServiceException or ServiceUnavailableException", err)
	}
	if took := time.Since(begun); took > killTime {
		t.Errorf("the answer %v came after %v", err, took)
	}
}

func TestASandboxWithoutItsKernelOrItsFilesCostsOneCallAtMost(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "sleeps", MemoryMB: 256, Timeout: 20, Zip: program(t, "sleep.py")})
	var groups []string
	for _, k := range []kind{sentry, gofer} {
		// A kernel notices the end of what opened its files a moment later, and only when it is not frozen.
		lost := map[kind]int{sentry: 0, gofer: 1}[k]
		for state, pause := range map[string]time.Duration{"idle": 0, "frozen": frozenAfter} {
			t.Run(string(k)+"/"+state, func(t *testing.T) {
				answer[int](t, n, "sleeps", `0`)
				<-time.After(pause)
				kill(t, n, k)
				losesAtMost(t, n, lost, "sleeps")
			})
		}
		t.Run(string(k)+"/invoke", func(t *testing.T) {
			answer[int](t, n, "sleeps", `0`)
			if waited := killDuring(t, n, k, "sleeps", `10`, ends); waited > killTime {
				t.Errorf("the call that lost its %s was answered %v later", k, waited)
			}
			answer[int](t, n, "sleeps", `0`)
		})
		t.Run(string(k)+"/init", func(t *testing.T) {
			f := "init-" + string(k)
			n.Deploy(t.Context(), kilntest.Function{
				Name: f, MemoryMB: 256, Timeout: 20, Zip: program(t, "sleep.py"), Env: map[string]string{"INIT_SECONDS": "1.5"},
			})
			if waited := killDuring(t, n, k, f, `0`, ends); waited > killTime {
				t.Errorf("the call that lost its %s was answered %v later", k, waited)
			}
			answer[int](t, n, f, `0`)
		})
		groups = append(groups, groupDirs(processesOf(t, n), "pids")...)
	}
	if len(groups) == 0 {
		t.Fatal("no control group was found")
	}
	n.Stop()
	for _, dir := range groups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("left behind: %s", dir)
		}
	}
}

// TestAProcessOfTheGuestWhoseCodeIsTakenAwayIsItsOwnLoss kills what runs the code of the guest's processes. The guest's kernel finds
// it out when such a process is to run next: that may be in the call after, which then fails, and is at its timeout at the latest.
func TestAProcessOfTheGuestWhoseCodeIsTakenAwayIsItsOwnLoss(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "sleeps", MemoryMB: 256, Timeout: 3, Zip: program(t, "sleep.py")})
	late := append([]string{"", "Sandbox.Timedout"}, ends...)
	for state, pause := range map[string]time.Duration{"idle": 0, "frozen": frozenAfter} {
		t.Run(state, func(t *testing.T) {
			answer[int](t, n, "sleeps", `0`)
			<-time.After(pause)
			kill(t, n, stub)
			losesAtMost(t, n, 1, "sleeps")
		})
	}
	for _, event := range []string{`"spin"`, `2`} {
		t.Run("invoke "+event, func(t *testing.T) {
			answer[int](t, n, "sleeps", `0`)
			waited := killDuring(t, n, stub, "sleeps", event, late)
			t.Logf("answered %v later", waited)
			if waited > 3*time.Second {
				t.Errorf("the call was answered %v later, and its timeout is 3 s", waited)
			}
			answer[int](t, n, "sleeps", `0`)
		})
	}
}

// losesAtMost calls a function some times and wants no more of the calls to fail, none but as the end of a sandbox, and the last to
// be answered.
func losesAtMost(t *testing.T, n *kilntest.Node, most int, function string) {
	t.Helper()
	lost, last := 0, ""
	for range 4 {
		if last = failureOf(t, call(t, n, function, `0`)); last == "" {
			continue
		}
		lost++
		if !slices.Contains(ends, last) {
			t.Errorf("a call ended with %q", last)
		}
	}
	if lost > most || last != "" {
		t.Errorf("%d calls were lost, want %d at most; the last ended with %q", lost, most, last)
	}
}

// kill kills the processes of one kind in every sandbox of a node.
func kill(t *testing.T, n *kilntest.Node, k kind) {
	t.Helper()
	found := ofKind(processesOf(t, n), k)
	if len(found) == 0 {
		t.Fatalf("there is no %s to kill", k)
	}
	for _, p := range found {
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			t.Error(err)
		}
	}
}

// killDuring calls a function, kills while it runs, wants it to end with one of those errors, and returns how long that took.
func killDuring(t *testing.T, n *kilntest.Node, k kind, function, payload string, want []string) time.Duration {
	t.Helper()
	var wg sync.WaitGroup
	var out *lambda.InvokeOutput
	var err error
	var answered time.Time
	wg.Go(func() {
		out, err = n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: []byte(payload)})
		answered = time.Now()
	})
	<-time.After(time.Second) // it runs by then
	kill(t, n, k)
	killed := time.Now()
	wg.Wait()
	if err != nil {
		t.Fatalf("the call that lost its %s: %v", k, err)
	}
	if got := failureOf(t, out); !slices.Contains(want, got) {
		t.Errorf("the call that lost its %s ended with %q: %s", k, got, out.Payload)
	}
	return answered.Sub(killed)
}

func TestARuntimeThatKillsItselfIsTold(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "sleeps", MemoryMB: 256, Zip: program(t, "sleep.py")})
	out := call(t, n, "sleeps", `"kill"`)
	if got := failureOf(t, out); got != "Runtime.ExitError" || !strings.Contains(string(out.Payload), "Runtime exited with error: signal: killed") {
		t.Errorf("it ended with %s", out.Payload)
	}
	answer[int](t, n, "sleeps", `0`)
}

// TestABootThatFailsIsTriedOnceMore kills what there is of a sandbox at many moments of its boot.
func TestABootThatFailsIsTriedOnceMore(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 256, Zip: echo(t)})
	answer[int](t, n, "f", `1`)
	step := 10 * time.Millisecond
	if isSoak() {
		step = time.Millisecond
	}
	for after := time.Duration(0); after < 120*time.Millisecond; after += step {
		kill(t, n, sentry)
		var wg sync.WaitGroup
		wg.Go(func() {
			// The kill may come when the function runs already, whose own fault it is then.
			_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`1`)})
			if err != nil {
				t.Errorf("a kill %v after the call: %v", after, err)
			}
		})
		<-time.After(after)
		for _, p := range processesOf(t, n) {
			unix.Kill(p.pid, unix.SIGKILL) // it may have ended
		}
		wg.Wait()
		if got := answer[int](t, n, "f", `2`); got != 2 {
			t.Errorf("the call after it was answered %d", got)
		}
	}
}

// launcherOf finds the process in which the node's sandboxes are started.
func launcherOf(t *testing.T, n *kilntest.Node) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var pid int
		if _, err := fmt.Sscanf(name, "/proc/%d/cmdline", &pid); err == nil && strings.HasPrefix(hostFile(name), "kiln-launcher") && n.IsAncestor(pid) {
			return pid
		}
	}
	t.Fatal("the node has no launcher")
	return 0
}
