package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/kilntest"
)

func TestAnExtensionInALayerLivesAndEndsWithItsFunction(t *testing.T) {
	n := kilntest.Start(t)
	layer := publishLayer(t, n, "extension", kilntest.Zip(t, map[string]string{"extensions/ours": kilntest.GoProgram(t, "worker/testdata/extension")}))
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Layers: []string{layer}, Zip: python(t, echo)})
	out := call(t, n, "f", `{"a": 1}`)
	if string(out.Payload) != `{"a": 1}` || out.FunctionError != nil {
		t.Errorf("answered %s\n%s", out.Payload, logOf(t, out))
	}
	contains(t, logOf(t, out), `registered {"accountId":"`+kilntest.Account+`","functionName":"f","functionVersion":"$LATEST","handler":"index.handler"}`)
	n.Stop()
	log, err := os.ReadFile(functionLog(t, n, "f"))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(log), `event {"eventType":"INVOKE"`)
	contains(t, string(log), `event {"eventType":"SHUTDOWN","shutdownReason":"spindown"`)
}

// functionLog is the file of what a function logged.
func functionLog(t testing.TB, n *kilntest.Node, function string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(n.Dir, "*", kilntest.Account, function+".log"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %s (%v)", strings.Join(found, ", "), err)
	}
	return found[0]
}
