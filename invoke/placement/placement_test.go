package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"kiln"
	"kiln/fleet"
)

// member is a worker with so much memory, which starts environments of 100 MB.
type member struct {
	name  string
	free  int
	err   error
	made  int
	stops []fleet.EnvironmentID
}

func (m *member) Free() int { return m.free }

func (m *member) Start(context.Context, *kiln.Version, fleet.Initialization) (fleet.EnvironmentID, error) {
	switch {
	case m.err != nil:
		return "", m.err
	case m.free < 100:
		return "", &kiln.Error{Kind: kiln.Unavailable, Cause: fleet.ErrNoRoom}
	}
	m.free -= 100
	m.made++
	return fleet.EnvironmentID(fmt.Sprint(m.name, m.made)), nil
}

func (m *member) Invoke(_ context.Context, id fleet.EnvironmentID, _ kiln.Invocation) (kiln.Result, bool, error) {
	return kiln.Result{Payload: []byte(id)}, true, nil
}

func (m *member) Settle(_ fleet.EnvironmentID, done func(bool)) { done(true) }

func (m *member) Stop(id fleet.EnvironmentID, _ fleet.End) { m.stops = append(m.stops, id) }

func start(f *Fleet) (fleet.EnvironmentID, error) {
	return f.Start(context.Background(), &kiln.Version{}, fleet.OnDemand)
}

func TestWorkersFillEvenly(t *testing.T) {
	f := New(func(fleet.EnvironmentID) {})
	a, b := &member{name: "a", free: 300}, &member{name: "b", free: 250}
	f.Join("a", a)
	f.Join("b", b)
	var got []fleet.EnvironmentID
	for range 5 {
		id, err := start(f)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if want := []fleet.EnvironmentID{"a1", "b1", "a2", "b2", "a3"}; !slices.Equal(got, want) {
		t.Errorf("started %v, want %v", got, want)
	}
	if _, err := start(f); !errors.Is(err, fleet.ErrNoRoom) {
		t.Errorf("when all are full: %v", err)
	}
}

func TestStartsAtATimeGoToDifferentWorkers(t *testing.T) {
	f := New(func(fleet.EnvironmentID) {})
	asked := make(chan string, 2)
	release := make(chan struct{})
	for _, name := range []string{"a", "b"} {
		f.Join(name, &slow{member{name: name, free: 1000}, asked, release})
	}
	var wg sync.WaitGroup
	var got []string
	for range 2 {
		wg.Go(func() {
			if _, err := f.Start(t.Context(), &kiln.Version{Config: kiln.Config{MemoryMB: 128}}, fleet.OnDemand); err != nil {
				t.Error(err)
			}
		})
		got = append(got, <-asked)
	}
	close(release)
	wg.Wait()
	if slices.Sort(got); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("asked %v", got)
	}
}

// slow is a member that starts when it is let.
type slow struct {
	member
	asked   chan<- string
	release <-chan struct{}
}

func (s *slow) Start(ctx context.Context, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	s.asked <- s.name
	<-s.release
	return s.member.Start(ctx, v, why)
}

func TestAWorkerThatIsUnavailableIsPassedOver(t *testing.T) {
	f := New(func(fleet.EnvironmentID) {})
	if _, err := start(f); kiln.KindOf(err) != kiln.Unavailable || errors.Is(err, fleet.ErrNoRoom) {
		t.Errorf("without workers: %v", err)
	}
	down := &member{name: "down", free: 1000, err: kiln.Errorf(kiln.Unavailable, "down")}
	up := &member{name: "up", free: 100}
	f.Join("down", down)
	f.Join("up", up)
	if id, err := start(f); id != "up1" || err != nil {
		t.Errorf("started %q, %v", id, err)
	}
	if _, err := start(f); !errors.Is(err, fleet.ErrNoRoom) {
		t.Errorf("one is down and one is full: %v, want that others could make room", err)
	}
	down.err = kiln.Errorf(kiln.InvalidRuntime, "no such runtime")
	if _, err := start(f); kiln.KindOf(err) != kiln.InvalidRuntime {
		t.Errorf("what no worker can do: %v", err)
	}
}

func TestEnvironmentsAreInvokedWhereTheyAre(t *testing.T) {
	var ended []fleet.EnvironmentID
	f := New(func(id fleet.EnvironmentID) { ended = append(ended, id) })
	a, b := &member{name: "a", free: 200}, &member{name: "b", free: 150}
	f.Join("a", a)
	f.Join("b", b)
	for range 2 {
		if _, err := start(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []fleet.EnvironmentID{"a1", "b1"} {
		if res, _, err := f.Invoke(t.Context(), id, kiln.Invocation{}); err != nil || string(res.Payload) != string(id) {
			t.Errorf("%s answered %s, %v", id, res.Payload, err)
		}
	}
	f.Stop("a1", fleet.Idle)
	if !slices.Equal(a.stops, []fleet.EnvironmentID{"a1"}) || len(b.stops) > 0 {
		t.Errorf("stopped %v and %v", a.stops, b.stops)
	}
	f.Leave("b")
	if !slices.Equal(ended, []fleet.EnvironmentID{"b1"}) {
		t.Errorf("told of %v when a worker left", ended)
	}
	for _, id := range []fleet.EnvironmentID{"a1", "b1"} {
		if _, _, err := f.Invoke(t.Context(), id, kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
			t.Errorf("%s, which has ended: %v", id, err)
		}
	}
}
