package attack

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/kilntest"
)

func TestWhatAFunctionLeavesRunningRestsBetweenInvocations(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "spins", MemoryMB: 512, Timeout: 10, Zip: program(t, "idle.py")})
	answer[map[string]float64](t, n, "spins", `"start"`)
	first := answer[map[string]float64](t, n, "spins", `"look"`)
	if len(first) != 5 {
		t.Fatalf("of three threads and two processes these count: %v", first)
	}
	groups := groupDirs(processesOf(t, n), "cpuacct")
	if len(groups) == 0 {
		t.Fatal("no sandbox was found")
	}
	<-time.After(100 * time.Millisecond) // an idle environment is frozen by then
	before := processorTime(t, groups)
	const rest = 2 * time.Second
	<-time.After(rest)
	if used := processorTime(t, groups) - before; used > rest/1000 {
		t.Errorf("while no invocation ran it used %v of processor time in %v", used, rest)
	}

	// They go on within the next invocation of their own environment, and end with it.
	second := answer[map[string]float64](t, n, "spins", `"look"`)
	for name, at := range first {
		if second[name] <= at {
			t.Errorf("%s has not gone on within the next invocation", name)
		}
	}
	old := ofKind(processesOf(t, n), sentry)
	if got := failureOf(t, call(t, n, "spins", `"hang"`)); got != "Sandbox.Timedout" {
		t.Errorf("the hanging call ended with %q", got)
	}
	if got := answer[map[string]float64](t, n, "spins", `"look"`); len(got) != 0 {
		t.Errorf("after the timeout there still are %v", got)
	}
	for _, p := range old {
		if now, ok := readProcess(p.pid); ok && now.groups["pids"] == p.groups["pids"] {
			t.Errorf("after the timeout process %d of %s still runs", p.pid, p.groups["pids"])
		}
	}
}

// processorTime is what control groups, of whichever version, have used.
func processorTime(t *testing.T, groups []string) time.Duration {
	t.Helper()
	var sum time.Duration
	for _, dir := range groups {
		if text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil {
			sum += nanoseconds(t, string(text), time.Nanosecond)
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
				sum += nanoseconds(t, value, time.Microsecond)
			}
		}
	}
	return sum
}

func nanoseconds(t *testing.T, text string, unit time.Duration) time.Duration {
	t.Helper()
	v, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(v) * unit
}
