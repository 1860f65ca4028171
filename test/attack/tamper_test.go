package attack

import (
	"slices"
	"strings"
	"testing"

	"kiln/kilntest"
)

// refusals are what the guest's kernel says to who would change what is not his.
var refusals = []string{
	"Read-only file system", "Operation not permitted", "Permission denied", "Device or resource busy", "Directory not empty",
	"Operation not supported", "Invalid cross-device link",
}

func TestNothingThatAnEnvironmentIsMadeOfCanBeChanged(t *testing.T) {
	n := kilntest.Start(t)
	code := program(t, "tamper.py")
	n.Deploy(t.Context(), kilntest.Function{Name: "tampers", MemoryMB: 1769, Timeout: 60, Zip: code})
	for way, said := range answer[map[string]string](t, n, "tampers", `{}`) {
		if !slices.Contains(refusals, said) {
			t.Errorf("%s: %s", way, said)
		}
	}
	// A second function with the same package shares its files, and is as it was sent.
	n.Deploy(t.Context(), kilntest.Function{Name: "twin", MemoryMB: 1769, Timeout: 60, Zip: code})
	answer[map[string]string](t, n, "twin", `{}`)
}

func TestRootOfAUserNamespaceGainsNothing(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "root", MemoryMB: 1769, Timeout: 60, Zip: program(t, "namespaces.py")})
	got := answer[map[string]any](t, n, "root", `{}`)
	if files, ok := got["afterwards"].([]any); !ok || len(files) != 1 || files[0] != "index.py" {
		t.Errorf("afterwards the code is %v", got["afterwards"])
	}
	if got["host"] != "sandbox" {
		t.Errorf("afterwards the machine's name is %v", got["host"])
	}
	if got["itself"] != "gained: 0" {
		t.Errorf("it has not become root of a namespace of its own: %v", got["itself"])
	}
	for _, name := range []string{"afterwards", "host", "itself"} {
		delete(got, name)
	}
	for what, said := range got {
		if s, ok := said.(string); !ok || !strings.HasSuffix(s, "Error") {
			t.Errorf("%s: %v", what, said)
		}
	}
}
