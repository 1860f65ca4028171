// Package forecast decides from when functions have been called how long their environments stay when they are idle, and when one is
// started before its function is called again. It does no I/O and reads no clock.
//
// As in the hybrid histogram policy (Shahrad et al., Serverless in the Wild, USENIX ATC 2020) each function has a histogram of the times
// between its calls, in minutes, up to some hours. Where that policy cuts off a head and a tail of it by percentiles, and leaves functions
// alone of which it knows too little, this one weighs each minute: an environment is held in those in which a call is likely
// enough to be worth its memory. A function of which little is known is taken to be like the others.
package forecast

import (
	"math"
	"time"
)

const (
	// Bin is the width of a histogram's bins.
	Bin = time.Minute
	// bins is how many there are; longer times are only counted.
	bins = 240
	// full is how much a bin may hold before the whole histogram is halved, so that what has changed shows.
	full = math.MaxUint8
)

// Horizon is the longest time between two calls that is learned.
const Horizon = bins * Bin

// history is the times between the calls of one function.
type history struct {
	counts  [bins]uint8
	outside uint8
	total   int
}

func (h *history) observe(gap time.Duration) {
	c := &h.outside
	if gap < Horizon {
		c = &h.counts[max(gap/Bin, 0)]
	}
	if *c == full {
		h.halve()
	}
	*c++
	h.total++
}

func (h *history) halve() {
	h.outside /= 2
	h.total = int(h.outside)
	for i := range h.counts {
		h.counts[i] /= 2
		h.total += int(h.counts[i])
	}
}

// prior is how functions are called in general.
type prior struct {
	counts  [bins]float64
	outside float64
	total   float64
}

// newPrior returns what is assumed before any function has been called: that a call is the less likely the longer ago the last one is.
func newPrior() *prior {
	p := &prior{outside: 1, total: 1}
	for i := range p.counts {
		p.counts[i] = 1 / float64(i+1)
		p.total += p.counts[i]
	}
	return p
}

// firsts is how many times of each function count in the prior: all functions are to count, not those alone that are called most.
const firsts = 16

// observe counts a time between two calls of the function of h, which has not counted it yet.
func (p *prior) observe(h *history, gap time.Duration) {
	switch {
	case h.total >= firsts:
		return
	case gap < Horizon:
		p.counts[max(gap/Bin, 0)]++
	default:
		p.outside++
	}
	p.total++
}

// Policy says what memory is worth.
type Policy struct {
	// Price is what a minute of a MB is worth, in cold starts.
	Price float64
	// Start is what it costs to start an environment before a call, in cold starts that somebody waits for.
	Start float64
	// Weight is for how many times between calls what is known of all functions counts.
	Weight float64
}

// DefaultPolicy is that of a node: on the traces of docs/decisions/0012 it has little more than a third of the cold starts that
// environments held for ten minutes after each call have, with less memory.
func DefaultPolicy() Policy { return Policy{Price: 1.0 / 4000, Start: 0.1, Weight: 1} }

// window is a part of the time since the last call.
type window struct{ from, to time.Duration }

// shortest is how long an environment is held in any case: the histogram does not tell seconds apart.
const shortest = Bin

// lead is how long before the minute of a call an environment is started: the call may come with the minute, and a little before its time.
const lead = Bin

// plan returns when an environment of a function is to be there, if it is not called before. The windows are in order and not empty.
//
// It is dynamic programming from the last minute back: to be there in a minute gains the probability of a call in it and costs the memory,
// if there has been no call before; to be there again after having ended costs another start.
func (p Policy) plan(h *history, all *prior, memoryMB int) []window {
	n := float64(h.total) + p.Weight
	chance := func(count uint8, of float64) float64 { return (float64(count) + p.Weight*of/all.total) / n }
	idle := chance(h.outside, all.outside) // the probability that there has been no call when a minute begins
	var on, off [bins + 1]float64
	var stay, begin [bins]bool
	for i := bins - 1; i >= 0; i-- {
		call := chance(h.counts[i], all.counts[i])
		idle += call
		stay[i] = on[i+1] > off[i+1]
		on[i] = call - p.Price*float64(memoryMB)*idle + max(on[i+1], off[i+1])
		begin[i] = on[i]-p.Start*idle > off[i+1]
		off[i] = max(off[i+1], on[i]-p.Start*idle)
	}
	return windows(stay[:], begin[:])
}

// windows follows the decisions from the first minute on.
func windows(stay, begin []bool) []window {
	all := []window{{0, shortest}}
	is := true
	for i := range stay {
		is = is || begin[i]
		from, to := time.Duration(i)*Bin-lead, time.Duration(i+1)*Bin
		switch last := &all[len(all)-1]; {
		case !is:
		case last.to >= from:
			last.to = max(last.to, to)
		default:
			all = append(all, window{from, to})
		}
		is = is && stay[i]
	}
	return all
}
