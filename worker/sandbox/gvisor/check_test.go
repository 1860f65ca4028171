package gvisor_test

import (
	"path/filepath"
	"testing"

	"kiln/worker/sandbox/gvisor"
)

func TestCheckStartsASandbox(t *testing.T) {
	if built == "" {
		t.Skip("needs root")
	}
	findings := gvisor.Check(t.Context(), gvisor.Config{Dir: t.TempDir(), Exe: filepath.Join(built, "kiln-sandbox")})
	for _, f := range findings {
		t.Logf("%s: %v: %s", f.Name, f.Severity, f.Text)
		if f.Severity == gvisor.Fatal {
			t.Errorf("%s: %s", f.Name, f.Text)
		}
	}
	if last := findings[len(findings)-1]; last.Name != "sandbox" {
		t.Errorf("the last finding is of %s", last.Name)
	}
}

func TestCheckSaysWhyNothingStarts(t *testing.T) {
	if built == "" {
		t.Skip("needs root")
	}
	findings := gvisor.Check(t.Context(), gvisor.Config{Dir: t.TempDir(), Exe: "/bin/true"})
	last := findings[len(findings)-1]
	t.Log(last.Text)
	if last.Name != "sandbox" || last.Severity != gvisor.Fatal {
		t.Errorf("with another binary as launcher: %+v", last)
	}
}
