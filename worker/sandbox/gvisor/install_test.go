package gvisor_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/gvisor"
)

// TestAnEngineInstallsItsProgramAnew runs an engine in a directory where an earlier one has left a program that does not work.
func TestAnEngineInstallsItsProgramAnew(t *testing.T) {
	if built == "" {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	for _, name := range []string{"kiln-sandbox", "kiln-sandbox.new"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half of one"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func() (io.ReadCloser, error) { return os.Open(filepath.Join(built, "kiln-sandbox")) }
	e, err := gvisor.New(gvisor.Config{Dir: dir, Program: open})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	g := start(t, e, sandbox.Spec{ID: "installed", Root: root(t), Limits: limits()})
	g.mustDo(t, "echo", "x")
}

func TestAnEngineNeedsAProgram(t *testing.T) {
	if _, err := gvisor.New(gvisor.Config{Dir: t.TempDir()}); err == nil {
		t.Error("there is an engine without one")
	}
}
