package assignment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/internal/fairqueue"
	"kiln/invoke/admission"
)

// version is the one version of a function of an account.
func version(a, f string) *kiln.Version {
	return &kiln.Version{
		Account: kiln.AccountID(a), Function: kiln.FunctionName(f), Deployment: a + "/" + f, Config: kiln.Config{MemoryMB: 128, Timeout: time.Minute},
	}
}

// calling is an Assigner in a bubble, all of whose calls take so long.
type calling struct {
	*Assigner
	t      *testing.T
	worker *fakeWorker
	wg     sync.WaitGroup
}

func newCalling(t *testing.T, room int, takes time.Duration, cfg Config) *calling {
	c := &calling{t: t, worker: newFakeWorker(room)}
	c.worker.handler = func(fleet.EnvironmentID) (bool, error) { time.Sleep(takes); return true, nil }
	cfg.Worker = c.worker
	c.Assigner = New(cfg)
	running(t, c.Assigner)
	return c
}

// start calls v in a goroutine, and does with the error what is wanted.
func (c *calling) start(v *kiln.Version, want func(error)) {
	c.wg.Go(func() {
		_, err := c.Invoke(c.t.Context(), v, kiln.Invocation{}, place(c.t))
		want(err)
	})
}

// keepCalling calls v in a goroutine, again and again until stop is closed, and hands on each error, or nil.
func (c *calling) keepCalling(v *kiln.Version, stop <-chan struct{}, answered func(error)) {
	c.wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, err := c.Invoke(c.t.Context(), v, kiln.Invocation{}, place(c.t))
			answered(err)
		}
	})
}

func (c *calling) succeeds(err error) {
	if err != nil {
		c.t.Error(err)
	}
}

func (c *calling) refused(err error) {
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok || e.Kind != kiln.TooManyRequests || e.RetryAfter <= 0 || e.Reason == "" {
		c.t.Errorf("got %v, want to be refused", err)
	}
}

func TestCallersWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalling(t, 1, 3*time.Second, Config{})
		begun := time.Now()
		for _, f := range []string{"f", "g", "h"} {
			c.start(version("a", f), c.succeeds)
		}
		synctest.Wait()
		if n := c.Waiting(); n != 2 {
			t.Errorf("%d wait", n)
		}
		c.wg.Wait()
		if took := time.Since(begun); took != 9*time.Second || c.Waiting() != 0 {
			t.Errorf("three calls of 3 s took %v, and %d wait", took, c.Waiting())
		}
	})
}

func TestWaitersOfTheSameDeploymentAreGivenItsEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalling(t, 2, 100*time.Millisecond, Config{})
		for range 100 {
			c.start(version("a", "f"), c.succeeds)
		}
		c.wg.Wait()
		if _, made := c.worker.count(); made != 2 {
			t.Errorf("%d environments were made", made)
		}
	})
}

func TestWaitingEndsWithARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalling(t, 1, time.Minute, Config{MaxWait: 4 * time.Second})
		c.start(version("a", "f"), c.succeeds)
		synctest.Wait()
		begun := time.Now()
		c.start(version("a", "g"), func(err error) {
			c.refused(err)
			if took := time.Since(begun); took != 4*time.Second {
				t.Errorf("refused after %v", took)
			}
		})
		c.wg.Wait()
	})
}

func TestWhoGoesAwayWaitsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalling(t, 1, 5*time.Second, Config{})
		c.start(version("a", "f"), c.succeeds)
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		c.wg.Go(func() {
			if _, err := c.Invoke(ctx, version("a", "g"), kiln.Invocation{}, place(t)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		if c.Waiting() != 0 {
			t.Error("still waits")
		}
		c.wg.Wait()
		if _, made := c.worker.count(); made != 1 {
			t.Error("an environment was made for nobody")
		}
	})
}

func TestAnInvocationThatHasBegunGoesOnWithoutItsCaller(t *testing.T) {
	w := newFakeWorker(1)
	ctx, leave := context.WithCancel(t.Context())
	w.handler = func(fleet.EnvironmentID) (bool, error) { leave(); return true, nil }
	a := New(Config{Worker: ended{w}})
	if _, err := a.Invoke(ctx, version("a", "f"), kiln.Invocation{}, place(t)); err != nil {
		t.Errorf("got %v", err)
	}
}

// ended fails invocations whose context has ended.
type ended struct{ *fakeWorker }

func (e ended) Invoke(ctx context.Context, id fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	res, reusable, _ := e.fakeWorker.Invoke(ctx, id, inv)
	return res, reusable, ctx.Err()
}

