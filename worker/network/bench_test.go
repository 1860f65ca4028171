package network

import (
	"os"
	"testing"

	"kiln/kilntest"
)

// BenchmarkNamespace measures what the pool does for a namespace: to make one, and to prepare a used one anew.
func BenchmarkNamespace(b *testing.B) {
	kilntest.Internet(b)
	r, err := openRouter(nodeName(b.TempDir()), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			b.Error(err)
		}
	}()
	var files []*os.File
	next := uint32(firstSandbox)
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			n, err := r.add(next)
			if err != nil {
				b.Fatal(err)
			}
			if err := r.assign(n, next); err != nil {
				b.Fatal(err)
			}
			next++
			files = append(files, n.file)
		}
	})
	n, err := r.add(next)
	if err != nil {
		b.Fatal(err)
	}
	files = append(files, n.file)
	b.Run("prepare", func(b *testing.B) {
		for b.Loop() {
			next++
			if err := r.assign(n, next); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, f := range files {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
