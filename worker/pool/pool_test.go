package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/worker/runtime"
)

// fake is a sandbox that waits.
type fake struct {
	ended     chan struct{}
	end       func()
	destroyed func()
}

func (f *fake) Ended() <-chan struct{} { return f.ended }
func (f *fake) Destroy() error         { f.destroyed(); return nil }

// works boots fakes and counts them, and is the memory for them.
type works struct {
	mu     sync.Mutex
	room   int // MB
	booted int
	live   int
	err    error
}

func (w *works) boot(ctx context.Context, _ runtime.Class) (*fake, error) {
	time.Sleep(100 * time.Millisecond) // of the bubble's time
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(w.err, ctx.Err()); err != nil {
		return nil, err
	}
	w.booted++
	w.live++
	f := &fake{ended: make(chan struct{})}
	f.end = sync.OnceFunc(func() { close(f.ended) })
	f.destroyed = func() {
		f.end()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.live--
	}
	return f, nil
}

func (w *works) Reserve(mb int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.room < mb {
		return false
	}
	w.room -= mb
	return true
}

func (w *works) Release(mb int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room += mb
}

func (w *works) state() (booted, live, room int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.booted, w.live, w.room
}

// inBubble runs f with a pool that runs, with room for ten sandboxes, and checks that it leaves nothing.
func inBubble(t *testing.T, f func(t *testing.T, p *Pool[*fake], w *works)) {
	synctest.Test(t, func(t *testing.T) {
		w := &works{room: 100}
		p := New(Config[*fake]{Boot: w.boot, Memory: w, SpareMB: 10, MaxMB: 80, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		f(t, p, w)
		cancel()
		wg.Wait()
		if _, live, room := w.state(); live != 0 || room != 100 {
			t.Errorf("%d sandboxes and %d MB are left", live, 100-room)
		}
	})
}

// settle lets that much of the bubble's time pass.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestAPoolIsFilledForWhatIsExpected(t *testing.T) {
	inBubble(t, func(t *testing.T, p *Pool[*fake], w *works) {
		if _, _, ok := p.Take(python); ok {
			t.Error("something waits in an empty pool")
		}
		p.Expect(node)
		settle(time.Second)
		if n := p.Waiting(); n[python] != 3 || n[node] != 2 {
			t.Errorf("waiting: %v", n)
		}
		s, of, ok := p.Take(python)
		if !ok || of != python {
			t.Fatalf("got one of %v, %v", of, ok)
		}
		settle(time.Second)
		if n := p.Waiting(); n[python] < 3 {
			t.Errorf("after one was taken: %v", n)
		}
		s.Destroy()
	})
}

func TestALargerSandboxOfTheRuntimeWillDo(t *testing.T) {
	inBubble(t, func(t *testing.T, p *Pool[*fake], _ *works) {
		p.Expect(large)
		settle(time.Second)
		s, of, ok := p.Take(python)
		if !ok || of != large {
			t.Fatalf("got one of %v, %v", of, ok)
		}
		s.Destroy()
		if _, _, ok := p.Take(runtime.Class{Runtime: large.Runtime, MemoryMB: large.MemoryMB + 1}); ok {
			t.Error("a smaller one was given")
		}
	})
}

func TestASandboxThatEndsWhileItWaitsIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, p *Pool[*fake], w *works) {
		p.Expect(python)
		settle(time.Second)
		p.mu.Lock()
		first := p.waiting[python][0].spare
		p.mu.Unlock()
		first.end()
		settle(time.Second)
		if booted, live, _ := w.state(); booted != 3 || live != 2 {
			t.Errorf("%d booted, %d live", booted, live)
		}
	})
}

func TestFunctionsComeFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, p *Pool[*fake], w *works) {
		p.Expect(python)
		settle(time.Second)
		if !w.Reserve(80) {
			t.Fatal("no room")
		}
		for range 2 {
			if !p.Yield() {
				t.Error("nothing was given up")
			}
		}
		if p.Yield() {
			t.Error("more was given up than waits")
		}
		if n, goal := p.Yielded(), p.Goal()[python]; n != 2 || goal != 2 {
			t.Errorf("%d are said to be given up, %d to be wanted", n, goal)
		}
		if !w.Reserve(20) {
			t.Error("the memory was not given back")
		}
		settle(time.Minute)
		if booted, live, _ := w.state(); booted != 2 || live != 0 {
			t.Errorf("without memory %d were booted, %d live", booted, live)
		}
		w.Release(100)
		settle(2 * maxPause)
		if _, live, _ := w.state(); live != 2 {
			t.Errorf("with memory again %d live", live)
		}
	})
}

func TestAPoolShrinksSlowlyAndBootsOnlyWhatIsMissing(t *testing.T) {
	inBubble(t, func(t *testing.T, p *Pool[*fake], w *works) {
		for range 6 {
			p.Take(python)
		}
		settle(5 * time.Second)
		if n := p.Waiting()[python]; n != 8 {
			t.Fatalf("after a burst %d wait", n)
		}
		settle(peakHalfLife)
		if n := p.Waiting()[python]; n != 5 {
			t.Errorf("a half-life later %d wait", n)
		}
		settle(useTime)
		if n := p.Waiting()[python]; n != 0 {
			t.Errorf("out of use %d wait", n)
		}
		if booted, _, _ := w.state(); booted != 8 {
			t.Errorf("%d were booted", booted)
		}
	})
}

func TestBootsThatFailDoNotSpin(t *testing.T) {
	inBubble(t, func(t *testing.T, p *Pool[*fake], w *works) {
		w.err = errors.New("no more processes")
		p.Expect(python)
		settle(time.Minute)
		p.mu.Lock()
		failures := p.demands[python].failures
		p.mu.Unlock()
		if failures < 3 || failures > 8 {
			t.Errorf("%d boots failed within a minute", failures)
		}
	})
}
