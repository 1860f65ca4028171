package pebblestore

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkDurableCommits measures commits of one record of 1 KB that return when they are on disk.
func BenchmarkDurableCommits(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) { benchmarkCommits(b, writers) })
	}
}

func benchmarkCommits(b *testing.B, writers int) {
	s := openFor(b, b.TempDir(), Options{}).Catalog()
	value := strings.Repeat("v", 1<<10)
	each := (b.N + writers - 1) / writers
	took := make([]time.Duration, writers*each)
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				start := time.Now()
				if _, err := s.Commit(b.Context(), put(fmt.Sprintf("w%d-%d", w, i), value, 0)); err != nil {
					b.Error(err)
					return
				}
				took[w*each+i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkGet(b *testing.B) {
	s := openFor(b, b.TempDir(), Options{}).Catalog()
	fill(b, s, 1000)
	for i := range b.N {
		get(b, s, fmt.Sprintf("f%06d", i%1000))
	}
}

// BenchmarkOpen measures opening a database with 1,000 records that was closed in order.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	d := open(b, dir, Options{})
	fill(b, d.Catalog(), 1000)
	closeDB(b, d)
	for b.Loop() {
		closeDB(b, open(b, dir, Options{}))
	}
}