func TestTooManyWaitersDriveOutThoseOfTheLongestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalling(t, 1, time.Second, Config{MaxWaiting: 3})
		refused := 0
		for range 5 { // one runs, three wait
			c.start(version("a", "f"), func(err error) {
				if err != nil {
					c.refused(err)
					refused++
				}
			})
			synctest.Wait()
		}
		c.start(version("b", "g"), c.succeeds)
		c.wg.Wait()
		if refused != 2 {
			t.Errorf("%d of five callers were refused, want the fifth, and the fourth for another function's", refused)
		}
	})
}

func TestWhoWaitsIsRefusedWhenTheNodeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(1)
		hold := make(chan struct{})
		w.handler = func(fleet.EnvironmentID) (bool, error) { <-hold; return true, nil }
		a := New(Config{Worker: w, MaxWait: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { _ = a.Run(ctx) }) // always nil
		wg.Go(func() { _, _ = a.Invoke(t.Context(), version("a", "f"), kiln.Invocation{}, place(t)) })
		synctest.Wait()
		for range 2 { // one waits when Run ends, one comes later
			wg.Go(func() {
				if _, err := a.Invoke(t.Context(), version("a", "g"), kiln.Invocation{}, place(t)); kiln.KindOf(err) != kiln.Unavailable {
					t.Errorf("got %v", err)
				}
			})
			synctest.Wait()
			cancel()
			synctest.Wait()
		}
		close(hold)
		wg.Wait()
	})
}

// TestOneFunctionWithManyCallersLeavesAnotherItsShare lets a function be called by thousands at once, and another's calls come one
// after the other, with pauses. The second is to be served from an environment of its own, which nobody takes.
func TestOneFunctionWithManyCallersLeavesAnotherItsShare(t *testing.T) {
	for _, aggressors := range []int{1, 3, 7} {
		synctest.Test(t, func(t *testing.T) {
			const takes = 100 * time.Millisecond
			c := newCalling(t, 8, takes, Config{})
			c.cfg.Worker = slowStart{c.worker, startTime}
			stop := make(chan struct{})
			for i := range 2000 {
				v := version("a", fmt.Sprint("aggressor", i%aggressors))
				c.keepCalling(v, stop, func(err error) {
					if err != nil {
						c.refused(err)
						time.Sleep(time.Second)
					}
				})
			}
			time.Sleep(10 * time.Second)
			late := 0
			for i := range 200 {
				begun := time.Now()
				_, err := c.Invoke(t.Context(), version("a", "victim"), kiln.Invocation{}, place(t))
				c.succeeds(err)
				if took := time.Since(begun); took > takes {
					late++
					if i > 0 && took > takes+time.Second+startTime {
						t.Errorf("call %d took %v", i, took)
					}
				}
				time.Sleep(200 * time.Millisecond)
			}
			if late > 2 {
				t.Errorf("with %d aggressors %d of 200 calls found no environment", aggressors, late)
			}
			close(stop)
			c.wg.Wait()
		})
	}
}

const startTime = 50 * time.Millisecond

// slowStart is a worker whose starts take so long.
type slowStart struct {
	*fakeWorker
	takes time.Duration
}

func (s slowStart) Start(ctx context.Context, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	id, err := s.fakeWorker.Start(ctx, v, why)
	if err == nil {
		time.Sleep(s.takes)
	}
	return id, err
}

func TestAccountsShareBeforeTheirFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalling(t, 8, 100*time.Millisecond, Config{MaxWait: time.Hour})
		c.cfg.Worker = slowStart{c.worker, startTime}
		var served [2]atomic.Int64
		stop := make(chan struct{})
		keep := func(v *kiln.Version, n *atomic.Int64) {
			c.keepCalling(v, stop, func(err error) { c.succeeds(err); n.Add(1) })
		}
		for i := range 100 {
			keep(version("many", fmt.Sprint(i)), &served[0])
			keep(version("one", "f"), &served[1])
		}
		time.Sleep(5 * time.Minute)
		close(stop)
		c.wg.Wait()
		// Those of the first have a start more for each quantum.
		if share := float64(served[1].Load()) / float64(served[0].Load()+served[1].Load()); share < 0.45 || share > 0.6 {
			t.Errorf("an account with one function has %.2f of the calls, beside one with 100", share)
		}
	})
}

func TestWhereStartsTakeLongLessChangesHands(t *testing.T) {
	for _, starts := range []struct {
		takes    time.Duration
		min, max int
	}{{10 * time.Millisecond, 600, 900}, {400 * time.Millisecond, 150, 300}} {
		synctest.Test(t, func(t *testing.T) {
			c := newCalling(t, 3, 100*time.Millisecond, Config{MaxWait: time.Hour})
			c.cfg.Worker = slowStart{c.worker, starts.takes}
			stop := make(chan struct{})
			for i := range 12 {
				c.keepCalling(version("a", fmt.Sprint(i)), stop, c.succeeds)
			}
			time.Sleep(5 * time.Minute)
			if _, made := c.worker.count(); made < starts.min || made > starts.max {
				t.Errorf("12 functions had 3 places made %d times anew in five minutes where starts take %v", made, starts.takes)
			}
			close(stop)
			c.wg.Wait()
		})
	}
}

