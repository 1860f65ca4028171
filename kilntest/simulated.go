package kilntest

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kiln/worker/sandbox/sandboxtest"
)

// The variables that say that sandboxes are simulated: how long every invocation takes, and the file in which they are counted.
const (
	SimulatedDuration = "KILN_TEST_SIMULATED"
	SimulatedCounter  = "KILN_TEST_SIMULATED_COUNTER"
)

// simulation is a program of which the sandboxes alone are not real.
type simulation struct {
	program string
	env     []string
	counter *sandboxtest.Counter
}

// StartSimulated runs a node as Start does, of which the sandboxes alone are not real: every invocation takes d, and is answered with its
// event. They are counted by themselves.
func StartSimulated(t testing.TB, d time.Duration, args ...string) (*Node, *sandboxtest.Counter) {
	t.Helper()
	needRoot(t) // which the node itself wants
	s := simulate(t, d)
	n := &Node{t: t, Dir: t.TempDir(), program: s.program, env: s.env, args: args}
	n.Restart()
	t.Cleanup(n.Stop)
	return n, s.counter
}

// StartSimulatedRoles is to StartRoles what StartSimulated is to Start.
func StartSimulatedRoles(t testing.TB, workers int, d time.Duration, args ...string) (*Roles, *sandboxtest.Counter) {
	t.Helper()
	needRoot(t)
	s := simulate(t, d)
	return startRoles(t, workers, s.program, s.env, args), s.counter
}

// simulate builds the tests of cmd/kiln, which are kiln when they are told to.
func simulate(t testing.TB, d time.Duration) simulation {
	t.Helper()
	dir := t.TempDir()
	program, counted := filepath.Join(dir, "kiln.test"), filepath.Join(dir, "counter")
	// With the flags of the tests that run anyway, which leave little to compile.
	cmd := exec.Command("go", append(append([]string{"test", "-c"}, raceFlags()...), "-o", program, "./cmd/kiln")...)
	cmd.Dir = Root(t)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of cmd/kiln: %v\n%s", err, msg)
	}
	c, err := sandboxtest.OpenCounter(counted)
	must(t, err)
	return simulation{program, []string{SimulatedDuration + "=" + d.String(), SimulatedCounter + "=" + counted}, c}
}
