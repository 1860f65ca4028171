package network

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/kilntest"
	"kiln/worker/sandbox"
)

// fakeEngine starts sandboxes that are nothing but their spec.
type fakeEngine struct {
	err   error
	specs []sandbox.Spec
	boxes []*fakeBox
}

type fakeBox struct {
	sandbox.Sandbox
	done chan struct{}
}

func (b *fakeBox) Done() <-chan struct{} { return b.done }
func (b *fakeBox) Destroy() error        { return nil }

func (e *fakeEngine) Start(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	e.specs = append(e.specs, s)
	if e.err != nil {
		return nil, e.err
	}
	b := &fakeBox{done: make(chan struct{})}
	e.boxes = append(e.boxes, b)
	return b, nil
}

func TestASandboxHasItsNamespaceForItsWholeLife(t *testing.T) {
	kilntest.Internet(t)
	p := open(t, Config{Ready: 1})
	inner := &fakeEngine{}
	e := NewEngine(inner, p.Pool)
	for range 2 {
		if _, err := e.Start(t.Context(), sandbox.Spec{ID: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if inner.specs[0].Network == nil || sameNamespace(t, inner.specs[0].Network, inner.specs[1].Network) {
		t.Error("two sandboxes share a namespace")
	}
	first := inner.specs[0].Network
	close(inner.boxes[0].done)
	defer func() { close(inner.boxes[1].done) }()
	// It is prepared anew while others wait that were made before it.
	for range 5 {
		n := take(t, p)
		if n.file == first {
			p.giveBack(n)
			return
		}
		defer p.giveBack(n)
	}
	t.Error("the namespace of a sandbox that has ended is not used again")
}

func sameNamespace(t *testing.T, a, b *os.File) bool {
	t.Helper()
	sa, err := a.Stat()
	must(t, err)
	sb, err := b.Stat()
	must(t, err)
	return os.SameFile(sa, sb)
}

func TestASandboxThatCannotStartKeepsNoNamespace(t *testing.T) {
	kilntest.Internet(t)
	p := open(t, Config{Ready: 1})
	failed := errors.New("failed")
	for range 50 {
		if _, err := NewEngine(&fakeEngine{err: failed}, p.Pool).Start(t.Context(), sandbox.Spec{ID: "a"}); !errors.Is(err, failed) {
			t.Fatal(err)
		}
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	open := 0
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "net:") {
			open++
		}
	}
	if open > 20 { // those of other tests are closed at some time
		t.Errorf("%d namespaces are open after 50 starts", open)
	}
}
