package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replay runs `kiln sim` with a trace of one function of 2 GB that is called each 20 minutes.
func replay(t *testing.T, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	header, row := "HashApp,HashFunction", "a,f"
	for minute := range 24 * 60 {
		header += ",1" + strings.Repeat("0", minute%3)
		row += map[bool]string{true: ",1", false: ",0"}[minute%20 == 0]
	}
	for name, text := range map[string]string{
		"trace.csv": header + "\n" + row + "\n", "memory.csv": "HashFunction,AverageAllocatedMb\nf,2048\n", "durations.csv": "HashFunction,Average\nf,100\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := simCommand()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(append([]string{"--trace", filepath.Join(dir, "trace.csv")}, args...))
	err := c.Execute()
	return out.String(), err
}

func TestATraceIsReplayedWithEachPolicy(t *testing.T) {
	out, err := replay(t, "--cold-start", "1s")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	rows := make(map[string][]string)
	for _, line := range lines {
		f := strings.Fields(line)
		rows[strings.Join(f[:len(f)-5], " ")] = f[len(f)-5:]
	}
	// Always cold, with ten minutes of memory after each of the 72 calls; and cold once, with all of it.
	if got := strings.Join(rows["fixed, 10 min"], " "); got != "72 72 100.000 86400 1100.0" {
		t.Errorf("got %q in\n%s", got, out)
	}
	if got := strings.Join(rows["fixed, 1 h"], " "); got != "72 1 1.389 164160 1100.0" {
		t.Errorf("got %q in\n%s", got, out)
	}
	if f := rows["forecast"]; len(f) != 5 || len(f[1]) != 1 || len(f[3]) > 5 {
		t.Errorf("got %q in\n%s", f, out)
	}
}

func TestSimSaysWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		"--trace is required": {"--trace", ""},
		"--cold-start -1s":    {"--cold-start", "-1s"},
		"no such file":        {"--memory", "/nowhere"},
	} {
		if _, err := replay(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
