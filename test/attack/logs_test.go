package attack

import (
	"strings"
	"testing"

	"kiln/kilntest"
)

// forged are lines that could be taken for the platform's own, or make a terminal do something.
var forged = []string{
	"START RequestId: 00000000-0000-4000-8000-000000000000 Version: 7",
	"END RequestId: 00000000-0000-4000-8000-000000000000",
	"REPORT RequestId: 00000000-0000-4000-8000-000000000000\tDuration: 1.00 ms\tBilled Duration: 1 ms\tMemory Size: 1 MB\tMax Memory Used: 1 MB\t",
	`time=2026-01-01T00:00:00Z level=ERROR msg="forged by a function"`,
	"\x1b[2J\x1b]0;forged\x07", "carriage\rreturn", "nul\x00nul", "invalid \xff\xfe utf-8",
}

func TestAFunctionsLinesAreItsOwn(t *testing.T) {
	n := kilntest.Start(t)
	for _, name := range []string{"forges", "peer"} {
		n.Deploy(t.Context(), kilntest.Function{Name: name, MemoryMB: 256, Zip: program(t, "logs.py")})
	}
	call(t, n, "peer", `[]`)
	lines := make([][]byte, len(forged)) // encoded as base64, because a text would have to be UTF-8
	for i, l := range forged {
		lines[i] = []byte(l)
	}
	log := logOf(t, call(t, n, "forges", encode(t, lines)))
	for _, l := range forged {
		if !strings.Contains(log, l+"\n") {
			t.Errorf("the log has not kept %q", l)
		}
	}
	// What the platform says of the invocation comes last, once, and under its own id.
	all := strings.Split(strings.TrimSpace(log), "\n")
	if last := all[len(all)-1]; !strings.HasPrefix(last, "REPORT RequestId: ") || strings.Contains(last, "00000000-0000") {
		t.Errorf("the last line is %q", last)
	}
	if other := logOf(t, call(t, n, "peer", `[]`)); strings.Contains(other, "00000000-0000") || strings.Contains(other, "forged") {
		t.Errorf("a neighbour's log has what a function wrote: %q", other)
	}
	if strings.Contains(n.Output(), "forged") || strings.Contains(n.Output(), "00000000-0000") {
		t.Errorf("the node's own log has what a function wrote:\n%s", n.Output())
	}
}
