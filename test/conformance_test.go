package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kiln/kilntest"
)

// wholeAreas are the recorded areas of AWS's answers in which every check must pass.
var wholeAreas = []string{"function", "name-validation", "tag", "account-settings", "size-limit"}

// impossible are checks that no server can pass, with the reason.
var impossible = map[string]string{
	"function_arn_other_account_exc": "the other account's number in the request was replaced by the caller's own when it was recorded",
}

// TestAnswersAreAWSs replays requests to the Lambda API that AWS itself answered and compares the answers. The recordings lie
// beside the tree; where they are not, the test is skipped.
func TestAnswersAreAWSs(t *testing.T) {
	dir := filepath.Join(kilntest.Root(t), "..", "shared", "conformance")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no recordings: %v", err)
	}
	n := kilntest.Start(t)
	args := []string{filepath.Join(kilntest.Root(t), "test", "testdata", "replay.py"), filepath.Join(dir, "replay.py"), "--endpoint", n.Endpoint, "--ignore-file", filepath.Join(dir, "ignore.json"), "--no-settle"}
	for _, area := range wholeAreas {
		args = append(args, filepath.Join(dir, "open", "api", area+".json"))
	}
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), boto3Python(t), append(args, "--json", report)...)
	cmd.Env = n.Env()
	out, err := cmd.CombinedOutput()
	t.Log(lastLine(string(out)))
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, out)
	}
	var checks []struct {
		ID, Op, Key, Why string
		OK               *bool // nil if skipped
	}
	if err := json.Unmarshal(text, &checks); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, c := range checks {
		switch {
		case c.OK == nil:
		case *c.OK:
			passed++
		case impossible[c.Key] == "":
			t.Errorf("%s, %s, %s: %s", c.ID, c.Op, c.Key, c.Why)
		}
	}
	if passed < 150 {
		t.Errorf("only %d checks passed\n%s", passed, out)
	}
}

// boto3Python is a Python that has boto3: the one on the path, which may have a newer one, or Debian's.
func boto3Python(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), python, "-c", "import boto3").Run() == nil {
			return python
		}
	}
	t.Skip("needs the Debian package python3-boto3")
	return ""
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
