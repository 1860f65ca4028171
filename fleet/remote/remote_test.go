package remote

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/internal/local"
)

// worker is a fleet.Worker that does what a test says.
type worker struct {
	mu      sync.Mutex
	invoke  func(fleet.EnvironmentID, kiln.Invocation) (kiln.Result, bool, error)
	start   func(*kiln.Version) (fleet.EnvironmentID, error)
	stopped []fleet.EnvironmentID
	stops   chan fleet.End // has room for all that a test stops
}

func newWorker() *worker {
	return &worker{
		stops: make(chan fleet.End, 16),
		start: func(v *kiln.Version) (fleet.EnvironmentID, error) { return fleet.EnvironmentID(v.Function), nil },
		invoke: func(_ fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
			return kiln.Result{Payload: inv.Payload}, true, nil
		},
	}
}

func (w *worker) Start(_ context.Context, v *kiln.Version, _ fleet.Initialization) (fleet.EnvironmentID, error) {
	return w.start(v)
}

func (w *worker) Invoke(_ context.Context, id fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	return w.invoke(id, inv)
}

func (w *worker) Settle(_ fleet.EnvironmentID, done func(bool)) { done(true) }

func (w *worker) Stop(id fleet.EnvironmentID, why fleet.End) {
	w.mu.Lock()
	w.stopped = append(w.stopped, id)
	w.mu.Unlock()
	w.stops <- why
}

// rig is a worker behind a socket.
type rig struct {
	*worker
	server *Server
	client *Client
	stop   func()
	path   string
	ended  chan fleet.EnvironmentID      // has room for all that a test ends
	lost   chan error                    // what the client's Run returned
	hang   atomic.Pointer[chan struct{}] // what the worker waits for before it says how much is free, if set
}

