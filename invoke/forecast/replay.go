package forecast

import (
	"cmp"
	"slices"
	"time"
)

// Traced is one function of a trace.
type Traced struct {
	MemoryMB int
	// Duration is what a call takes in an environment that is there.
	Duration time.Duration
	// Calls are by minute.
	Calls []int
}

// Keeper decides when an environment of a function, named by its place in a trace, is held.
type Keeper interface {
	Called(function, memoryMB int, now time.Time)
	Holds(function int, now time.Time) bool
}

// Fixed is a Keeper that holds each environment for the same time after a call.
type Fixed struct {
	Keep time.Duration
	last map[int]time.Time
}

// Called implements Keeper.
func (f *Fixed) Called(function, _ int, now time.Time) {
	if f.last == nil {
		f.last = make(map[int]time.Time)
	}
	f.last[function] = now
}

// Holds implements Keeper.
func (f *Fixed) Holds(function int, now time.Time) bool {
	last, ok := f.last[function]
	return ok && now.Sub(last) <= f.Keep
}

// Learning is a Keeper that holds what a Forecaster says.
type Learning struct{ forecaster *Forecaster[int] }

// NewLearning returns a Learning with a policy.
func NewLearning(p Policy) *Learning {
	return &Learning{New[int](Config{Policy: p, MaxFunctions: 1 << 30})}
}

// Called implements Keeper.
func (l *Learning) Called(function, memoryMB int, now time.Time) {
	l.forecaster.Called(function, 1, memoryMB, now)
}

// Holds implements Keeper.
func (l *Learning) Holds(function int, now time.Time) bool {
	return l.forecaster.Holds(function, 1, now)
}

// Outcome is what a Keeper would have made of a trace.
type Outcome struct {
	Calls, Cold int
	// Idle is the memory held in minutes without a call, in MB seconds.
	Idle float64
	// P99 is what the slowest hundredth of the calls took at least.
	P99 time.Duration
}

// took is how long so many calls took.
type took struct {
	duration time.Duration
	calls    int
}

// Replay runs a trace past a Keeper, minute by minute. Of a minute's calls of a function one is cold, and takes so much longer, if no environment
// of it was held, as in Serverless in the Wild.
func Replay(trace []Traced, k Keeper, cold time.Duration) Outcome {
	var o Outcome
	var all []took
	begin := time.Unix(0, 0)
	for minute := range longest(trace) {
		now := begin.Add(time.Duration(minute) * Bin)
		for i, f := range trace {
			if minute >= len(f.Calls) {
				continue
			}
			held, calls := k.Holds(i, now), f.Calls[minute]
			switch {
			case calls > 0:
				slow := 0
				if !held {
					slow = 1
				}
				o.Calls += calls
				o.Cold += slow
				all = append(all, took{f.Duration, calls - slow}, took{f.Duration + cold, slow})
				k.Called(i, f.MemoryMB, now)
			case held:
				o.Idle += float64(f.MemoryMB) * Bin.Seconds()
			}
		}
	}
	o.P99 = percentile(all, o.Calls)
	return o
}

func longest(trace []Traced) int {
	n := 0
	for _, f := range trace {
		n = max(n, len(f.Calls))
	}
	return n
}

func percentile(all []took, calls int) time.Duration {
	slices.SortFunc(all, func(a, b took) int { return cmp.Compare(a.duration, b.duration) })
	left := calls * 99 / 100
	for _, t := range all {
		if left -= t.calls; left < 0 {
			return t.duration
		}
	}
	return 0
}
