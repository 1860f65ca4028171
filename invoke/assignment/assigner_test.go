package assignment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/invoke/admission"
)

// place returns a lease of a limiter that limits nobody else.
func place(t *testing.T) admission.Lease {
	t.Helper()
	lease, err := admission.New(admission.Config{}).Acquire(&kiln.Version{Account: "111111111111", Function: "f"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// fakeWorker has room for a number of environments and remembers what became of them.
type fakeWorker struct {
	mu      sync.Mutex
	room    int
	made    int
	alive   map[fleet.EnvironmentID]bool
	busy    map[fleet.EnvironmentID]bool
	handler func(fleet.EnvironmentID) (reusable bool, err error)
	// ends are the reasons of Stop.
	ends    []fleet.End
	outcome kiln.Outcome
	// unsettled makes every result so, and settle takes what is to be called then.
	unsettled bool
	settle    []func(reusable bool)
}

func newFakeWorker(room int) *fakeWorker {
	return &fakeWorker{
		room: room, alive: make(map[fleet.EnvironmentID]bool), busy: make(map[fleet.EnvironmentID]bool),
		handler: func(fleet.EnvironmentID) (bool, error) { return true, nil },
	}
}

func (w *fakeWorker) Start(context.Context, *kiln.Version, fleet.Initialization) (fleet.EnvironmentID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.alive) >= w.room {
		return "", &kiln.Error{Kind: kiln.Unavailable, Cause: fleet.ErrNoRoom}
	}
	w.made++
	id := fleet.EnvironmentID(fmt.Sprint("env", w.made))
	w.alive[id] = true
	return id, nil
}

func (w *fakeWorker) Invoke(_ context.Context, id fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	w.mu.Lock()
	if !w.alive[id] || w.busy[id] {
		gone := !w.alive[id]
		w.mu.Unlock()
		if gone {
			return kiln.Result{}, false, fleet.ErrGone
		}
		return kiln.Result{}, false, errors.New("two invocations in one environment")
	}
	w.busy[id] = true
	w.mu.Unlock()
	reusable, err := w.handler(id)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy[id] = false
	if !reusable {
		delete(w.alive, id)
	}
	return kiln.Result{Payload: inv.Payload, Outcome: w.outcome, Unsettled: w.unsettled}, reusable, err
}

func (w *fakeWorker) Settle(_ fleet.EnvironmentID, done func(bool)) {
	w.settle = append(w.settle, done)
}

func (w *fakeWorker) Stop(id fleet.EnvironmentID, why fleet.End) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.alive, id)
	w.ends = append(w.ends, why)
}

func (w *fakeWorker) count() (alive, made int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.alive), w.made
}

// running runs a until the bubble's test ends.
func running(t *testing.T, a *Assigner) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestOneEnvironmentServesCallsInTurn(t *testing.T) {
	w := newFakeWorker(10)
	a := New(Config{Worker: w})
	for range 5 {
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
			t.Fatal(err)
		}
	}
	if _, made := w.count(); made != 1 {
		t.Errorf("five calls in turn made %d environments", made)
	}
}

func TestParallelCallsGetTheirOwnEnvironments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(10)
		release := make(chan struct{})
		w.handler = func(fleet.EnvironmentID) (bool, error) { <-release; return true, nil }
		a := New(Config{Worker: w})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, made := w.count(); made != 4 {
			t.Errorf("four calls at a time made %d environments", made)
		}
		close(release)
		wg.Wait()
	})
}

func TestAnEnvironmentThatEndedIsReplaced(t *testing.T) {
	w := newFakeWorker(10)
	a := New(Config{Worker: w})
	v := &kiln.Version{Deployment: "d"}
	if _, err := a.Invoke(t.Context(), v, kiln.Invocation{}, place(t)); err != nil {
		t.Fatal(err)
	}
	w.Stop("env1", fleet.Crashed)
	if _, err := a.Invoke(t.Context(), v, kiln.Invocation{}, place(t)); err != nil {
		t.Errorf("the call that met a dead environment: %v", err)
	}
	if _, made := w.count(); made != 2 {
		t.Errorf("%d environments were made", made)
	}
}

func TestEnvironmentsThatKeepEndingAreGivenUp(t *testing.T) {
	w := newFakeWorker(10)
	w.handler = func(fleet.EnvironmentID) (bool, error) { return false, fleet.ErrGone }
	a := New(Config{Worker: w})
	if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); kiln.KindOf(err) != kiln.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestRoomIsMadeByEndingIdleEnvironments(t *testing.T) {
	w := newFakeWorker(1)
	a := New(Config{Worker: w})
	for _, d := range []string{"d1", "d2"} {
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: d}, kiln.Invocation{}, place(t)); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	if !slices.Equal(w.ends, []fleet.End{fleet.Evicted}) {
		t.Errorf("ended as %v", w.ends)
	}
}

func TestIdleEnvironmentsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(10)
		a := New(Config{Worker: w, IdleTimeout: time.Minute})
		running(t, a)
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if alive, _ := w.count(); alive != 1 {
			t.Error("ended before its idle time")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if alive, _ := w.count(); alive != 0 {
			t.Error("still there after its idle time")
		}
		if !slices.Equal(w.ends, []fleet.End{fleet.Idle}) {
			t.Errorf("ended as %v", w.ends)
		}
	})
}

func TestEnvironmentsEndOfAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(100)
		a := New(Config{Worker: w, MaxAge: time.Hour, IdleTimeout: 2 * time.Hour})
		running(t, a)
		for i := range 50 {
			if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: fmt.Sprint(i)}, kiln.Invocation{}, place(t)); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			after    time.Duration
			min, max int
		}{{53 * time.Minute, 50, 50}, {4 * time.Minute, 1, 49}, {10 * time.Minute, 0, 0}} {
			time.Sleep(c.after)
			synctest.Wait()
			if alive, _ := w.count(); alive < c.min || alive > c.max {
				t.Errorf("%d of 50 environments are left after another %v, want %d to %d", alive, c.after, c.min, c.max)
			}
		}
	})
}

func TestAnIdleEnvironmentThatEndsCostsNoCall(t *testing.T) {
	w := newFakeWorker(10)
	a := New(Config{Worker: w})
	v := &kiln.Version{Deployment: "d"}
	if _, err := a.Invoke(t.Context(), v, kiln.Invocation{}, place(t)); err != nil {
		t.Fatal(err)
	}
	a.Ended("env1") // the worker would answer, if it were asked
	if _, err := a.Invoke(t.Context(), v, kiln.Invocation{}, place(t)); err != nil {
		t.Fatal(err)
	}
	if _, made := w.count(); made != 2 {
		t.Errorf("%d environments were made, want another after the first ended", made)
	}
}

func TestRetiredEnvironmentsEndWhenTheirInvocationIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(10)
		release := make(chan struct{})
		w.handler = func(fleet.EnvironmentID) (bool, error) { <-release; return true, nil }
		a := New(Config{Worker: w})
		running(t, a)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		a.Retire("d")
		synctest.Wait()
		if alive, _ := w.count(); alive != 1 {
			t.Error("a running invocation lost its environment")
		}
		close(release)
		wg.Wait()
		synctest.Wait()
		if alive, _ := w.count(); alive != 0 {
			t.Error("the environment outlived its deployment")
		}
		if !slices.Equal(w.ends, []fleet.End{fleet.Retired}) {
			t.Errorf("ended as %v", w.ends)
		}
	})
}

func TestAnEnvironmentIsNotGivenAwayBeforeItHasSettled(t *testing.T) {
	w := newFakeWorker(10)
	w.unsettled = true
	a := New(Config{Worker: w})
	call := func() {
		t.Helper()
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
			t.Fatal(err)
		}
	}
	call()
	call()
	if _, made := w.count(); made != 2 {
		t.Fatalf("%d environments for two calls, the first of which has not settled", made)
	}
	w.settle[0](true)
	w.settle[1](false)
	call()
	if _, made := w.count(); made != 2 {
		t.Errorf("%d environments: the one that settled well is not used again", made)
	}
}

func TestAFunctionThatGrowsTooFastIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(10)
		limiter := admission.New(admission.Config{Starts: 2, StartsPer: 2 * time.Second})
		a := New(Config{Worker: w})
		v := &kiln.Version{Account: "111111111111", Function: "f"}
		invoke := func(deployment string) error {
			lease, err := limiter.Acquire(v, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			fresh := *v
			fresh.Deployment = deployment
			_, err = a.Invoke(t.Context(), &fresh, kiln.Invocation{}, lease)
			return err
		}
		if err := errors.Join(invoke("d1"), invoke("d2")); err != nil {
			t.Fatal(err)
		}
		err := invoke("d3")
		e, ok := errors.AsType[*kiln.Error](err)
		if !ok || e.Kind != kiln.TooManyRequests || e.Reason != kiln.RateExceeded || e.RetryAfter != time.Second {
			t.Errorf("the third start at once: %#v", err)
		}
		if w.made != 2 {
			t.Errorf("%d were started", w.made)
		}
		if err := invoke("d1"); err != nil {
			t.Errorf("an idle environment: %v", err)
		}
		<-time.After(time.Second)
		if err := invoke("d3"); err != nil {
			t.Errorf("a second later: %v", err)
		}
	})
}

func TestThePlaceIsHeldUntilTheEnvironmentIsFree(t *testing.T) {
	w := newFakeWorker(1)
	w.unsettled = true
	limiter := admission.New(admission.Config{Concurrency: kiln.Concurrency{Default: 1}})
	a := New(Config{Worker: w})
	lease, err := limiter.Acquire(&kiln.Version{Account: "111111111111", Function: "f"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, lease); err != nil {
		t.Fatal(err)
	}
	if _, err := limiter.Acquire(&kiln.Version{Account: "111111111111", Function: "f"}, time.Now()); kiln.KindOf(err) != kiln.TooManyRequests {
		t.Errorf("while extensions go on: %v", err)
	}
	w.settle[0](true)
	if _, err := limiter.Acquire(&kiln.Version{Account: "111111111111", Function: "f"}, time.Now()); err != nil {
		t.Errorf("after that: %v", err)
	}
}
