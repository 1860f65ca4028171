package assignment

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/fleet"
)

// whyWorker counts why environments are started.
type whyWorker struct {
	*fakeWorker
	starts [fleet.Expected + 1]atomic.Int32
}

func (w *whyWorker) Start(ctx context.Context, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	id, err := w.fakeWorker.Start(ctx, v, why)
	if err == nil {
		w.starts[why].Add(1)
	}
	return id, err
}

func (w *whyWorker) want(t *testing.T, onDemand, expected int32) {
	t.Helper()
	if d, e := w.starts[fleet.OnDemand].Load(), w.starts[fleet.Expected].Load(); d != onDemand || e != expected {
		t.Errorf("%d were started on demand and %d ahead, want %d and %d", d, e, onDemand, expected)
	}
}

// forecasting is an Assigner without an idle timeout, in a bubble.
func forecasting(t *testing.T, room int, resolve func() error) (*Assigner, *whyWorker, *kiln.Version) {
	w := &whyWorker{fakeWorker: newFakeWorker(room)}
	v := &kiln.Version{Account: "111111111111", Function: "f", Qualifier: kiln.LatestVersion, Deployment: "d", State: kiln.StateActive, Config: kiln.Config{MemoryMB: 512}}
	a := New(Config{Worker: w, Resolve: func(a kiln.AccountID, f kiln.FunctionName, q kiln.Qualifier) (*kiln.Version, error) {
		if a != v.Account || f != v.Function || q != v.Qualifier {
			return nil, errors.New("another")
		}
		return v, resolve()
	}})
	running(t, a)
	return a, w, v
}

func is() error { return nil }

// callEvery calls v so many times.
func callEvery(t *testing.T, a *Assigner, v *kiln.Version, times int, gap time.Duration) {
	t.Helper()
	for range times {
		if _, err := a.Invoke(t.Context(), v, kiln.Invocation{}, place(t)); err != nil {
			t.Error(err)
		}
		time.Sleep(gap)
	}
}

func TestAnEnvironmentIsThereWhenACallIsExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, v := forecasting(t, 10, is)
		callEvery(t, a, v, 10, 40*time.Minute)
		learned := w.starts[fleet.OnDemand].Load()
		if learned > 6 {
			t.Errorf("%d of ten calls met a cold start", learned)
		}
		ahead := w.starts[fleet.Expected].Load()
		callEvery(t, a, v, 10, 40*time.Minute)
		w.want(t, learned, ahead+10)
		time.Sleep(2 * time.Minute)
		if alive, _ := w.count(); alive != 0 {
			t.Errorf("%d live after calls did not come", alive)
		}
	})
}

func TestWhatIsCalledOftenIsNotStartedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, v := forecasting(t, 10, is)
		v.MemoryMB = 128
		callEvery(t, a, v, 50, 3*time.Minute)
		w.want(t, 1, 0)
	})
}

func TestNothingIsExpectedOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		a, w, v := forecasting(t, 10, func() error {
			if gone.Load() {
				return errors.New("gone")
			}
			return nil
		})
		callEvery(t, a, v, 10, 40*time.Minute)
		gone.Store(true)
		ahead := w.starts[fleet.Expected].Load()
		time.Sleep(3 * time.Hour)
		if again := w.starts[fleet.Expected].Load(); again != ahead {
			t.Errorf("%d were started of a function that is gone", again-ahead)
		}
	})
}

func TestWhatIsExpectedTakesNobodysRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, v := forecasting(t, 1, is)
		callEvery(t, a, v, 10, 40*time.Minute)
		release := make(chan struct{})
		w.mu.Lock()
		w.handler = func(fleet.EnvironmentID) (bool, error) { <-release; return true, nil }
		w.mu.Unlock()
		other := &kiln.Version{Account: "111111111111", Function: "g", Qualifier: kiln.LatestVersion, Deployment: "e", State: kiln.StateActive, Config: kiln.Config{MemoryMB: 128}}
		done := make(chan error, 1)
		go func() {
			_, err := a.Invoke(t.Context(), other, kiln.Invocation{}, place(t))
			done <- err
		}()
		before := w.starts[fleet.Expected].Load()
		time.Sleep(60 * time.Minute)
		if got := w.starts[fleet.Expected].Load(); got != before {
			t.Errorf("%d were started where there is no room", got-before)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if held := a.queue.Held(flow(v)); held != 0 {
			t.Errorf("%v MB are held for what did not come", held)
		}
	})
}

func TestABurstLeavesNoMoreThanIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, v := forecasting(t, 100, is)
		v.MemoryMB = 128
		w.handler = func(fleet.EnvironmentID) (bool, error) { time.Sleep(time.Second); return true, nil }
		c := &calling{t: t, Assigner: a, worker: w.fakeWorker}
		for range 64 {
			c.start(v, c.succeeds)
		}
		c.wg.Wait()
		callEvery(t, a, v, 60, time.Minute)
		if alive, _ := w.count(); alive != 1 {
			t.Errorf("%d live an hour after 64 were needed, and one since", alive)
		}
	})
}
