package assignment

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/fleet"
)

// provider is an Assigner that tells of what it has lost.
func provider(t *testing.T, w *fakeWorker) (*Assigner, func() int) {
	lost := 0
	a := New(Config{Worker: w, IdleTimeout: time.Minute, MaxAge: time.Hour, MaxWait: time.Second, Lost: func() { lost++ }})
	running(t, a)
	return a, func() int { a.mu.Lock(); defer a.mu.Unlock(); return lost }
}

func provide(t *testing.T, a *Assigner, d string, n int) {
	t.Helper()
	for range n {
		if err := a.Provide(t.Context(), &kiln.Version{Deployment: d}); err != nil {
			t.Fatal(err)
		}
	}
}

func wantProvided(t *testing.T, a *Assigner, d string, all, aged int) {
	t.Helper()
	if gotAll, gotAged := a.Provided(d, time.Now()); gotAll != all || gotAged != aged {
		t.Errorf("%d of %s are provisioned and %d aged, want %d and %d", gotAll, d, gotAged, all, aged)
	}
}

func TestProvisionedEnvironmentsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(3)
		a, _ := provider(t, w)
		provide(t, a, "d", 2)
		time.Sleep(30 * time.Minute)
		wantProvided(t, a, "d", 2, 0)
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
			t.Fatal(err)
		}
		if alive, made := w.count(); alive != 2 || made != 2 {
			t.Errorf("%d of %d live", alive, made)
		}
		time.Sleep(31 * time.Minute)
		wantProvided(t, a, "d", 2, 2)
		if alive, _ := w.count(); alive != 2 {
			t.Errorf("%d that are too old live until others are there", alive)
		}
		provide(t, a, "d", 1)
		a.Withdraw("d", 1)
		synctest.Wait()
		wantProvided(t, a, "d", 2, 1)
	})
}

func TestProvisionedEnvironmentsMakeNoRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(2)
		a, lost := provider(t, w)
		provide(t, a, "d", 1)
		for _, d := range []string{"e", "f"} {
			if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: d}, kiln.Invocation{}, place(t)); err != nil {
				t.Errorf("%s: %v", d, err)
			}
			time.Sleep(protection)
		}
		provide(t, a, "d", 1) // takes the room of what is idle
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "e"}, kiln.Invocation{}, place(t)); kiln.KindOf(err) != kiln.TooManyRequests {
			t.Errorf("where all is provisioned: %v", err)
		}
		wantProvided(t, a, "d", 2, 0)
		if err := a.Provide(t.Context(), &kiln.Version{Deployment: "d"}); kiln.KindOf(err) != kiln.TooManyRequests {
			t.Errorf("a third: %v", err)
		}
		if lost() != 0 {
			t.Errorf("%d were lost", lost())
		}
	})
}

func TestAProvisionedEnvironmentServesWhoWaitsForItsDeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(1)
		release := make(chan struct{})
		w.handler = func(fleet.EnvironmentID) (bool, error) { <-release; return true, nil }
		a, _ := provider(t, w)
		provide(t, a, "d", 1)
		served := make(chan error, 3) // one value from each caller
		call := func(d string) {
			_, err := a.Invoke(t.Context(), &kiln.Version{Deployment: d}, kiln.Invocation{}, place(t))
			served <- err
		}
		go call("d")
		synctest.Wait()
		go call("e")
		synctest.Wait()
		go call("d")
		synctest.Wait()
		release <- struct{}{}
		release <- struct{}{}
		for range 2 {
			if err := <-served; err != nil {
				t.Errorf("of d: %v", err)
			}
		}
		if err := <-served; kiln.KindOf(err) != kiln.TooManyRequests {
			t.Errorf("of e: %v", err)
		}
		if _, made := w.count(); made != 1 {
			t.Errorf("%d were made", made)
		}
	})
}

func TestWithdrawnEnvironmentsEndWhenTheyAreIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(2)
		release := make(chan struct{})
		w.handler = func(fleet.EnvironmentID) (bool, error) { <-release; return true, nil }
		a, _ := provider(t, w)
		provide(t, a, "d", 2)
		served := make(chan error, 1)
		go func() {
			_, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t))
			served <- err
		}()
		synctest.Wait()
		a.Withdraw("d", 2)
		wantProvided(t, a, "d", 0, 0)
		synctest.Wait()
		if alive, _ := w.count(); alive != 1 {
			t.Errorf("%d live, want the busy one", alive)
		}
		close(release)
		if err := <-served; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if alive, _ := w.count(); alive != 0 || len(w.ends) != 2 || w.ends[0] != fleet.Released || w.ends[1] != fleet.Released {
			t.Errorf("%d live, others ended as %v", alive, w.ends)
		}
	})
}

func TestItIsToldWhenAProvisionedEnvironmentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorker(3)
		a, lost := provider(t, w)
		provide(t, a, "d", 2)
		a.Ended("env1")
		if lost() != 1 {
			t.Errorf("told %d times of one that ended while it was idle", lost())
		}
		w.handler = func(fleet.EnvironmentID) (bool, error) { return false, errors.New("broken") }
		_, _ = a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)) // it breaks
		if lost() != 2 {
			t.Errorf("told %d times of two", lost())
		}
		wantProvided(t, a, "d", 0, 0)
		w.handler = func(fleet.EnvironmentID) (bool, error) { return true, nil }
		if _, err := a.Invoke(t.Context(), &kiln.Version{Deployment: "d"}, kiln.Invocation{}, place(t)); err != nil {
			t.Error(err)
		}
		wantProvided(t, a, "d", 0, 0)
	})
}
