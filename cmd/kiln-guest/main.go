// Command kiln-guest is the first process inside a sandbox. It starts the runtime process of one execution environment, with
// no privilege left, and reports its end, and so it does with extensions; it reaps what those processes leave behind; it serves the
// Extensions API, and for a runtime that speaks HTTP the Runtime API. It accepts the function's connections to AWS's API and hands them to
// the worker. Package wire describes the sockets that it is given.
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

	"kiln/worker/extensionapi"
	"kiln/worker/runtimeapi"
	"kiln/worker/wire"
)

// The descriptors that the worker hands over.
const (
	controlFD     = 3
	invocationsFD = 4
	logsFD        = 5
	// extensionLogsFD takes what external extensions print.
	extensionLogsFD = 6
	awsFD           = 7
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
	for fd := controlFD; fd <= extensionLogsFD; fd++ {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, false); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	l, err := listen(apiPort)
	if err != nil {
		return err
	}
	g := &guest{control: os.NewFile(controlFD, "control"), listener: l, over: make(chan error, maxEnds), children: make(map[int]*child)}
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
	case failure:
		return g.obey()
	}
	go func() { g.over <- g.obey() }()
	err = <-g.over
	// As the first process of a sandbox the guest takes all others with it; anywhere else at least the runtime.
	return errors.Join(err, killGroup(g.runtime()))
}

// maxEnds is how many goroutines may say why the guest has to end, once each.
const maxEnds = 8

// guest is the first process of a sandbox.
type guest struct {
	control  *os.File
	listener listener
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
	// children are the processes that were started here and have not ended.
	children map[int]*child // +checklocks:mu
	// reaping is set while a goroutine waits for processes to end.
	reaping bool // +checklocks:mu
	// leaving is set when all processes are told to end.
	leaving bool // +checklocks:mu
	// api is nil while none is served, and for a runtime that speaks to the worker itself.
	api *runtimeapi.Server // +checklocks:mu

	// extensions is set before obey is called, and so is registration: it takes the worker's answer to Register.
	extensions   *extensionapi.API
	registration chan bool
	// serving is obey's: connections are accepted already.
	serving bool
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

// start does what the worker ordered and tells it, and whether that failed.
func (g *guest) start(order wire.Header) (failed bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serveExtensions(order)
	said := wire.Header{Type: wire.Started}
	if err := g.furnish(order, &said); err != nil {
		said.Failure = err.Error()
	}
	return said.Failure != "", g.say(said)
}

// furnish makes the function's directories appear and then its processes exist: extensions, and the runtime process when they have
// registered. If there is none, and the worker says so, the runtime process is the one that is prepared.
//
// +checklocks:g.mu
func (g *guest) furnish(order wire.Header, said *wire.Header) error {
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
	if order.Adopt {
		return closeLines(order)
	}
	if err := g.clear(order); err != nil {
		return err
	}
	started, err := g.launchExtensions(order)
	if err != nil {
		said.ErrorType = "Extension.LaunchError"
		return err
	}
	if !started {
		return g.begin(order)
	}
	said.Extensions = order.Extensions
	go g.beginLater(order)
	return nil
}

// clear ends the process that is prepared, and serves the Runtime API to the one that takes its place.
//
// +checklocks:g.mu
func (g *guest) clear(order wire.Header) error {
	if g.prepared != 0 {
		g.pid = 0 // nobody is to hear of its end
		if err := killGroup(g.prepared); err != nil {
			return err
		}
	}
	if !order.Direct {
		g.serveAPI(order.MaxResponse)
	}
	return nil
}

// begin starts the runtime process. Afterwards the descriptors that only it uses are closed here.
//
// +checklocks:g.mu
func (g *guest) begin(order wire.Header) error {
	if _, err := g.launch(order); err != nil {
		return err
	}
	return closeLines(order)
}

// closeLines closes the descriptors that only processes use which were started here.
func closeLines(order wire.Header) error {
	if order.Direct {
		if err := unix.Close(invocationsFD); err != nil {
			return fmt.Errorf("close descriptor %d: %w", invocationsFD, err)
		}
	}
	return errors.Join(unix.Close(logsFD), unix.Close(extensionLogsFD))
}

// beginLater starts the runtime process when all external extensions have registered.
func (g *guest) beginLater(order wire.Header) {
	<-g.extensions.Complete()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving {
		return
	}
	if err := g.begin(order); err != nil {
		g.tell(wire.Header{Type: wire.Fault, Failure: err.Error()})
	}
}

// maxTelemetry bounds the body of a Telemetry frame.
const maxTelemetry = 1 << 20

// obey does what the worker says, until the end of the control socket.
func (g *guest) obey() error {
	for {
		if err := g.awaitControl(); err != nil {
			return err
		}
		h, body, err := wire.Read(g.control, maxTelemetry)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET): // the latter if the worker has not read all
			return nil
		case err != nil:
			return fmt.Errorf("read control: %w", err)
		}
		if err := g.do(h, body); err != nil {
			return err
		}
	}
}

// do does one thing that the worker says, and does not wait for it.
func (g *guest) do(h wire.Header, body []byte) error {
	switch h.Type {
	case wire.Registration:
		g.registration <- h.Failure == ""
	case wire.Initialized:
		g.extensions.Initialized()
	case wire.Event:
		g.extensions.Invoke(h)
	case wire.Telemetry:
		g.extensions.Telemetry(h.Category, body)
	case wire.Shutdown:
		go g.leave(h)
	default:
		return fmt.Errorf("read control: worker sent %q", h.Type)
	}
	return nil
}

// awaitControl waits until there is something to read from the worker. Until somebody connects to the API it waits for that too:
// most functions have no extensions, and a goroutine that accepts connections would cost each of them a thread.
func (g *guest) awaitControl() error {
	if g.serving {
		return nil // the read that follows waits
	}
	fds := []unix.PollFd{{Fd: controlFD, Events: unix.POLLIN}, {Fd: int32(g.listener), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait for control: %w", err)
		}
		if fds[1].Revents != 0 {
			g.serving = true
			s := runtimeapi.NewWithout(g.extensions)
			go func() { g.over <- s.Serve(g.listener) }()
		}
		return nil
	}
}

// serveAPI serves the Runtime API.
//
// +checklocks:g.mu
func (g *guest) serveAPI(maxResponse int) {
	s := runtimeapi.New(os.NewFile(invocationsFD, "invocations"), maxResponse, g.extensions)
	g.api = s
	g.serving = true
	go func() { g.over <- s.Serve(g.listener) }()
	go func() {
		// A worker that hangs up closes the control socket too, and that is no fault.
		if err := <-s.Broken(); !errors.Is(err, io.EOF) {
			g.over <- err
		}
	}()
}
