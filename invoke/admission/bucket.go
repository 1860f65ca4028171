package admission

import "time"

// rate is how much may be taken: burst at once, which comes back evenly over per.
type rate struct {
	burst int
	per   time.Duration
}

// bucket remembers what was taken and has not come back. The zero bucket is unused.
type bucket struct {
	used float64
	at   time.Time
}

// take takes one and returns 0, or how long it is until one can be taken. Without a burst there is never one, and the answer is r.per.
func (b *bucket) take(now time.Time, r rate) time.Duration {
	if r.burst <= 0 {
		return r.per
	}
	each := r.per.Seconds() / float64(r.burst)
	// A time before the last one, as callers come by in any order, gives nothing back.
	if passed := now.Sub(b.at); passed > 0 {
		b.used, b.at = max(b.used-passed.Seconds()/each, 0), now
	}
	// The sum of many small parts falls short of a whole by less than this.
	const rounding = 1e-6
	if over := b.used + 1 - float64(r.burst); over > rounding {
		return max(time.Duration(over*each*float64(time.Second)), 1)
	}
	b.used++
	return 0
}
