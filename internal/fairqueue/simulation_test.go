package fairqueue

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// load is a flow under simulation: callers that call again as soon as they have their answer.
type load struct {
	flow    Flow
	callers int
	// takes is how long a call takes, between half and one and a half times that.
	takes time.Duration
}

// machine is a simulated machine of so many slots. A slot that changes hands needs a start.
type machine struct {
	q     *Queue[*load]
	now   time.Time
	rand  *rand.Rand
	free  int
	ends  ends
	held  map[*load]time.Duration
	calls map[*load]int
	// starts is how often a slot has changed hands.
	starts int
}

const startTakes = 50 * time.Millisecond

// end is when a call of load ends, in a slot that load has had since got.
type end struct {
	at   time.Time
	load *load
	got  time.Time
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func simulate(slots int, length time.Duration, loads []*load) *machine {
	m := &machine{
		q:   New[*load](Config{MaxWaiting: 100_000, Quantum: time.Second, Memory: 10 * time.Second}),
		now: start, rand: rand.New(rand.NewPCG(1, 2)), free: slots,
		held: map[*load]time.Duration{}, calls: map[*load]int{},
	}
	for _, l := range loads {
		for range l.callers {
			m.call(l)
		}
	}
	for m.now.Sub(start) < length {
		e := heap.Pop(&m.ends).(end)
		m.now = e.at
		m.calls[e.load]++
		m.finish(e.load, e.got)
		m.call(e.load)
	}
	return m
}

// call is a caller that comes.
func (m *machine) call(l *load) {
	if m.free > 0 && m.q.Waiting() == 0 {
		m.free--
		m.start(l)
		return
	}
	m.q.Push(m.now, l.flow, Foreground, l)
}

// start makes a slot l's and runs a call in it.
func (m *machine) start(l *load) {
	m.starts++
	m.q.Hold(m.now, l.flow, 1)
	m.held[l] += startTakes
	m.run(l, m.now.Add(startTakes), m.now)
}

func (m *machine) run(l *load, from, got time.Time) {
	d := l.takes/2 + time.Duration(m.rand.Int64N(int64(l.takes)))
	m.held[l] += d
	heap.Push(&m.ends, end{from.Add(d), l, got})
}

// finish is a slot that l lets go, which has had it since got.
func (m *machine) finish(l *load, got time.Time) {
	w, own := m.q.NextOf(m.now, l.flow, 1, got)
	switch {
	case w == nil:
		m.q.Hold(m.now, l.flow, -1)
		m.free++
	case own:
		m.run(l, m.now, got)
	default:
		m.q.Hold(m.now, l.flow, -1)
		m.start(w.Item)
	}
}

// shareError is how far the share of those loads that always wait is from equal, at most, as a part of it.
func (m *machine) shareError(loads []*load) float64 {
	var sum time.Duration
	for _, l := range loads {
		sum += m.held[l]
	}
	worst, fair := 0.0, sum.Seconds()/float64(len(loads))
	for _, l := range loads {
		worst = max(worst, m.held[l].Seconds()/fair-1, 1-m.held[l].Seconds()/fair)
	}
	return worst
}

func TestSharesAreEqualWithinATenth(t *testing.T) {
	flow := func(i int) Flow { return Flow{fmt.Sprint(i), "f"} }
	sameTenant := func(i int) Flow { return Flow{"t", fmt.Sprint(i)} }
	for name, c := range map[string]struct {
		slots int
		flow  func(int) Flow
		loads []load
	}{
		"one with 10,000 callers, one with 20": {10, flow, []load{{callers: 10_000, takes: 100 * time.Millisecond}, {callers: 20, takes: 100 * time.Millisecond}}},
		"long calls and short ones":            {10, flow, []load{{callers: 100, takes: 10 * time.Second}, {callers: 100, takes: 20 * time.Millisecond}}},
		"keys of one tenant":                   {7, sameTenant, []load{{callers: 1000, takes: time.Second}, {callers: 30, takes: 50 * time.Millisecond}, {callers: 30, takes: 3 * time.Second}}},
		"more flows than slots":                {3, flow, many(12, load{callers: 50, takes: 200 * time.Millisecond})},
		"a hundred aggressors":                 {128, flow, many(101, load{callers: 150, takes: 300 * time.Millisecond})},
	} {
		t.Run(name, func(t *testing.T) {
			var loads []*load
			for i, l := range c.loads {
				l.flow = c.flow(i)
				loads = append(loads, &l)
			}
			m := simulate(c.slots, 10*time.Minute, loads)
			worst := m.shareError(loads)
			var calls int
			for _, n := range m.calls {
				calls += n
			}
			t.Logf("share error %.1f %%, %d calls, a start for %.1f %% of them", 100*worst, calls, 100*float64(m.starts)/float64(calls))
			if worst > 0.1 {
				t.Errorf("a share is %.0f %% from equal, want 10 %% at most", 100*worst)
			}
		})
	}
}

func many(n int, l load) []load {
	all := make([]load, n)
	for i := range all {
		all[i] = l
	}
	return all
}

// TestTwoTenantsShareWhateverTheirKeys gives one tenant a hundred keys that wait and another a single one.
func TestTwoTenantsShareWhateverTheirKeys(t *testing.T) {
	single := &load{flow: Flow{"b", "f"}, callers: 100, takes: 100 * time.Millisecond}
	loads := []*load{single}
	for i := range 100 {
		loads = append(loads, &load{flow: Flow{"a", fmt.Sprint(i)}, callers: 100, takes: 100 * time.Millisecond})
	}
	m := simulate(20, 10*time.Minute, loads)
	var all time.Duration
	for _, d := range m.held {
		all += d
	}
	if share := m.held[single].Seconds() / all.Seconds(); share < 0.45 || share > 0.55 {
		t.Errorf("a tenant with one key has %.2f, want half", share)
	}
}
