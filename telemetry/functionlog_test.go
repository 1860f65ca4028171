package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// flush runs l until its queue is empty.
func flush(t *testing.T, l *FunctionLogs) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestLinesOfAFunctionAreKeptInOrder(t *testing.T) {
	l := NewFunctionLogs(t.TempDir(), slog.New(slog.DiscardHandler))
	l.Write("111111111111", "hello", []byte("one\n"))
	l.Write("111111111111", "other", []byte("not mine\n"))
	l.Write("111111111111", "hello", []byte("two\n"))
	flush(t, l)
	got, err := os.ReadFile(l.Path("111111111111", "hello"))
	if err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestALogOfFullSizeBeginsAnew(t *testing.T) {
	l := NewFunctionLogs(t.TempDir(), slog.New(slog.DiscardHandler))
	big := bytes.Repeat([]byte("x"), fileSize)
	for _, text := range [][]byte{big, []byte("new\n")} {
		l.Write("111111111111", "f", text)
	}
	flush(t, l)
	got, err := os.ReadFile(l.Path("111111111111", "f"))
	if err != nil || string(got) != "new\n" {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if st, err := os.Stat(l.Path("111111111111", "f") + ".1"); err != nil || st.Size() != fileSize {
		t.Errorf("the older file: %v, %v", st, err)
	}
}

func TestWhatIsTooMuchIsDroppedAndCounted(t *testing.T) {
	l := NewFunctionLogs(t.TempDir(), slog.New(slog.DiscardHandler))
	l.Write("111111111111", "f", make([]byte, pendingBytes-2))
	for range 3 {
		l.Write("111111111111", "g", []byte("x\n"))
	}
	if l.Dropped() != 2 {
		t.Errorf("%d dropped", l.Dropped())
	}
	flush(t, l)
	if l.Write("111111111111", "g", []byte("y\n")); l.Dropped() != 2 {
		t.Error("what was written still counts")
	}
}

func TestLinesAreWrittenWithoutAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewFunctionLogs(t.TempDir(), slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for i := range 3 {
			l.Write("111111111111", "f", []byte("x\n"))
			time.Sleep(2 * gatherTime) // of the bubble's time
			if got, err := os.ReadFile(l.Path("111111111111", "f")); err != nil || len(got) != 2*(i+1) {
				t.Errorf("got %q, %v", got, err)
			}
		}
		cancel()
		wg.Wait()
	})
}

func TestADiskThatFailsDropsAndCounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := NewFunctionLogs(file, slog.New(slog.DiscardHandler)) // a file where the directory must be
	l.Write("111111111111", "f", []byte("x\n"))
	flush(t, l)
	if l.Dropped() != 1 {
		t.Errorf("%d dropped", l.Dropped())
	}
}
