// Command kiln-guest is the first process inside a sandbox. It starts the runtime process of one execution environment, with
// no privilege left, and reports its end; it reaps what that process leaves behind; and for a runtime that speaks HTTP it
// serves the Runtime API. It accepts the function's connections to AWS's API and hands them to the worker. Package wire describes the sockets
// that it is given.
//
// A goroutine here blocks in its system calls instead of in Go's poller: inside a sandbox a read that waits is then one system
// call and one wake-up, and not three and two.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"kiln/worker/runtimeapi"
	"kiln/worker/wire"
)

// The descriptors that the worker hands over.
const (
	controlFD     = 3
	invocationsFD = 4
	logsFD        = 5
	awsFD         = 6
)

// heapLimit is where the collector begins to work: with the longest event and the longest answer in memory, little of it is
// garbage. Below it nothing is collected, so that an idle guest has nothing to wake up for.
const heapLimit = 32 << 20

func main() {
	// Two goroutines never have work at the same time, and a second thread that looks for some costs more than it brings.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heapLimit)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kiln-guest:", err)
		os.Exit(1)
	}
}

// run lives until the control socket ends. The goroutines that it starts block in system calls which nothing can interrupt:
// they end with the process, which ends the sandbox.
func run() error {
	unix.CloseOnExec(awsFD) // nothing happens if there is none
	for fd := controlFD; fd <= logsFD; fd++ {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, false); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	g := &guest{control: os.NewFile(controlFD, "control"), over: make(chan error, maxEnds)}
	start, err := g.meet()
	if errors.Is(err, io.EOF) {
		return nil // nobody needs the sandbox any more
	}
	if err != nil {
		return err
	}
	switch failure, err := g.start(start); {
	case err != nil:
		return err
	case failure != "":
		return ended(g.control)
	}
	go func() { g.over <- ended(g.control) }()
	err = <-g.over
	// As the first process of a sandbox the guest takes all others with it; anywhere else at least the runtime.
	return errors.Join(err, killGroup(g.runtime()))
}

// maxEnds is how many goroutines may say why the guest has to end, once each.
const maxEnds = 5

// guest is the first process of a sandbox.
type guest struct {
	control *os.File
	// over takes the reason for which the guest has to end.
	over chan error

	// mu is held from before a process is started until the worker was told, so that its end is not told before.
	mu sync.Mutex
	// prepared is the process that waits for its function, 0 if there is none.
	prepared int // +checklocks:mu
	// pid is the process whose end is to be reported: the one that is prepared, and then the runtime. It is 0 before.
	pid int // +checklocks:mu
	// aws says that connections to AWS's API are accepted.
	aws bool // +checklocks:mu
	// api is nil while none is served, and for a runtime that speaks to the worker itself.
	api *runtimeapi.Server // +checklocks:mu
}

func (g *guest) say(h wire.Header) error {
	if err := wire.Write(g.control, h, nil); err != nil {
		return fmt.Errorf("send %s: %w", h.Type, err)
	}
	return nil
}

// runtime is the process whose end is to be reported.
func (g *guest) runtime() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid
}

// meet says hello, prepares a process if it is told to, and returns what it is told to start.
func (g *guest) meet() (wire.Header, error) {
	if err := g.say(wire.Header{Type: wire.Hello}); err != nil {
		return wire.Header{}, err
	}
	h, _, err := wire.Read(g.control, 0)
	if err == nil && h.Type == wire.Prepare && len(h.Args) > 0 {
		if err := g.prepare(h); err != nil {
			return h, err
		}
		h, _, err = wire.Read(g.control, 0)
	}
	if err != nil {
		return h, fmt.Errorf("wait for start: %w", err)
	}
	if h.Type != wire.Start || len(h.Args) == 0 {
		return h, fmt.Errorf("wait for start: worker sent %q with %d arguments", h.Type, len(h.Args))
	}
	return h, nil
}

// prepare starts a process that will get its function later, and tells the worker.
func (g *guest) prepare(order wire.Header) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	said := wire.Header{Type: wire.Prepared}
	pid, err := g.launch(order)
	if err == nil && order.API {
		err = g.serveAWS()
	}
	if err != nil {
		said.Failure = err.Error()
	}
	g.prepared = pid
	return g.say(said)
}

// start does what the worker ordered and tells it, with the failure that it returns too.
func (g *guest) start(order wire.Header) (failure string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.furnish(order); err != nil {
		failure = err.Error()
	}
	return failure, g.say(wire.Header{Type: wire.Started, Failure: failure})
}

// furnish makes the function's directories appear and then its runtime process exist: the one that is prepared, if the worker says so.
// Afterwards the descriptors that only that process uses are closed here.
//
// +checklocks:g.mu
func (g *guest) furnish(order wire.Header) error {
	for _, b := range order.Binds {
		if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "mount", Path: b.Target, Err: err}
		}
	}
	if order.API && !g.aws {
		if err := g.serveAWS(); err != nil {
			return err
		}
	}
	if !order.Adopt {
		if err := g.replace(order); err != nil {
			return err
		}
	}
	if order.Direct {
		if err := unix.Close(invocationsFD); err != nil {
			return fmt.Errorf("close descriptor %d: %w", invocationsFD, err)
		}
	}
	return unix.Close(logsFD)
}

// replace starts the runtime process, in the place of one that is prepared.
//
// +checklocks:g.mu
func (g *guest) replace(order wire.Header) error {
	if g.prepared != 0 {
		g.pid = 0 // nobody is to hear of its end
		if err := killGroup(g.prepared); err != nil {
			return err
		}
	}
	if !order.Direct {
		if err := g.serveAPI(order.MaxResponse); err != nil {
			return err
		}
	}
	_, err := g.launch(order)
	return err
}

// ended waits for the end of the control socket. The worker sends nothing more on it.
func ended(control io.Reader) error {
	h, _, err := wire.Read(control, 0)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET): // the latter if the worker has not read all
		return nil
	case err != nil:
		return fmt.Errorf("read control: %w", err)
	}
	return fmt.Errorf("read control: worker sent %q", h.Type)
}

// serveAPI serves the Runtime API.
//
// +checklocks:g.mu
func (g *guest) serveAPI(maxResponse int) error {
	l, err := listen(apiPort)
	if err != nil {
		return err
	}
	s := runtimeapi.New(os.NewFile(invocationsFD, "invocations"), maxResponse)
	g.api = s
	go func() { g.over <- s.Serve(l) }()
	go func() {
		// A worker that hangs up closes the control socket too, and that is no fault.
		if err := <-s.Broken(); !errors.Is(err, io.EOF) {
			g.over <- err
		}
	}()
	return nil
}
