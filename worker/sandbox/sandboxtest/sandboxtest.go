// Package sandboxtest has an engine whose sandboxes are simulated, for tests and benchmarks of everything that stands before them: with it
// a machine has room for more of them than it could run.
package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// Engine implements sandbox.Engine. What runs in its sandboxes is a goroutine that speaks as the guest and the runtime do and answers every
// event with itself, after Duration. They hold nothing back, use nothing, and isolate nothing.
type Engine struct {
	// Duration is how long each invocation takes; while its sandbox is frozen none ends.
	Duration time.Duration
	// Counter counts what the engine does, by itself, so that what is counted elsewhere can be compared with it.
	Counter *Counter
}

// The guest's numbers of the lines that it speaks on and of its log, as package wire has them. It has no use for others.
const (
	controlFile     = 3
	invocationsFile = 4
	logFile         = 5
)

// Start implements sandbox.Engine.
func (e *Engine) Start(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	b := &box{engine: e, done: make(chan struct{}), killed: make(chan struct{})}
	if err := b.open(s.Files); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if s.Begin != nil {
		s.Begin()
	}
	e.Counter.Started.Add(1)
	go func() {
		defer close(b.done)
		err := b.run()
		b.exit = sandbox.Exit{Err: fmt.Errorf("guest: %w", err)}
	}()
	return b, nil
}

// box is a simulated sandbox.
type box struct {
	engine               *Engine
	control, invocations net.Conn
	// log is open, and never written to.
	log *os.File

	mu sync.Mutex
	// thawed is closed by Thaw, and nil unless the sandbox is frozen.
	thawed chan struct{} // +checklocks:mu

	// killed is closed by Destroy, and done when the guest has ended, after exit was set.
	killed, done chan struct{}
	exit         sandbox.Exit
	end          sync.Once
	ended        error
}

func (b *box) open(files map[int]*os.File) (err error) {
	if b.control, err = net.FileConn(files[controlFile]); err != nil {
		return fmt.Errorf("take control line: %w", err)
	}
	if b.invocations, err = net.FileConn(files[invocationsFile]); err != nil {
		return fmt.Errorf("take line of invocations: %w", err)
	}
	fd, err := unix.FcntlInt(files[logFile].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("take log: %w", err)
	}
	b.log = os.NewFile(uintptr(fd), "log")
	return nil
}

func (b *box) close() error {
	var errs []error
	for _, c := range []net.Conn{b.control, b.invocations} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	if b.log != nil {
		errs = append(errs, b.log.Close())
	}
	return errors.Join(errs...)
}

// run is the guest, and the runtime once it has been started.
func (b *box) run() error {
	if err := wire.Write(b.control, wire.Header{Type: wire.Hello}, nil); err != nil {
		return err
	}
	for {
		h, _, err := wire.Read(b.control, 0)
		if err != nil {
			return err
		}
		switch h.Type {
		case wire.Prepare:
			err = errors.Join(wire.Write(b.control, wire.Header{Type: wire.Prepared}, nil),
				wire.Write(b.invocations, wire.Header{Type: wire.Waiting}, nil))
		case wire.Start:
			if err := wire.Write(b.control, wire.Header{Type: wire.Started}, nil); err != nil {
				return err
			}
			return b.serve(h.Adopt)
		default:
			return fmt.Errorf("was told %q", h.Type)
		}
		if err != nil {
			return err
		}
	}
}

// serve is the runtime. Its function is still to come if it is adopted.
func (b *box) serve(adopted bool) error {
	if adopted {
		if _, _, err := wire.Read(b.invocations, 0); err != nil {
			return err
		}
	}
	if err := wire.Write(b.invocations, wire.Header{Type: wire.Ready}, nil); err != nil {
		return err
	}
	for {
		h, event, err := wire.Read(b.invocations, kiln.MaxPayload)
		if err != nil {
			return err
		}
		b.invoke()
		if err := wire.Write(b.invocations, wire.Header{Type: wire.Response, RequestID: h.RequestID}, event); err != nil {
			return err
		}
	}
}

// invoke takes the time of an invocation.
func (b *box) invoke() {
	b.engine.Counter.enter()
	defer b.engine.Counter.leave()
	passed := time.NewTimer(b.engine.Duration)
	defer passed.Stop()
	select {
	case <-passed.C:
	case <-b.killed:
		return
	}
	b.mu.Lock()
	thawed := b.thawed
	b.mu.Unlock()
	if thawed == nil {
		return
	}
	select {
	case <-thawed:
	case <-b.killed:
	}
}

// Freeze implements sandbox.Sandbox.
func (b *box) Freeze() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.thawed == nil {
		b.thawed = make(chan struct{})
	}
	return nil
}

// Thaw implements sandbox.Sandbox.
func (b *box) Thaw() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.thawed != nil {
		close(b.thawed)
		b.thawed = nil
	}
	select {
	case <-b.done:
		return sandbox.ErrEnded
	default:
		return nil
	}
}

// SetCPUs implements sandbox.Sandbox.
func (b *box) SetCPUs(float64, int) error { return nil }

// SetMemory implements sandbox.Sandbox.
func (b *box) SetMemory(int64) error { return nil }

// Mount implements sandbox.Sandbox.
func (b *box) Mount(context.Context, string, string) error { return nil }

// Usage implements sandbox.Sandbox.
func (b *box) Usage() (sandbox.Usage, error) { return sandbox.Usage{}, nil }

// PeakMemory implements sandbox.Sandbox.
func (b *box) PeakMemory() (int64, error) { return 0, nil }

// Done implements sandbox.Sandbox.
func (b *box) Done() <-chan struct{} { return b.done }

// Exit implements sandbox.Sandbox.
func (b *box) Exit() sandbox.Exit { return b.exit }

// Destroy implements sandbox.Sandbox.
func (b *box) Destroy() error {
	b.end.Do(func() {
		close(b.killed)
		b.ended = b.close()
		<-b.done
		b.exit = sandbox.Exit{}
	})
	return b.ended
}
