package admission

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"kiln"
)

const (
	one kiln.AccountID = "111111111111"
	two kiln.AccountID = "222222222222"
)

// start is when the tests begin; their time passes as they say.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// limited returns a Limiter of accounts with that concurrency.
func limited(concurrency int) *Limiter {
	return New(Config{Concurrency: kiln.Concurrency{Default: concurrency}})
}

func version(a kiln.AccountID, f kiln.FunctionName) *kiln.Version {
	return &kiln.Version{Account: a, Function: f}
}

func acquire(t *testing.T, l *Limiter, a kiln.AccountID, f kiln.FunctionName, now time.Time) Lease {
	t.Helper()
	lease, err := l.Acquire(version(a, f), now)
	if err != nil {
		t.Fatalf("acquire %s of %s: %v", f, a, err)
	}
	return lease
}

// wantThrottled fails unless err is AWS's for the reason.
func wantThrottled(t *testing.T, err error, reason string) {
	t.Helper()
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok || e.Kind != kiln.TooManyRequests || e.Reason != reason || e.RetryAfter <= 0 || e.Message != "Rate Exceeded." {
		t.Errorf("got %#v, want %s", err, reason)
	}
}

func TestLimitHoldsPerAccount(t *testing.T) {
	l := New(Config{Concurrency: kiln.Concurrency{Default: 2, Accounts: map[kiln.AccountID]int{two: 1}}})
	first := acquire(t, l, one, "f", start)
	acquire(t, l, one, "g", start)
	_, err := l.Acquire(version(one, "h"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
	acquire(t, l, two, "f", start)
	_, err = l.Acquire(version(two, "f"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
	first.Release(start)
	acquire(t, l, one, "h", start)
}

func TestWhatIsReservedIsTheFunctionsAlone(t *testing.T) {
	l := limited(3)
	l.Reserve(one, "f", new(2), start)
	shared := acquire(t, l, one, "g", start)
	_, err := l.Acquire(version(one, "h"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
	acquire(t, l, one, "f", start)
	acquire(t, l, one, "f", start)
	_, err = l.Acquire(version(one, "f"), start)
	wantThrottled(t, err, kiln.ReservedConcurrencyExceeded)
	shared.Release(start)
	_, err = l.Acquire(version(one, "f"), start)
	wantThrottled(t, err, kiln.ReservedConcurrencyExceeded)
	l.Reserve(one, "f", nil, start) // two of it run, and count among the rest
	acquire(t, l, one, "f", start)
	_, err = l.Acquire(version(one, "g"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
}

func TestNothingReservedStopsAFunction(t *testing.T) {
	l := limited(3)
	l.Reserve(one, "f", new(0), start)
	_, err := l.Acquire(version(one, "f"), start)
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok || e.Reason != kiln.ReservedConcurrencyExceeded || e.RetryAfter != 0 {
		t.Errorf("got %#v, want no time to try again", err)
	}
	for range 3 {
		acquire(t, l, one, "g", start)
	}
}

func TestAReservationDoesNotLiftTheAccountsLimit(t *testing.T) {
	l := limited(2)
	running := acquire(t, l, one, "g", start)
	acquire(t, l, one, "g", start)
	l.Reserve(one, "f", new(1), start)
	_, err := l.Acquire(version(one, "f"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
	running.Release(start)
	acquire(t, l, one, "f", start)
}

func TestRequestsAreTenASecondForEachPlace(t *testing.T) {
	l := limited(3)
	l.Reserve(one, "f", new(1), start)
	for name, c := range map[kiln.FunctionName]struct {
		rate   int
		reason string
	}{"f": {10, kiln.ReservedRateExceeded}, "g": {20, kiln.RateExceeded}} {
		now := start
		for range c.rate {
			acquire(t, l, one, name, now).Release(now)
		}
		_, err := l.Acquire(version(one, name), now)
		wantThrottled(t, err, c.reason)
		now = now.Add(time.Second / time.Duration(c.rate))
		acquire(t, l, one, name, now).Release(now)
		_, err = l.Acquire(version(one, name), now)
		wantThrottled(t, err, c.reason)
	}
}

func TestEnvironmentsStartAtTheScalingRate(t *testing.T) {
	l := limited(20_000)
	lease := acquire(t, l, one, "f", start)
	count := func(now time.Time) (n int) {
		for lease.Start(now) == nil {
			n++
		}
		return n
	}
	if n := count(start); n != 1000 {
		t.Errorf("%d start at once, want 1000", n)
	}
	wantThrottled(t, lease.Start(start), kiln.RateExceeded)
	now := start
	for second := range 10 {
		now = now.Add(time.Second)
		if n := count(now); n != 100 {
			t.Errorf("%d start in second %d, want 100", n, second)
		}
	}
	if err := acquire(t, l, one, "g", now).Start(now); err != nil {
		t.Errorf("another function: %v", err)
	}
	l.Reserve(one, "f", new(5), now)
	wantThrottled(t, lease.Start(now), kiln.ReservedRateExceeded)
}

func TestAClockThatGoesBackGivesNothing(t *testing.T) {
	var b bucket
	r := rate{burst: 1, per: time.Second}
	if wait := b.take(start, r); wait != 0 {
		t.Fatal(wait)
	}
	if wait := b.take(start.Add(-time.Hour), r); wait != time.Second {
		t.Errorf("an hour before: wait %v", wait)
	}
	if wait := b.take(start.Add(time.Second), r); wait != 0 {
		t.Errorf("a second later: wait %v", wait)
	}
}

func TestReleasedTwicePanics(t *testing.T) {
	lease := acquire(t, limited(1), one, "f", start)
	lease.Release(start)
	defer func() {
		if recover() == nil {
			t.Error("a second release went unnoticed")
		}
	}()
	lease.Release(start)
}

func TestFunctionsThatDoNothingAreForgotten(t *testing.T) {
	l := limited(10_000)
	for i := range 1000 {
		acquire(t, l, one, kiln.FunctionName(fmt.Sprint("f", i)), start).Release(start)
	}
	kept := acquire(t, l, one, "kept", start)
	l.Reserve(one, "reserved", new(1), start)
	now := start.Add(DefaultStartsPer)
	for range 500 {
		acquire(t, l, two, "g", now).Release(now)
	}
	if n := len(l.accounts[one].functions); n != 2 {
		t.Errorf("%d functions are remembered, want kept and reserved", n)
	}
	kept.Release(now)
	l.Reserve(one, "reserved", nil, now)
	now = now.Add(DefaultStartsPer)
	for range 2 {
		acquire(t, l, two, "g", now).Release(now)
	}
	if l.accounts[one] != nil {
		t.Error("an account without functions is remembered")
	}
}

// model is what a Limiter must do about concurrency, said in the simplest way: it sums everything anew each time.
type model struct {
	limit    int
	running  map[kiln.FunctionName]int
	reserved map[kiln.FunctionName]int
}

// refusal is the reason why f cannot run, "" if it can.
func (m *model) refusal(f kiln.FunctionName) string {
	total, shared, kept := 0, 0, 0
	for name, n := range m.running {
		total += n
		if _, ok := m.reserved[name]; !ok {
			shared += n
		}
	}
	for _, n := range m.reserved {
		kept += n
	}
	places, isReserved := m.reserved[f]
	switch {
	case isReserved && m.running[f] >= places:
		return kiln.ReservedConcurrencyExceeded
	case total >= m.limit, !isReserved && shared >= m.limit-kept:
		return kiln.ConcurrencyExceeded
	}
	return ""
}

// FuzzLimiterDoesWhatTheModelDoes reads each byte as what is done to one of four functions.
func FuzzLimiterDoesWhatTheModelDoes(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		steps := make([]byte, 2000)
		for i := range steps {
			steps[i] = byte(r.Uint32())
		}
		f.Add(steps)
	}
	f.Fuzz(compareWithModel)
}

func compareWithModel(t *testing.T, steps []byte) {
	const limit, functions, shift = 12, 4, 2
	l := limited(limit)
	m := &model{limit: limit, running: make(map[kiln.FunctionName]int), reserved: make(map[kiln.FunctionName]int)}
	leases := make(map[kiln.FunctionName][]Lease)
	now := start
	for i, step := range steps {
		now = now.Add(time.Second) // the rates never matter
		name := kiln.FunctionName('a' + rune(step%functions))
		switch what := step >> shift; {
		case what < 32:
			lease, err := l.Acquire(version(one, name), now)
			if want := m.refusal(name); want != "" {
				if e, ok := errors.AsType[*kiln.Error](err); !ok || e.Reason != want {
					t.Fatalf("step %d: got %v, want %s", i, err, want)
				}
			} else if err != nil {
				t.Fatalf("step %d: %v", i, err)
			} else {
				m.running[name]++
				leases[name] = append(leases[name], lease)
			}
		case what < 56:
			if held := leases[name]; len(held) > 0 {
				held[len(held)-1].Release(now)
				leases[name] = held[:len(held)-1]
				m.running[name]--
			}
		case what < 60:
			l.Reserve(one, name, nil, now)
			delete(m.reserved, name)
		default:
			l.Reserve(one, name, new(int(what-60)), now)
			m.reserved[name] = int(what - 60)
		}
	}
	drain(t, l, leases, now)
}

// drain releases everything, after which nothing must be counted.
func drain(t *testing.T, l *Limiter, leases map[kiln.FunctionName][]Lease, now time.Time) {
	for _, held := range leases {
		for _, lease := range held {
			lease.Release(now)
		}
	}
	for _, name := range []kiln.FunctionName{"a", "b", "c", "d"} {
		l.Reserve(one, name, nil, now)
	}
	if a := l.accounts[one]; a.running != 0 || a.shared != 0 || a.reserved != 0 {
		t.Errorf("after everything was released %+v is counted", *a)
	}
}

func TestNeverMoreThanTheLimitsRuns(t *testing.T) {
	const limit, reserved, callers, calls = 5, 2, 20, 500
	l := limited(limit)
	l.Reserve(one, "reserved", new(reserved), start)
	var mu sync.Mutex
	running, most := make(map[kiln.FunctionName]int), make(map[kiln.FunctionName]int)
	count := func(f kiln.FunctionName, d int) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []kiln.FunctionName{f, "all"} {
			running[name] += d
			most[name] = max(most[name], running[name])
		}
	}
	var wg sync.WaitGroup
	for i := range callers {
		f := []kiln.FunctionName{"reserved", "shared"}[i%2]
		wg.Go(func() {
			for call := range calls {
				now := start.Add(time.Duration(call) * time.Minute)
				lease, err := l.Acquire(version(one, f), now)
				if err != nil {
					continue
				}
				count(f, 1)
				count(f, -1)
				lease.Release(now)
			}
		})
	}
	wg.Wait()
	if most["all"] > limit || most["reserved"] > reserved || most["shared"] > limit-reserved || most["all"] == 0 {
		t.Errorf("%v ran at a time", most)
	}
	if a := l.accounts[one]; a.running != 0 || a.shared != 0 {
		t.Errorf("after all releases %+v is still counted", a)
	}
}

func BenchmarkAcquireAndRelease(b *testing.B) {
	l := limited(1 << 30)
	b.ReportAllocs()
	b.SetParallelism(4) // 8 callers on 2 processors
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			lease, err := l.Acquire(version(one, "f"), time.Now())
			if err != nil {
				b.Error(err)
				return
			}
			lease.Release(time.Now())
		}
	})
}
