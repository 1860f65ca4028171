// Command kiln-guest is the first process inside a sandbox. It starts the runtime process of one execution environment, with
// no privilege left, and reports its end; it reaps what that process leaves behind; and for a runtime that speaks HTTP it
// serves the Runtime API. Package wire describes the two sockets that it is given.
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

	"golang.org/x/sys/unix"

	"kiln/worker/runtimeapi"
	"kiln/worker/wire"
)

// The descriptors that the worker hands over.
const (
	controlFD     = 3
	invocationsFD = 4
	logsFD        = 5
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
	for fd := controlFD; fd <= logsFD; fd++ {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, false); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	control := os.NewFile(controlFD, "control")
	start, err := meet(control)
	if err != nil {
		return err
	}
	api, broken, err := serveAPI(start)
	if err != nil {
		return err
	}
	pid, err := launch(start)
	if err != nil {
		return errors.Join(wire.Write(control, wire.Header{Type: wire.Started, Failure: err.Error()}, nil), ended(control))
	}
	if err := wire.Write(control, wire.Header{Type: wire.Started}, nil); err != nil {
		return fmt.Errorf("send started: %w", err)
	}
	over := make(chan error, 2) // one for each sender
	go func() { over <- ended(control) }()
	go func() {
		if err := reap(pid, api, control); err != nil {
			over <- err
		}
	}()
	select {
	case err = <-over:
	case err = <-broken:
	}
	// As the first process of a sandbox the guest takes all others with it; anywhere else at least the runtime.
	return errors.Join(err, killGroup(pid))
}

// meet says hello and waits to be told what to start.
func meet(control io.ReadWriter) (wire.Header, error) {
	if err := wire.Write(control, wire.Header{Type: wire.Hello}, nil); err != nil {
		return wire.Header{}, fmt.Errorf("send hello: %w", err)
	}
	h, _, err := wire.Read(control, 0)
	if err != nil {
		return h, fmt.Errorf("wait for start: %w", err)
	}
	if h.Type != wire.Start || len(h.Args) == 0 {
		return h, fmt.Errorf("wait for start: worker sent %q with %d arguments", h.Type, len(h.Args))
	}
	return h, nil
}

// ended waits for the end of the control socket. The worker sends nothing more on it.
func ended(control io.Reader) error {
	h, _, err := wire.Read(control, 0)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("read control: %w", err)
	}
	return fmt.Errorf("read control: worker sent %q", h.Type)
}

// serveAPI serves the Runtime API, unless the runtime speaks to the worker itself: then it returns none. The channel gives the error
// that ends it.
func serveAPI(start wire.Header) (*runtimeapi.Server, <-chan error, error) {
	if start.Direct {
		return nil, nil, nil
	}
	l, err := listen()
	if err != nil {
		return nil, nil, err
	}
	s := runtimeapi.New(os.NewFile(invocationsFD, "invocations"), start.MaxResponse)
	over := make(chan error, 2) // one for each sender
	go func() { over <- s.Serve(l) }()
	go func() {
		// A worker that hangs up closes the control socket too, and that is no fault.
		if err := <-s.Broken(); !errors.Is(err, io.EOF) {
			over <- err
		}
	}()
	return s, over, nil
}
