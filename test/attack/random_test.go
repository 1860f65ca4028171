package attack

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"kiln/kilntest"
)

// TestRandomSystemCallsHurtNobodyElse lets functions make system calls at random. Their sandbox may die of it; nobody else may.
func TestRandomSystemCallsHurtNobodyElse(t *testing.T) {
	if !isSoak() {
		t.Skip("takes minutes; KILN_SOAK=1 runs it")
	}
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "sprays", MemoryMB: 1024, Timeout: 60, Zip: program(t, "random_calls.py")})
	n.Deploy(t.Context(), kilntest.Function{Name: "peer", MemoryMB: 128, Zip: echo(t)})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	seed := time.Now().UnixNano()
	for round := range 6 {
		out := call(t, n, "sprays", `{"seconds":30,"seed":`+strconv.FormatInt(seed+int64(round)<<20, 10)+`}`)
		var rounds int
		if failure := failureOf(t, out); failure != "" {
			t.Logf("seed %d, round %d: ended with %s", seed, round, failure)
		} else if err := json.Unmarshal(out.Payload, &rounds); err != nil || rounds == 0 {
			t.Errorf("seed %d, round %d: answered %s", seed, round, out.Payload)
		}
		t.Logf("%d processes made calls", 8*rounds)
		if got := answer[int](t, n, "peer", `5`); got != 5 {
			t.Errorf("seed %d, round %d: the neighbour answers %d", seed, round, got)
		}
	}
	if now, err := os.Hostname(); err != nil || now != host {
		t.Errorf("the host is called %q, %v", now, err)
	}
}
