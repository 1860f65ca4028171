package attack

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

// bombs take as much of one thing as there is; those of package test are left out. Each ends with one of its errors or with its sandbox.
var bombs = []struct {
	name     string
	memoryMB int32
	// ends are the errors that are right, "enough" being that it stopped by itself, and error types of the platform.
	ends []string
	// least and most are how many it must and may get, if the sandbox goes on.
	least, most int
	// slow ones run when there is time.
	slow bool
}{
	{name: "files read", memoryMB: 256, ends: []string{"enough", "all"}, least: 1, most: 1000, slow: true},
	// The process itself is not counted: it was started by root, for another user.
	{name: "threads", memoryMB: 1769, ends: []string{"EAGAIN"}, least: 900, most: 1024},
	{name: "descriptors", memoryMB: 256, ends: []string{"EMFILE"}, least: 900, most: 1023},
	{name: "pipes", memoryMB: 256, ends: []string{"EMFILE", "Runtime.OutOfMemory"}, least: 1, most: 512, slow: true},
	{name: "sockets", memoryMB: 256, ends: []string{"EMFILE", "Runtime.OutOfMemory"}, least: 1, most: 512},
	{name: "connections", memoryMB: 256, ends: []string{"EMFILE", "Runtime.OutOfMemory"}, least: 1, most: 512, slow: true},
	{name: "shared files", memoryMB: 256, ends: []string{"Runtime.OutOfMemory"}, least: 0, most: 0, slow: true},
	// Bytes that no name leads to are counted as those of /tmp that have one: in MB, of 512.
	{name: "files without names", memoryMB: 1769, ends: []string{"ENOSPC"}, least: 480, most: 513},
	{name: "holes", memoryMB: 1769, ends: []string{"ENOSPC"}, least: 480, most: 513},
	{name: "shared mappings", memoryMB: 256, ends: []string{"ENOMEM", "Runtime.OutOfMemory"}, least: 0, most: 16, slow: true},
	{name: "shared segments", memoryMB: 256, ends: []string{"ENOSPC", "ENOMEM", "Runtime.OutOfMemory"}, least: 1, most: 16},
	{name: "shared directory", memoryMB: 256, ends: []string{"EACCES", "ENOENT"}, least: 0, most: 0},
	{name: "names", memoryMB: 1769, ends: []string{"ENOSPC", "Runtime.OutOfMemory"}, least: 1, most: 32768},
	{name: "attributes", memoryMB: 256, ends: []string{"ENOSPC", "EOPNOTSUPP", "Runtime.OutOfMemory"}, least: 0, most: 4500},
	{name: "depth", memoryMB: 1769, ends: []string{"ENOSPC", "ENAMETOOLONG", "Runtime.OutOfMemory"}, least: 1, most: 32768, slow: true},
	{name: "mappings", memoryMB: 1769, ends: []string{"ENOMEM", "enough", "Runtime.OutOfMemory"}, least: 1, most: 1000000, slow: true},
	{name: "timers", memoryMB: 256, ends: []string{"EAGAIN", "ENOMEM", "enough", "Runtime.OutOfMemory"}, least: 1, most: 1000000, slow: true},
	{name: "signals", memoryMB: 256, ends: []string{"EAGAIN", "enough", "Runtime.OutOfMemory"}, least: 1, most: 1000000},
	{name: "watches", memoryMB: 1769, ends: []string{"ENOSPC", "enough", "Runtime.OutOfMemory"}, least: 1, most: 32768, slow: true},
}

// plenty is the number after which a bomb of small things stops.
func plenty() int {
	if isSoak() {
		return 300000
	}
	return 10000
}

func TestWhatTakesAllOfSomethingTakesItsOwn(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "peer", MemoryMB: 128, Zip: echo(t)})
	code := program(t, "bombs.py")
	for _, b := range bombs {
		t.Run(b.name, func(t *testing.T) {
			if b.slow && !isSoak() {
				t.Skip("takes seconds; KILN_SOAK=1 runs it")
			}
			f := strings.ReplaceAll(b.name, " ", "-")
			n.Deploy(t.Context(), kilntest.Function{Name: f, MemoryMB: b.memoryMB, Timeout: 60, Zip: code})
			out := call(t, n, f, encode(t, map[string]any{"of": b.name, "most": plenty()}))
			taken, end := b.least, failureOf(t, out)
			if end == "" {
				var got [2]any
				if err := json.Unmarshal(out.Payload, &got); err != nil {
					t.Fatalf("it answered %s: %v", out.Payload, err)
				}
				number, _ := got[0].(float64)
				taken, end = int(number), got[1].(string)
			}
			t.Logf("%d, then %s", taken, end)
			if !slices.Contains(b.ends, end) || taken < b.least || taken > b.most {
				t.Errorf("it took %d and ended with %s; want %d to %d and one of %v\n%s", taken, end, b.least, b.most, b.ends, logOf(t, out))
			}
			if got := answer[int](t, n, "peer", `5`); got != 5 {
				t.Errorf("its neighbour answers %d", got)
			}
			if got := answer[string](t, n, f, `"after"`); got != "after" {
				t.Errorf("its next call is answered %q", got)
			}
			if _, err := n.Client().DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: &f}); err != nil {
				t.Error(err)
			}
		})
	}
}
