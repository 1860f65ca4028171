package pool

import (
	"maps"
	"testing"
	"time"

	"kiln/worker/runtime"
)

var (
	epoch  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	python = runtime.Class{Runtime: "python3.13", MemoryMB: 512}
	large  = runtime.Class{Runtime: "python3.13", MemoryMB: 1769}
	node   = runtime.Class{Runtime: "nodejs24.x", MemoryMB: 128}
)

// after is a moment that many seconds after epoch.
func after(seconds float64) time.Time {
	return epoch.Add(time.Duration(seconds * float64(time.Second)))
}

// taken is the demand of as many calls, one every second that many times.
func taken(n int, every float64) *demand {
	d := &demand{}
	for i := range n {
		d.take(after(float64(i-n+1) * every))
	}
	return d
}

func TestBurstsAreRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		d       *demand
		seconds float64
		want    int
	}{
		"nothing":                     {&demand{}, 0, 0},
		"one":                         {taken(1, 0), 0, 1},
		"ten at once":                 {taken(10, 0), 0, 10},
		"ten at once, a half-life on": {taken(10, 0), 300, 5},
		"ten at once, an hour on":     {taken(10, 0), 3600, 0},
		"one every minute":            {taken(60, 60), 0, 1},
		"ten a second for a minute":   {taken(600, 0.1), 0, 29},
	} {
		if got := c.d.want(after(c.seconds)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestWhatWaitsFollowsDemand(t *testing.T) {
	used := func(seconds float64, burst int) *demand {
		d := taken(burst, 0)
		d.used = after(seconds)
		return d
	}
	for name, c := range map[string]struct {
		demands map[runtime.Class]*demand
		room    int
		want    map[runtime.Class]int
	}{
		"nothing is in use":       {nil, 9, nil},
		"the base":                {map[runtime.Class]*demand{python: used(0, 0)}, 9, map[runtime.Class]int{python: 2}},
		"not used for long":       {map[runtime.Class]*demand{python: used(-3601, 5)}, 9, map[runtime.Class]int{}},
		"no room":                 {map[runtime.Class]*demand{python: used(0, 5)}, 0, map[runtime.Class]int{}},
		"a burst":                 {map[runtime.Class]*demand{python: used(0, 5)}, 9, map[runtime.Class]int{python: 7}},
		"a burst beyond the room": {map[runtime.Class]*demand{python: used(0, 50)}, 9, map[runtime.Class]int{python: 9}},
		"two runtimes share":      {map[runtime.Class]*demand{python: used(0, 50), node: used(-1, 50)}, 9, map[runtime.Class]int{python: 5, node: 4}},
		"the base comes before bursts": {
			map[runtime.Class]*demand{python: used(0, 50), node: used(-1, 0)}, 5, map[runtime.Class]int{python: 3, node: 2},
		},
		"a second class of a runtime": {
			map[runtime.Class]*demand{python: used(0, 0), large: used(-1, 0), node: used(-2, 0)}, 5,
			map[runtime.Class]int{python: 2, large: 1, node: 2},
		},
	} {
		if got := plan(epoch, c.demands, c.room); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestBootsThatFailArePutOff(t *testing.T) {
	d := &demand{}
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		d.booted(false, epoch)
		if got := d.rest.Sub(epoch); got != want {
			t.Errorf("a rest of %v, want %v", got, want)
		}
	}
	for range 100 {
		d.booted(false, epoch)
	}
	if got := d.rest.Sub(epoch); got != maxPause {
		t.Errorf("a rest of %v, want %v", got, maxPause)
	}
	d.booted(true, epoch)
	d.booted(false, epoch)
	if got := d.rest.Sub(epoch); got != time.Second {
		t.Errorf("after a success a rest of %v", got)
	}
}

func TestWhatIsMissingMostIsBootedFirst(t *testing.T) {
	demands := map[runtime.Class]*demand{python: {}, node: {}}
	resting := map[runtime.Class]*demand{python: {rest: after(3)}, node: {}}
	classes := func(p, n int) map[runtime.Class]int { return map[runtime.Class]int{python: p, node: n} }
	for name, c := range map[string]struct {
		goal, have map[runtime.Class]int
		demands    map[runtime.Class]*demand
		taken      time.Time
		want       runtime.Class
		wait       time.Duration
	}{
		"nothing is missing":              {classes(2, 2), classes(2, 3), demands, time.Time{}, runtime.Class{}, review},
		"the most":                        {classes(5, 2), classes(1, 1), demands, time.Time{}, python, 0},
		"what has none":                   {classes(9, 2), classes(1, 0), demands, time.Time{}, node, 0},
		"one that rests":                  {classes(9, 2), classes(0, 1), resting, time.Time{}, node, 0},
		"only one that rests":             {classes(9, 2), classes(0, 2), resting, time.Time{}, runtime.Class{}, 3 * time.Second},
		"one was just taken":              {classes(2, 2), classes(1, 2), demands, epoch.Add(-5 * time.Millisecond), python, 20 * time.Millisecond},
		"one was just taken and was last": {classes(2, 2), classes(0, 2), demands, epoch, python, 0},
	} {
		if got, wait := choose(epoch, c.goal, c.have, c.demands, c.taken); got != c.want || wait != c.wait {
			t.Errorf("%s: %v after %v, want %v after %v", name, got, wait, c.want, c.wait)
		}
	}
}
