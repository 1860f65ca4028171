package pool

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"kiln/worker/runtime"
)

const (
	// base is how many sandboxes wait for a runtime in use whatever the demand: a second call often comes with the first.
	base = 2
	// burstTime is for how long a taken sandbox counts as one that others may be taken together with. It is some times what
	// booting one takes.
	burstTime = 2 * time.Second
	// peakHalfLife is the time in which the largest burst that is prepared for becomes half as large, so that the number of waiting
	// sandboxes grows at once and shrinks slowly.
	peakHalfLife = 5 * time.Minute
	// useTime is how long a class stays in use after it was asked for last.
	useTime = time.Hour
	// firstPause is how long a class rests after a boot that failed; after each further one it rests twice as long, up to maxPause.
	firstPause = time.Second
	maxPause   = time.Minute
)

// demand is what is remembered of one class. Its methods neither block nor read a clock.
type demand struct {
	// burst is how many were taken lately, each counting for less the longer ago that was, as of burstAt.
	burst   float64
	burstAt time.Time
	// peak is the largest burst as of peakAt.
	peak   float64
	peakAt time.Time
	// used is when the class was asked for last.
	used time.Time
	// failures are the boots that failed since the last that did not, and rest is until when none is tried.
	failures int
	rest     time.Time
}

// expect notes that a function of the class may be called.
func (d *demand) expect(now time.Time) { d.used = now }

// take notes that a sandbox was asked for.
func (d *demand) take(now time.Time) {
	d.used = now
	d.burst = decay(d.burst, now.Sub(d.burstAt), burstTime) + 1
	d.burstAt = now
	if peak := d.peakNow(now); d.burst > peak {
		d.peak, d.peakAt = d.burst, now
	}
}

// booted notes how a boot ended.
func (d *demand) booted(ok bool, now time.Time) {
	if ok {
		d.failures = 0
		return
	}
	d.rest = now.Add(min(firstPause<<min(d.failures, 10), maxPause))
	d.failures++
}

func (d *demand) peakNow(now time.Time) float64 {
	return decay(d.peak, now.Sub(d.peakAt), peakHalfLife)
}

func decay(v float64, after, halfLife time.Duration) float64 {
	return v * math.Exp2(-after.Seconds()/halfLife.Seconds())
}

// want is how many sandboxes are to wait, beyond the base, for a burst like the largest to find one each.
func (d *demand) want(now time.Time) int { return int(math.Round(d.peakNow(now))) }

func (d *demand) inUse(now time.Time) bool { return now.Sub(d.used) < useTime }

// plan says how many sandboxes of each class are to wait when there is room for that many in all. What comes first is the base of the
// class of each runtime that was asked for last, then one of each other class, then what bursts want, a sandbox of each class in turn.
func plan(now time.Time, demands map[runtime.Class]*demand, room int) map[runtime.Class]int {
	classes := inUse(now, demands)
	p := make(map[runtime.Class]int)
	give := func(c runtime.Class, atMost int) bool {
		if room == 0 || p[c] >= atMost {
			return false
		}
		p[c]++
		room--
		return true
	}
	first := make(map[string]bool)
	for _, c := range classes {
		if !first[c.Runtime] {
			first[c.Runtime] = true
			for give(c, base) {
			}
		}
	}
	for _, c := range classes {
		give(c, 1)
	}
	for given := true; given; {
		given = false
		for _, c := range classes {
			given = give(c, base+demands[c].want(now)) || given
		}
	}
	return p
}

// inUse returns the classes in use, the one that was asked for last first.
func inUse(now time.Time, demands map[runtime.Class]*demand) []runtime.Class {
	classes := slices.Collect(maps.Keys(demands))
	classes = slices.DeleteFunc(classes, func(c runtime.Class) bool { return !demands[c].inUse(now) })
	slices.SortFunc(classes, func(a, b runtime.Class) int {
		return cmp.Or(demands[b].used.Compare(demands[a].used), cmp.Compare(a.Runtime, b.Runtime), cmp.Compare(a.MemoryMB, b.MemoryMB))
	})
	return classes
}
