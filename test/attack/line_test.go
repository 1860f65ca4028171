package attack

import (
	"slices"
	"strings"
	"testing"

	"kiln/kilntest"
)

// TestALineToTheWorkerCarriesNothingToAnotherCall has a function write to the worker in its bootstrap's place. It may spoil its own
// calls, but a call is given its own answer or an error, never what was made for another.
func TestALineToTheWorkerCarriesNothingToAnotherCall(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "writes", MemoryMB: 512, Timeout: 3, Zip: program(t, "line.py")})
	n.Deploy(t.Context(), kilntest.Function{Name: "peer", MemoryMB: 128, Zip: echo(t)})
	broken := []string{"Runtime.Unknown", "Runtime.ExitError", "Function.ResponseSizeTooLarge"}
	for _, event := range []string{"twice", "next", "late", "another kind", "long header", "long body", "deep header", "close"} {
		t.Run(event, func(t *testing.T) {
			before := residentKB(t, n.Pid())
			calls := []string{event, "after"}
			if event == "late" {
				calls = []string{event, "wait", "after"} // what comes late finds a call that runs
			}
			for _, e := range calls {
				out := call(t, n, "writes", encode(t, e))
				if failure := failureOf(t, out); failure != "" {
					if !slices.Contains(broken, failure) {
						t.Errorf("%s ended with %s", e, failure)
					}
					continue
				}
				if got := strings.Trim(string(out.Payload), `"`); got != e && !(e == event && got == "early") {
					t.Errorf("%s was answered %s", e, got)
				}
			}
			if got := answer[string](t, n, "writes", `"last"`); got != "last" {
				t.Errorf("the last call was answered %s", got)
			}
			if got := answer[int](t, n, "peer", `5`); got != 5 {
				t.Errorf("its neighbour answers %d", got)
			}
			if grown := residentKB(t, n.Pid()) - before; grown > 16<<10 {
				t.Errorf("the node has grown by %d KB", grown)
			}
		})
	}
}
