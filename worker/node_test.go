package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/worker/environment"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// preparer prepares environments whose sandbox is a goroutine that echoes.
type preparer struct {
	mu       sync.Mutex
	held     int
	spares   int // each holds spareMB of memory
	memory   *Memory
	err      error
	breakNow bool // the next runtime closes its line instead of answering
	engine   *echoEngine
	// ended are the environments that the node has told of; there is room for as many as it has.
	ended  chan fleet.EnvironmentID
	starts []kiln.Start
	ends   []fleet.End
}

// Started implements Observer.
func (p *preparer) Started(_ string, t kiln.Timing, total time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if total < t.Sandbox+t.Guest+t.Init {
		panic("the whole start took less than its parts")
	}
	p.starts = append(p.starts, t.Start)
}

// Ended implements Observer.
func (p *preparer) Ended(why fleet.End) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, why)
}

func (p *preparer) Prepare(_ context.Context, v *kiln.Version, why fleet.Initialization) (environment.Config, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return environment.Config{}, nil, p.err
	}
	p.held++
	release := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held--
	}
	return environment.Config{
		Engine: p.engine.orBroken(p.breakNow), Sandbox: sandbox.Spec{ID: newID()}, Version: v, Initialization: why,
		Process: wire.Header{Args: []string{"runtime"}}, Sink: func([]byte) {}, Log: slog.New(slog.DiscardHandler),
	}, release, nil
}

func (p *preparer) Yield() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spares == 0 {
		return false
	}
	p.spares--
	p.memory.Release(spareMB)
	return true
}