func newRig(t *testing.T) *rig {
	r := &rig{worker: newWorker(), path: filepath.Join(t.TempDir(), "s"), ended: make(chan fleet.EnvironmentID, 16), lost: make(chan error, 1)}
	l, err := local.Listen(r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.server = NewServer(Config{
		Listener: l, Worker: r.worker, Free: r.free, Drain: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
		Lookup: func(id string) Bearer { return Bearer{Account: "123456789012", Role: id, Known: id != ""} },
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	if r.client, err = Dial(t.Context(), r.path); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.lost <- r.client.Run(context.WithoutCancel(t.Context()), func(id fleet.EnvironmentID) { r.ended <- id })
	}()
	r.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(r.stop)
	return r
}

func (r *rig) free() int {
	if hang := r.hang.Load(); hang != nil {
		<-*hang
	}
	return 42
}

func TestAWorkerInAnotherProcessDoesWhatItIsAsked(t *testing.T) {
	r := newRig(t)
	v := &kiln.Version{Account: "123456789012", Function: "f", Config: kiln.Config{Environment: map[string]string{"A": "b"}, Timeout: time.Second}}
	r.start = func(got *kiln.Version) (fleet.EnvironmentID, error) {
		if got.Function != v.Function || got.Environment["A"] != "b" || got.Timeout != v.Timeout {
			t.Errorf("it was asked to start %+v", got)
		}
		return "e", nil
	}
	id, err := r.client.Start(t.Context(), v, fleet.OnDemand)
	if id != "e" || err != nil || r.client.Free() != 42 {
		t.Fatalf("started %q, %v, %d MB free", id, err, r.client.Free())
	}
	large := kiln.Invocation{ID: "r", Payload: make([]byte, kiln.MaxPayload), TraceID: "t"}
	res, reusable, err := r.client.Invoke(t.Context(), id, large)
	if len(res.Payload) != kiln.MaxPayload || !reusable || err != nil {
		t.Errorf("%d bytes, %v, %v", len(res.Payload), reusable, err)
	}
	settled := make(chan bool, 1)
	r.client.Settle(id, func(reusable bool) { settled <- reusable })
	if !<-settled {
		t.Error("it has not settled well")
	}
	if b, err := r.client.Lookup(t.Context(), "role"); err != nil || b.Role != "role" || !b.Known {
		t.Errorf("found %+v, %v", b, err)
	}
	r.client.Stop(id, fleet.Idle)
	if why := <-r.stops; why != fleet.Idle || !slices.Equal(r.stopped, []fleet.EnvironmentID{"e"}) {
		t.Errorf("stopped %v, as %v", r.stopped, why)
	}
}

func TestErrorsOfAWorkerKeepTheirKinds(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		err    error
		kind   kiln.Kind
		noRoom bool
	}{
		"no room":    {&kiln.Error{Kind: kiln.Unavailable, Message: "m", Cause: fleet.ErrNoRoom}, kiln.Unavailable, true},
		"no runtime": {kiln.Errorf(kiln.InvalidRuntime, "m"), kiln.InvalidRuntime, false},
		"internal":   {errors.New("m"), kiln.Internal, false},
	} {
		r.start = func(*kiln.Version) (fleet.EnvironmentID, error) { return "", c.err }
		_, err := r.client.Start(t.Context(), &kiln.Version{}, fleet.OnDemand)
		if kiln.KindOf(err) != c.kind || errors.Is(err, fleet.ErrNoRoom) != c.noRoom || errors.Is(err, ErrLost) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	r.invoke = func(fleet.EnvironmentID, kiln.Invocation) (kiln.Result, bool, error) {
		return kiln.Result{}, false, fleet.ErrGone
	}
	if _, _, err := r.client.Invoke(t.Context(), "e", kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("of one that has ended: %v", err)
	}
}

func TestEnvironmentsThatEndAreTold(t *testing.T) {
	r := newRig(t)
	for _, f := range []kiln.FunctionName{"a", "b"} {
		if _, err := r.client.Start(t.Context(), &kiln.Version{Function: f}, fleet.OnDemand); err != nil {
			t.Fatal(err)
		}
	}
	r.server.Ended("unknown")
	r.server.Ended("b")
	if id := <-r.ended; id != "b" {
		t.Errorf("told of %q", id)
	}
}

func TestEnvironmentsEndWithWhoStartedThem(t *testing.T) {
	r := newRig(t)
	for _, f := range []kiln.FunctionName{"a", "b"} {
		if _, err := r.client.Start(t.Context(), &kiln.Version{Function: f}, fleet.OnDemand); err != nil {
			t.Fatal(err)
		}
	}
	r.client.calls.Close()
	for range 2 {
		if why := <-r.stops; why != fleet.Orphaned {
			t.Errorf("ended as %v", why)
		}
	}
	if err := <-r.lost; !errors.Is(err, ErrLost) {
		t.Errorf("the client ended with %v", err)
	}
	if _, err := r.client.Start(t.Context(), &kiln.Version{}, fleet.OnDemand); kiln.KindOf(err) != kiln.Unavailable || !errors.Is(err, ErrLost) {
		t.Errorf("start over a connection that has ended: %v", err)
	}
}

func TestWhatWasBeingStartedEndsWithWhoAskedForIt(t *testing.T) {
	r := newRig(t)
	starting, release := make(chan struct{}), make(chan struct{})
	r.start = func(*kiln.Version) (fleet.EnvironmentID, error) {
		close(starting)
		<-release
		return "late", nil
	}
	asked := make(chan error, 1)
	go func() {
		_, err := r.client.Start(context.WithoutCancel(t.Context()), &kiln.Version{}, fleet.OnDemand)
		asked <- err
	}()
	<-starting
	r.client.calls.Close()
	if err := <-asked; !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	close(release)
	if why := <-r.stops; why != fleet.Orphaned || r.stopped[0] != "late" {
		t.Errorf("%v ended, as %v", r.stopped, why)
	}
}

func TestAWorkerThatHangsIsLost(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	r.start = func(*kiln.Version) (fleet.EnvironmentID, error) { <-release; return "", errors.New("too late") }
	r.hang.Store(&release)
	_, err := r.client.Start(t.Context(), &kiln.Version{}, fleet.OnDemand)
	if !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	if err := <-r.lost; !errors.Is(err, ErrLost) {
		t.Errorf("the client ended with %v", err)
	}
	close(release)
}

func TestAWorkerThatIsLateIsNotLost(t *testing.T) {
	r := newRig(t)
	id, err := r.client.Start(t.Context(), &kiln.Version{Function: "f"}, fleet.OnDemand)
	if err != nil {
		t.Fatal(err)
	}
	r.invoke = func(fleet.EnvironmentID, kiln.Invocation) (kiln.Result, bool, error) { return kiln.Result{}, true, nil }
	release := make(chan struct{})
	answer := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answer)
	r.hang.Store(&release)
	invoke := func() {
		if _, _, err := r.client.Invoke(t.Context(), id, kiln.Invocation{}); err != nil {
			t.Fatalf("one that answers others: %v", err)
		}
	}
	for late := time.Now().Add(2 * pingTime); time.Now().Before(late); {
		invoke()
	}
	answer()
	invoke()
}

func TestInvocationsThatRunHaveTheirTimeWhenAWorkerEnds(t *testing.T) {
	r := newRig(t)
	id, err := r.client.Start(t.Context(), &kiln.Version{Function: "f"}, fleet.OnDemand)
	if err != nil {
		t.Fatal(err)
	}
	running, release := make(chan struct{}), make(chan struct{})
	r.invoke = func(fleet.EnvironmentID, kiln.Invocation) (kiln.Result, bool, error) {
		close(running)
		<-release
		return kiln.Result{Payload: []byte("1")}, true, nil
	}
	answered := make(chan error, 1)
	go func() {
		_, _, err := r.client.Invoke(t.Context(), id, kiln.Invocation{})
		answered <- err
	}()
	<-running
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.stop() }()
	for { // until the drain has begun
		if _, err := r.client.Start(t.Context(), &kiln.Version{Function: "g"}, fleet.OnDemand); err != nil {
			if kiln.KindOf(err) != kiln.Unavailable {
				t.Errorf("start while it drains: %v", err)
			}
			break
		}
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the invocation that ran: %v", err)
	}
	<-stopped
}