func TestWhatKeepsFailingToInitializeIsRefusedWithoutAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(10)
		w.outcome = kiln.InitFailed
		w.handler = func(fleet.EnvironmentID) (bool, error) { return false, nil }
		c := &calling{t: t, Assigner: New(Config{Worker: w}), worker: w}
		v := version("a", "f")
		for range tolerated {
			_, err := c.Invoke(t.Context(), v, kiln.Invocation{}, place(t))
			c.succeeds(err)
		}
		_, err := c.Invoke(t.Context(), v, kiln.Invocation{}, place(t))
		if kiln.KindOf(err) != kiln.TooManyRequests {
			t.Errorf("got %v", err)
		}
		if _, made := w.count(); made != tolerated {
			t.Errorf("%d starts for %d failures", made, tolerated)
		}
		time.Sleep(minPause)
		w.outcome, w.handler = kiln.Succeeded, func(fleet.EnvironmentID) (bool, error) { return true, nil }
		for range 3 {
			_, err = c.Invoke(t.Context(), v, kiln.Invocation{}, place(t))
			c.succeeds(err)
		}
	})
}

// TestNothingIsHeldWhenNobodyCalls lets calls of all kinds meet environments that end in all ways, and looks for what is left.
func TestNothingIsHeldWhenNobodyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(5)
		w.handler = func(id fleet.EnvironmentID) (bool, error) {
			time.Sleep(rand.N(300 * time.Millisecond))
			switch rand.N(20) {
			case 0:
				return false, nil
			case 1:
				return false, fleet.ErrGone
			}
			return true, nil
		}
		a := New(Config{Worker: w, MaxWaiting: 40, MaxWait: 2 * time.Second, IdleTimeout: 20 * time.Second})
		running(t, a)
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				for n := range 100 {
					v := version(fmt.Sprint(i%3), fmt.Sprint(i%7))
					v.Deployment += fmt.Sprint("/", n/50)
					ctx, cancel := context.WithTimeout(t.Context(), rand.N(3*time.Second))
					_, _ = a.Invoke(ctx, v, kiln.Invocation{}, place(t)) // whatever becomes of it
					cancel()
					if rand.N(50) == 0 {
						a.Retire(v.Deployment)
					}
					time.Sleep(rand.N(100 * time.Millisecond))
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if alive, _ := w.count(); alive != 0 || !isEmpty(a.table) || a.queue.Waiting() != 0 {
			t.Errorf("%d environments are alive, %d are known, %d wait", alive, len(a.table.environments), a.queue.Waiting())
		}
		a.queue.Short(time.Now()) // nothing of before counts any more
		for acc := range 3 {
			for f := range 7 {
				x := fairqueue.Flow{Tenant: fmt.Sprint(acc), Key: fmt.Sprint(f)}
				if held := a.queue.Held(x); held != 0 {
					t.Errorf("%v holds %v", x, held)
				}
			}
		}
	})
}

func TestWhatIsNotUsedAfterAllIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = minQuantum + lookForRoom/2 // so that who comes after the quantum is given a place before it looks for one
		c := newCalling(t, 1, takes, Config{MaxWait: time.Hour})
		limiter := admission.New(admission.Config{Starts: 1, StartsPer: time.Hour})
		acquire := func() admission.Lease {
			lease, err := limiter.Acquire(version("b", "f"), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return lease
		}
		first := acquire()
		if err := first.Start(time.Now()); err != nil { // which is all for an hour
			t.Fatal(err)
		}
		first.Release(time.Now())
		for _, account := range []string{"a", "c"} { // the one has the place, the other waits for it
			c.start(version(account, "f"), c.succeeds)
			synctest.Wait()
		}
		time.Sleep(minQuantum)
		c.wg.Go(func() {
			_, err := c.Invoke(t.Context(), version("b", "f"), kiln.Invocation{}, acquire())
			if e, ok := errors.AsType[*kiln.Error](err); !ok || e.Reason != kiln.RateExceeded {
				t.Errorf("got %v", err)
			}
		})
		c.wg.Wait()
		synctest.Wait()
		if alive, made := c.worker.count(); alive != 1 || made != 2 {
			t.Errorf("%d of %d live, want the second", alive, made)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.moving != 0 {
			t.Errorf("%d are on the move", c.moving)
		}
	})
}
