package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/fleet"
)

// environments are simulated: a start takes a second.
type environments struct {
	mu       sync.Mutex
	all      map[string]int
	aged     map[string]int
	err      error
	starting int
	most     int
	started  int
}

func (e *environments) Provide(ctx context.Context, v *kiln.Version) error {
	e.mu.Lock()
	e.starting++
	e.most = max(e.most, e.starting)
	e.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.starting--
	e.started++
	if ctx.Err() != nil || e.err != nil {
		return errors.Join(ctx.Err(), e.err)
	}
	e.all[v.Deployment]++
	return nil
}

func (e *environments) Provided(d string, _ time.Time) (all, aged int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[d], e.aged[d]
}

func (e *environments) Withdraw(d string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n > e.all[d] {
		panic(fmt.Sprintf("%d of %d are withdrawn", n, e.all[d]))
	}
	e.aged[d] = max(e.aged[d]-n, 0)
	if e.all[d] -= n; e.all[d] == 0 {
		delete(e.all, d)
	}
}

func (e *environments) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *environments) want(t *testing.T, all map[string]int) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !maps.Equal(e.all, all) {
		t.Errorf("there are %v, want %v", e.all, all)
	}
}

// rig is a Keeper of simulated environments in a bubble, and what it has reported last.
type rig struct {
	*Keeper
	*environments
	mu       sync.Mutex
	reported []catalog.ProvisionStatus
	reports  int
	deaf     error
}

func keeping(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{environments: &environments{all: make(map[string]int), aged: make(map[string]int)}}
		r.Keeper = New(Config{Environments: r.environments, Report: r.report, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		f(t, r)
		cancel()
		running.Wait()
	})
}

func (r *rig) report(_ context.Context, all []catalog.ProvisionStatus) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf == nil {
		r.reported = all
		r.reports++
	}
	return r.deaf
}

// count is how many reports there were.
func (r *rig) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports
}

// status is what was reported last of one configuration.
func (r *rig) status(t *testing.T) catalog.ProvisionStatus {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.reported) != 1 {
		t.Fatalf("reported %+v", r.reported)
	}
	return r.reported[0]
}

const account kiln.AccountID = "111111111111"

// asked is when all configurations were made.
var asked = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// asks returns what an alias asks for: environments of deployments by their names, each of a version of the same name.
func asks(places map[string]int) []catalog.Provision {
	p := catalog.Provision{Qualifier: "live", Asked: asked}
	for _, d := range slices.Sorted(maps.Keys(places)) {
		p.Shares = append(p.Shares, catalog.Share{Version: &kiln.Version{Qualifier: kiln.Qualifier(d), Deployment: d}, Places: places[d]})
	}
	return []catalog.Provision{p}
}

// pass lets time pass in a bubble.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestAsManyAreKeptAsAreAskedFor(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.Set(account, "f", asks(map[string]int{"1": 5}))
		pass(1100 * time.Millisecond)
		if s := r.status(t); s.Available != parallelism || s.Missing != 5-parallelism || s.Shares["1"] != 5 || s.Failure != "" || !s.Asked.Equal(asked) {
			t.Errorf("meanwhile it is reported %+v", s)
		}
		pass(5 * time.Second)
		r.want(t, map[string]int{"1": 5})
		if s := r.status(t); s.Available != 5 || s.Missing != 0 {
			t.Errorf("reported %+v", s)
		}
		r.set(func() { r.all["1"] = 3 })
		r.Look()
		pass(1100 * time.Millisecond)
		r.want(t, map[string]int{"1": 5})
		r.Set(account, "f", asks(map[string]int{"1": 2}))
		pass(time.Second)
		r.want(t, map[string]int{"1": 2})
		r.Set(account, "f", nil)
		pass(repeat + time.Second)
		r.want(t, map[string]int{})
		if r.most != parallelism || len(r.groups) != 0 || len(r.reported) != 0 {
			t.Errorf("%d were started at a time; left are %v, reported %v", r.most, r.groups, r.reported)
		}
	})
}