func (p *preparer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// echoEngine starts sandboxes that echo.
type echoEngine struct {
	broken bool
	// failures is how many starts fail before one does not, started how many were tried, and last the sandbox that was.
	failures, started int
	last              *echoBox
}

func (e *echoEngine) orBroken(broken bool) *echoEngine {
	e.broken = broken
	return e
}

type echoBox struct {
	conns []net.Conn
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func (e *echoEngine) Start(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	e.started++
	if e.started <= e.failures {
		return nil, errors.New("launcher ended")
	}
	control, err1 := net.FileConn(s.Files[3])
	invocations, err2 := net.FileConn(s.Files[4])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	b := &echoBox{conns: []net.Conn{control, invocations}, done: make(chan struct{})}
	e.last = b
	broken := e.broken
	b.wg.Go(func() {
		say(control, wire.Header{Type: wire.Hello}, nil)
		wire.Read(control, 0)
		say(control, wire.Header{Type: wire.Started}, nil)
		say(invocations, wire.Header{Type: wire.Ready}, nil)
		for {
			h, body, err := wire.Read(invocations, kiln.MaxPayload)
			if err != nil || broken {
				io.Closer(invocations).Close()
				return
			}
			say(invocations, wire.Header{Type: wire.Response, RequestID: h.RequestID}, body)
		}
	})
	return b, nil
}

// say ignores what a peer that has ended causes: the reader of these tests sees the end.
func say(c net.Conn, h wire.Header, body []byte) { wire.Write(c, h, body) }

func (b *echoBox) Freeze() error              { return nil }
func (b *echoBox) Thaw() error                { return nil }
func (b *echoBox) SetCPUs(float64, int) error { return nil }
func (b *echoBox) SetMemory(int64) error      { return nil }
func (b *echoBox) Mount(context.Context, string, string) error {
	return errors.New("an echo shows nothing")
}
func (b *echoBox) Usage() (sandbox.Usage, error) { return sandbox.Usage{}, nil }
func (b *echoBox) PeakMemory() (int64, error)    { return 0, nil }
func (b *echoBox) Done() <-chan struct{}         { return b.done }
func (b *echoBox) Exit() sandbox.Exit            { return sandbox.Exit{} }
func (b *echoBox) Destroy() error {
	b.once.Do(func() {
		for _, c := range b.conns {
			c.Close()
		}
		close(b.done)
	})
	b.wg.Wait()
	return nil
}

// running runs a node with room for two environments of 128 MB.
func running(t *testing.T) (*Node, *preparer, func()) {
	p := &preparer{memory: NewMemory(2 * (128 + overheadMB)), engine: &echoEngine{}, ended: make(chan fleet.EnvironmentID, 2)}
	n := New(Config{
		Preparer: p, Memory: p.memory, Observer: p, Ended: func(id fleet.EnvironmentID) { p.ended <- id }, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	end := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(end)
	return n, p, end
}

func version() *kiln.Version {
	return &kiln.Version{Function: "f", Config: kiln.Config{MemoryMB: 128, Timeout: 10 * time.Second}}
}

func mustStart(t *testing.T, n *Node) fleet.EnvironmentID {
	t.Helper()
	id, err := n.Start(t.Context(), version(), fleet.OnDemand)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAnEnvironmentIsInvokedByItsID(t *testing.T) {
	n, _, _ := running(t)
	id := mustStart(t, n)
	res, reusable, err := n.Invoke(t.Context(), id, kiln.Invocation{ID: "r", Payload: []byte("1")})
	if err != nil || !reusable || string(res.Payload) != "1" {
		t.Errorf("got %s, %v, %v", res.Payload, reusable, err)
	}
	if _, _, err := n.Invoke(t.Context(), "another", kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("an unknown environment: %v", err)
	}
}

func TestMemoryIsPromisedToNoMoreThanFit(t *testing.T) {
	n, p, _ := running(t)
	first := mustStart(t, n)
	mustStart(t, n)
	if _, err := n.Start(t.Context(), version(), fleet.OnDemand); !errors.Is(err, fleet.ErrNoRoom) {
		t.Fatalf("the third of two: %v", err)
	}
	big := version()
	big.MemoryMB = 1000
	if _, err := n.Start(t.Context(), big, fleet.OnDemand); kiln.KindOf(err) != kiln.Unavailable || errors.Is(err, fleet.ErrNoRoom) {
		t.Errorf("one that can never fit: %v", err)
	}
	n.Stop(first, fleet.Idle)
	mustStart(t, n)
	if p.count() != 2 {
		t.Errorf("%d environments hold their code", p.count())
	}
}

// spareMB is the memory of a sandbox that was booted ahead.
const spareMB = 64

func TestSandboxesThatWaitMakeRoom(t *testing.T) {
	n, p, _ := running(t)
	for p.memory.Reserve(spareMB) {
		p.spares++
	}
	mustStart(t, n)
	mustStart(t, n)
	if _, err := n.Start(t.Context(), version(), fleet.OnDemand); !errors.Is(err, fleet.ErrNoRoom) {
		t.Errorf("the third of two: %v", err)
	}
	if p.spares != 0 {
		t.Errorf("%d sandboxes still wait", p.spares)
	}
}

func TestAFailedStartGivesItsMemoryBack(t *testing.T) {
	n, p, _ := running(t)
	p.err = kiln.Errorf(kiln.InvalidRuntime, "no such runtime")
	for range 5 {
		if _, err := n.Start(t.Context(), version(), fleet.OnDemand); kiln.KindOf(err) != kiln.InvalidRuntime {
			t.Fatalf("got %v", err)
		}
	}
	p.err = nil
	mustStart(t, n)
}

func TestWhatCannotBeUsedAgainEndsByItself(t *testing.T) {
	n, p, end := running(t)
	p.breakNow = true
	id := mustStart(t, n)
	res, reusable, err := n.Invoke(t.Context(), id, kiln.Invocation{ID: "r"})
	if err != nil || reusable || res.FunctionError != "Unhandled" {
		t.Errorf("got %+v, %v, %v", res, reusable, err)
	}
	end()
	if n.Environments() != 0 || p.count() != 0 {
		t.Errorf("%d environments and %d holds are left", n.Environments(), p.count())
	}
	if !slices.Equal(p.ends, []fleet.End{fleet.Crashed}) {
		t.Errorf("the observer was told of the ends %v", p.ends)
	}
}

func TestDrainingEndsEverythingAndTakesNothing(t *testing.T) {
	n, p, end := running(t)
	mustStart(t, n)
	mustStart(t, n)
	end()
	if n.Environments() != 0 || p.count() != 0 || n.cfg.Memory.Reserved() != 0 {
		t.Errorf("%d environments, %d holds, %d MB are left", n.Environments(), p.count(), n.cfg.Memory.Reserved())
	}
	if _, err := n.Start(t.Context(), version(), fleet.OnDemand); kiln.KindOf(err) != kiln.Unavailable {
		t.Errorf("a start while draining: %v", err)
	}
	if !slices.Equal(p.ends, []fleet.End{fleet.Drained, fleet.Drained}) || !slices.Equal(p.starts, []kiln.Start{kiln.Booted, kiln.Booted}) {
		t.Errorf("the observer was told of the starts %v and the ends %v", p.starts, p.ends)
	}
}

func TestEnvironmentsAreCountedByState(t *testing.T) {
	n, p, end := running(t)
	first := mustStart(t, n)
	mustStart(t, n)
	if s := n.States(); s[environment.Idle] != 2 || s[environment.Starting] != 0 {
		t.Errorf("after two starts: %v", s)
	}
	n.Stop(first, fleet.Evicted)
	if s := n.States(); s[environment.Idle] != 1 || s[environment.Stopping] != 0 {
		t.Errorf("after one's end: %v", s)
	}
	end()
	if s := n.States(); s[environment.Idle] != 0 || s[environment.Stopping] != 0 {
		t.Errorf("at the end: %v", s)
	}
	if !slices.Equal(p.ends, []fleet.End{fleet.Evicted, fleet.Drained}) {
		t.Errorf("the observer was told of the ends %v", p.ends)
	}
}

func TestWhyAnEnvironmentEndedFollowsFromItsLastInvocation(t *testing.T) {
	for _, c := range []struct {
		outcome kiln.Outcome
		err     error
		want    fleet.End
	}{
		{kiln.InitFailed, nil, fleet.InitFailed},
		{kiln.TimedOut, nil, fleet.TimedOut},
		{kiln.OutOfMemory, nil, fleet.OutOfMemory},
		{kiln.Crashed, nil, fleet.Crashed},
		{kiln.FunctionFailed, nil, fleet.Crashed}, // an answer too large to be read to its end
		{kiln.Succeeded, fleet.ErrGone, fleet.Crashed},
		{kiln.Succeeded, kiln.Errorf(kiln.Unavailable, "killed"), fleet.Drained},
	} {
		if got := endOf(kiln.Result{Outcome: c.outcome}, c.err); got != c.want {
			t.Errorf("%v, %v: %v", c.outcome, c.err, got)
		}
	}
}

func TestABootThatFailsIsTriedOnceMore(t *testing.T) {
	for failures, want := range map[int]bool{1: true, 2: false} {
		n, p, end := running(t)
		p.engine.failures = failures
		_, err := n.Start(t.Context(), version(), fleet.OnDemand)
		if (err == nil) != want || err != nil && kiln.KindOf(err) != kiln.Internal {
			t.Errorf("after %d failures: %v", failures, err)
		}
		if p.engine.started != 2 {
			t.Errorf("after %d failures %d boots were tried", failures, p.engine.started)
		}
		end()
		if p.count() != 0 || p.memory.Reserved() != 0 {
			t.Errorf("%d holds and %d MB are left", p.count(), p.memory.Reserved())
		}
	}
}

func TestAnIdleEnvironmentThatEndsGivesItsMemoryBack(t *testing.T) {
	n, p, _ := running(t)
	id := mustStart(t, n)
	if _, _, err := n.Invoke(t.Context(), id, kiln.Invocation{ID: "r", Payload: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	p.engine.last.Destroy()
	if got := <-p.ended; got != id {
		t.Errorf("%s ended, want %s", got, id)
	}
	n.ends.Wait()
	if n.Environments() != 0 || p.count() != 0 || p.memory.Reserved() != 0 {
		t.Errorf("%d environments, %d holds, %d MB are left", n.Environments(), p.count(), p.memory.Reserved())
	}
}

func TestAnEnvironmentThatEndsBeforeItsFirstInvocationIsKeptToTellOfIt(t *testing.T) {
	n, p, end := running(t)
	id := mustStart(t, n)
	p.engine.last.Destroy()
	res, reusable, err := n.Invoke(t.Context(), id, kiln.Invocation{ID: "r"})
	if err != nil || reusable || res.FunctionError != "Unhandled" {
		t.Errorf("got %+v, %v, %v", res, reusable, err)
	}
	end()
	if len(p.ended) != 0 {
		t.Error("the node told of an end that its caller had been told")
	}
}

func TestAStartWaitsForTheMemoryOfWhatIsBeingDestroyed(t *testing.T) {
	n, p, _ := running(t)
	mustStart(t, n)
	p.breakNow = true
	id := mustStart(t, n)
	p.breakNow = false
	slow := make(chan struct{})
	p.engine.last.wg.Go(func() { <-slow })
	if _, reusable, err := n.Invoke(t.Context(), id, kiln.Invocation{ID: "r"}); err != nil || reusable {
		t.Fatalf("reusable %v, %v", reusable, err)
	}
	if p.memory.Reserve(1) {
		t.Fatal("there is memory left: nothing is tested")
	}
	started := make(chan error, 1) // one value, so that its sender never waits
	go func() {
		_, err := n.Start(t.Context(), version(), fleet.OnDemand)
		started <- err
	}()
	close(slow)
	if err := <-started; err != nil {
		t.Errorf("the call after one whose environment ended: %v", err)
	}
}
