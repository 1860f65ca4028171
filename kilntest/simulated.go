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

// Simulated is kiln with sandboxes that are not real; everything else is.
type Simulated struct{ program string }

// BuildSimulated builds the tests of cmd/kiln, which are kiln when they are told to. The test is skipped without root, which a node wants.
func BuildSimulated(t testing.TB) *Simulated {
	t.Helper()
	needRoot(t)
	program := filepath.Join(t.TempDir(), "kiln.test")
	// With the flags of the tests that run anyway, which leave little to compile.
	cmd := exec.Command("go", append(append([]string{"test", "-c"}, raceFlags()...), "-o", program, "./cmd/kiln")...)
	cmd.Dir = Root(t)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of cmd/kiln: %v\n%s", err, msg)
	}
	return &Simulated{program}
}

// Start runs a node as the function Start does, in whose sandboxes every invocation takes d and is answered with its event. They are counted
// by themselves.
func (s *Simulated) Start(t testing.TB, d time.Duration, args ...string) (*Node, *sandboxtest.Counter) {
	t.Helper()
	env, counter := simulate(t, d)
	n := &Node{t: t, Dir: t.TempDir(), program: s.program, env: env, args: args}
	n.Restart()
	t.Cleanup(n.Stop)
	return n, counter
}

// StartRoles is to the function StartRoles what Start is to that.
func (s *Simulated) StartRoles(t testing.TB, workers int, d time.Duration, args ...string) (*Roles, *sandboxtest.Counter) {
	t.Helper()
	env, counter := simulate(t, d)
	return startRoles(t, workers, s.program, env, args), counter
}

// simulate returns the variables that say how sandboxes are simulated, and what counts them.
func simulate(t testing.TB, d time.Duration) ([]string, *sandboxtest.Counter) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "counter")
	c, err := sandboxtest.OpenCounter(path)
	must(t, err)
	return []string{SimulatedDuration + "=" + d.String(), SimulatedCounter + "=" + path}, c
}