func TestThoseThatAreTooOldAreReplacedFirst(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.Set(account, "f", asks(map[string]int{"1": 2}))
		pass(3 * time.Second)
		r.set(func() { r.aged["1"] = 1 })
		pass(repeat + 500*time.Millisecond)
		r.want(t, map[string]int{"1": 2})
		pass(3 * time.Second)
		r.want(t, map[string]int{"1": 2})
		if r.started != 3 || r.aged["1"] != 0 {
			t.Errorf("%d were started, %d are aged", r.started, r.aged["1"])
		}
	})
}

func TestWhatAnAliasLeavesStaysUntilItsSuccessorIsThere(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.Set(account, "f", asks(map[string]int{"1": 2}))
		pass(3 * time.Second)
		r.Set(account, "f", asks(map[string]int{"2": 2}))
		pass(500 * time.Millisecond)
		r.want(t, map[string]int{"1": 2})
		if s := r.status(t); s.Available != 2 || s.Missing != 2 || s.Shares["2"] != 2 {
			t.Errorf("reported %+v", s)
		}
		pass(3 * time.Second)
		r.want(t, map[string]int{"2": 2})
		r.Set(account, "f", asks(map[string]int{"1": 1, "2": 1}))
		pass(3 * time.Second)
		r.want(t, map[string]int{"1": 1, "2": 1})
	})
}

func TestWhatAnAliasLeavesMakesRoomWhereThereIsNone(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.Set(account, "f", asks(map[string]int{"1": 2}))
		pass(3 * time.Second)
		r.set(func() { r.err = kiln.Errorf(kiln.TooManyRequests, "no room") })
		r.Set(account, "f", asks(map[string]int{"2": 2}))
		pass(1500 * time.Millisecond)
		r.want(t, map[string]int{})
		if s := r.status(t); s.Failure != "There is no room for another execution environment." {
			t.Errorf("reported %+v", s)
		}
	})
}

func TestAStartThatFailsIsTriedLessAndLess(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.set(func() { r.err = fmt.Errorf("x: %w", fleet.ErrInit) })
		r.Set(account, "f", asks(map[string]int{"1": 3}))
		pass(10 * time.Minute)
		if s := r.status(t); s.Available != 0 || s.Failure != "FUNCTION_ERROR_INIT_FAILURE" {
			t.Errorf("reported %+v", s)
		}
		if r.started < 10 || r.started > 20 {
			t.Errorf("%d starts in ten minutes", r.started)
		}
		r.set(func() { r.err = nil })
		again := asks(map[string]int{"1": 3})
		again[0].Asked = asked.Add(time.Hour)
		r.Set(account, "f", again) // at once, for somebody has asked for it
		pass(3 * time.Second)
		r.want(t, map[string]int{"1": 3})
		if s := r.status(t); s.Available != 3 || s.Failure != "" {
			t.Errorf("reported %+v", s)
		}
	})
}

func TestAControlPlaneThatWasAwayIsToldAll(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.mu.Lock()
		r.deaf = errors.New("away")
		r.mu.Unlock()
		r.Set(account, "f", asks(map[string]int{"1": 1}))
		pass(3 * time.Second)
		r.mu.Lock()
		r.deaf = nil
		r.mu.Unlock()
		pass(repeat)
		if s := r.status(t); s.Available != 1 {
			t.Errorf("reported %+v", s)
		}
		before := r.count()
		pass(repeat) // it may have been started anew
		if r.count() == before {
			t.Error("it is not told again")
		}
	})
}

func TestAConfigurationThatTakesTheVersionOfAnotherKeepsItsEnvironments(t *testing.T) {
	keeping(t, func(t *testing.T, r *rig) {
		r.Set(account, "f", asks(map[string]int{"1": 2}))
		pass(3 * time.Second)
		other := asks(map[string]int{"1": 2})
		other[0].Qualifier = "1"
		r.Set(account, "f", other)
		pass(3 * time.Second)
		r.want(t, map[string]int{"1": 2})
		if r.started != 2 {
			t.Errorf("%d were started", r.started)
		}
	})
}
