package gvisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/worker/sandbox"
)

// BenchmarkStart measures from the call of Start to the first answer of the guest, and the end of a sandbox.
func BenchmarkStart(b *testing.B) {
	e, _ := engine(b, b.TempDir())
	r := root(b)
	start(b, e, sandbox.Spec{ID: "first", Root: r, Limits: limits()}) // waits for the engine
	var ending time.Duration
	b.ResetTimer()
	for i := range b.N {
		g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("start%d", i), Root: r, Limits: limits()})
		if err != nil {
			b.Fatal(err)
		}
		g.mustDo(b, "echo", "x")
		begun := time.Now()
		if err := g.end(); err != nil {
			b.Fatal(err)
		}
		ending += time.Since(begun)
	}
	b.ReportMetric(float64(ending.Microseconds())/float64(b.N)/1000, "ms-end/op")
}

func BenchmarkRoundTrip(b *testing.B) {
	e, _ := engine(b, b.TempDir())
	g := start(b, e, sandbox.Spec{ID: "warm", Root: root(b), Limits: limits()})
	took := make([]time.Duration, b.N)
	for i := range b.N {
		begun := time.Now()
		g.mustDo(b, "echo", "x")
		took[i] = time.Since(begun)
	}
	report(b, "answer", took)
}

// BenchmarkThawedRoundTrip measures a call to a sandbox that has to be thawed for it.
func BenchmarkThawedRoundTrip(b *testing.B) {
	e, _ := engine(b, b.TempDir())
	g := start(b, e, sandbox.Spec{ID: "thawed", Root: root(b), Limits: limits()})
	freeze, answer := make([]time.Duration, b.N), make([]time.Duration, b.N)
	for i := range b.N {
		begun := time.Now()
		if err := g.Freeze(); err != nil {
			b.Fatal(err)
		}
		freeze[i] = time.Since(begun)
		if err := g.Thaw(); err != nil {
			b.Fatal(err)
		}
		g.mustDo(b, "echo", "x")
		answer[i] = time.Since(begun) - freeze[i]
	}
	report(b, "freeze", freeze)
	report(b, "answer", answer)
}

// BenchmarkIdleMemory reports the private memory of the processes of a sandbox whose guest waits, in megabytes.
func BenchmarkIdleMemory(b *testing.B) {
	dir := b.TempDir()
	e, _ := engine(b, dir)
	g := start(b, e, sandbox.Spec{ID: "idle", Root: root(b), Limits: limits()})
	g.mustDo(b, "echo", "x")
	for range b.N {
		for name, kilobytes := range private(b, dir) {
			b.ReportMetric(float64(kilobytes)/1024, "MB-"+name)
		}
	}
}

// private is the private memory, in kilobytes, of the engine's processes by their names.
func private(b *testing.B, dir string) map[string]int {
	b.Helper()
	memory := make(map[string]int)
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range commands {
		text, err := os.ReadFile(c)
		name, _, _ := strings.Cut(string(text), "\x00")
		if err != nil || !strings.Contains(string(text), dir) {
			continue
		}
		rollup, err := os.ReadFile(filepath.Join(filepath.Dir(c), "smaps_rollup"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(rollup)) {
			if f := strings.Fields(line); strings.HasPrefix(f[0], "Private_") {
				n, err := strconv.Atoi(f[1])
				if err != nil {
					b.Fatal(err)
				}
				memory[filepath.Base(name)] += n
			}
		}
	}
	return memory
}

// report reports how long half of the calls take at most, and all but one of a hundred.
func report(b *testing.B, name string, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Microseconds()), fmt.Sprintf("us-%s-p%d", name, p))
	}
}
