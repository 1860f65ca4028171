package environment

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// guestTimeout bounds what the guest does by itself: say hello, start a process. It is long because a busy machine is no fault
// of the function's.
const guestTimeout = 10 * time.Second

const (
	// exitGrace is how long an answer that was sent before the runtime ended may take to be read.
	exitGrace = 100 * time.Millisecond
	// wordGrace is how long the word of how a runtime ended may follow the end of its line. The kernel of a small function, which has a
	// fourteenth of a processor, takes its time to clear an interpreter away. Only a runtime that broke its line and lives has to wait for it.
	wordGrace = time.Second
	// lossGrace is how long the word of why a whole sandbox ended may take: its engine first clears it away.
	lossGrace = 3 * time.Second
	// killGrace is how long it is waited for word that a runtime was killed together with its sandbox.
	killGrace = 300 * time.Millisecond
)

// killed is what ends a process when its memory has run out, among other things.
const killed = "signal: killed"

// box is one sandbox with the lines into it: control, invocations, logs.
type box struct {
	sandbox.Sandbox
	control     net.Conn
	invocations net.Conn
	reader      *bufio.Reader
	logs        *capture
	api         *apiLine
	// extensionLogs is what external extensions print.
	extensionLogs *capture
	// heard is what control brings.
	heard *hearing

	// words are what the guest says on the control line until its runtime runs. There is room for all that it may say.
	words chan wire.Header
	// exited is closed when the runtime process has ended or the control line broke. Set before: status is how, given the invocation
	// that a custom runtime had then, and lost that nobody was left to say.
	exited chan struct{}
	status string
	given  string
	lost   bool
	// fault is what an extension did that ended the environment, nil if none did. It is set before exited is closed.
	fault *failure

	extensions *extensions
	feed       *feed
	// extended is set when INIT has ended with extensions, and phase is that of INIT as telemetry has it. Who has the environment's turn
	// owns them.
	extended bool
	phase    string
	// initialization is why there is the environment, as telemetry has it.
	initialization string

	stopReaders context.CancelFunc
	readers     sync.WaitGroup
}

// guestEnds are the descriptors that go into the sandbox.
type guestEnds struct{ control, invocations, logs, extensionLogs, api *os.File }

func (g guestEnds) files() map[int]*os.File {
	files := map[int]*os.File{3: g.control, 4: g.invocations, 5: g.logs, 6: g.extensionLogs}
	if g.api != nil {
		files[7] = g.api
	}
	return files
}

func (g guestEnds) close() {
	for _, f := range []*os.File{g.control, g.invocations, g.logs, g.extensionLogs, g.api} {
		if f != nil {
			f.Close()
		}
	}
}

// newBox starts a sandbox and returns when its guest runs. api may be nil.
func newBox(ctx context.Context, engine sandbox.Engine, spec sandbox.Spec, api API) (_ *box, err error) {
	b := &box{exited: make(chan struct{}), words: make(chan wire.Header, len(guestWords)), extensions: newExtensions(), feed: newFeed()}
	guest, err := b.open(api)
	defer guest.close()
	if err != nil {
		return nil, errors.Join(err, b.closeLines())
	}
	spec.Files = guest.files()
	if b.Sandbox, err = engine.Start(ctx, spec); err != nil {
		return nil, errors.Join(fmt.Errorf("start sandbox: %w", err), b.closeLines())
	}
	// The guest's ends must be closed here for its end to be seen on ours.
	guest.close()
	b.readers.Go(b.listen)
	if _, err := b.expect(ctx, wire.Hello); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for guest: %w", err), b.destroy())
	}
	return b, nil
}

// open makes the lines and returns their guest ends.
func (b *box) open(api API) (g guestEnds, err error) {
	if b.control, g.control, err = socketpair("control"); err != nil {
		return g, err
	}
	if b.invocations, g.invocations, err = socketpair("invocations"); err != nil {
		return g, err
	}
	if b.heard, err = newHearing(b.control); err != nil {
		return g, fmt.Errorf("open control socket: %w", err)
	}
	b.reader = bufio.NewReader(b.invocations)
	if b.logs, g.logs, err = capturePipe(); err != nil {
		return g, fmt.Errorf("open log pipe: %w", err)
	}
	if b.extensionLogs, g.extensionLogs, err = capturePipe(); err != nil {
		return g, fmt.Errorf("open log pipe of extensions: %w", err)
	}
	if api == nil {
		return g, nil
	}
	b.api, g.api, err = openAPI(api)
	return g, err
}

// capturePipe returns a capture and the end of its pipe that is written to.
func capturePipe() (*capture, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	c, err := newCapture(r)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	return c, w, nil
}

func socketpair(name string) (net.Conn, *os.File, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s socket: %w", name, err)
	}
	host, guest := os.NewFile(uintptr(p[0]), name), os.NewFile(uintptr(p[1]), name)
	defer host.Close()
	conn, err := net.FileConn(host)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open %s socket: %w", name, err), guest.Close())
	}
	return conn, guest, nil
}

// launch starts the runtime process and takes its log from then on. A process that cannot be started is a failure, not an error.
func (b *box) launch(ctx context.Context, start wire.Header, sink LogSink) (*failure, error) {
	b.logs.sink = sink
	start.Type = wire.Start
	h, err := b.order(ctx, start, wire.Started)
	if err != nil {
		return nil, fmt.Errorf("start runtime process: %w", err)
	}
	if h.Failure != "" {
		f := notStarted(start.Args, h.Failure)
		if h.ErrorType != "" {
			f = extensionFailed(h.ErrorType, h.Failure)
		}
		return &f, nil
	}
	readCtx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends with the box
	b.stopReaders = cancel
	if b.api != nil {
		b.readers.Go(b.api.serve)
	}
	b.logs.show(b.feed.function)
	b.readers.Go(func() { b.logs.run(readCtx) })
	if h.Extensions == "" {
		return nil, ignoreClosed(b.extensionLogs.pipe.Close())
	}
	b.extensions.launched(start.Args)
	b.extensionLogs.sink = func(lines []byte) {
		b.feed.extension(lines)
		b.logs.insert(lines)
	}
	b.readers.Go(func() { b.extensionLogs.run(readCtx) })
	return nil, nil
}

// order sends the guest a control frame and returns its answer, which must be of type t.
func (b *box) order(ctx context.Context, h wire.Header, t wire.Type) (wire.Header, error) {
	if err := b.tell(h, nil); err != nil {
		return wire.Header{}, err
	}
	return b.expect(ctx, t)
}

// expect waits for the guest to say something of type t.
func (b *box) expect(ctx context.Context, t wire.Type) (wire.Header, error) {
	limit := time.NewTimer(guestTimeout)
	defer limit.Stop()
	select {
	case h := <-b.words:
		return h, due(h, t)
	case <-b.exited:
		select {
		case h := <-b.words: // said before
			return h, due(h, t)
		default:
			return wire.Header{}, fmt.Errorf("guest ended before it said %q: %s", t, b.status)
		}
	case <-limit.C:
		return wire.Header{}, fmt.Errorf("guest has not said %q within %v", t, guestTimeout)
	case <-ctx.Done():
		return wire.Header{}, ctx.Err()
	}
}

func due(h wire.Header, t wire.Type) error {
	if h.Type != t {
		return fmt.Errorf("guest said %q where %q was due", h.Type, t)
	}
	return nil
}

// guestWords are what a guest says once each.
var guestWords = [...]wire.Type{wire.Hello, wire.Prepared, wire.Started}

// listen takes what the guest says until the line breaks. When the runtime process has ended, or an extension has failed, it ends a
// read that waits for an answer.
func (b *box) listen() {
	err := b.heard.run(b.hear)
	if b.ended() {
		return
	}
	_ = err // every end of the line before the runtime's means the same
	b.status, b.lost = killed, true
	b.end()
}

// hear takes one thing that the guest says.
func (b *box) hear(h wire.Header) {
	switch h.Type {
	case wire.Exited:
		if b.ended() {
			return
		}
		b.status, b.given = h.Status, h.RequestID
		if h.ErrorType != "" {
			b.fault = new(extensionFailed(h.ErrorType, exitedWith(h.Status).Message))
		}
		b.end()
	case wire.Fault:
		if b.ended() {
			return
		}
		b.fault = new(b.extensions.failed(h))
		b.end()
	case wire.Register:
		_ = b.tell(b.extensions.register(), nil) // a line that is broken is seen by listen
	case wire.Settled:
		b.extensions.settle(h.RequestID)
	case wire.Subscribed:
		if b.feed.begin() {
			b.readers.Go(func() { b.feed.run(b.tell) })
		}
	case wire.Left:
		b.extensions.leave()
	default:
		select {
		case b.words <- h:
		default: // it said more than it may, which expect does not wait for
		}
	}
}

func (b *box) ended() bool {
	select {
	case <-b.exited:
		return true
	default:
		return false
	}
}

// end says that the environment takes no invocation any more.
func (b *box) end() {
	close(b.exited)
	// What was sent before the end is still read.
	b.invocations.SetReadDeadline(time.Now().Add(exitGrace))
}

// tell sends the guest a control frame.
func (b *box) tell(h wire.Header, body []byte) error {
	b.extensions.telling.Lock() // a frame may take more than one write
	defer b.extensions.telling.Unlock()
	b.control.SetWriteDeadline(time.Now().Add(guestTimeout))
	return wire.Write(b.control, h, body)
}

// receive reads one frame from the invocation line until deadline. Its error is a *failure where the function is at fault.
func (b *box) receive(deadline time.Time) (wire.Header, []byte, error) {
	b.invocations.SetReadDeadline(deadline)
	select {
	case <-b.exited:
		// The runtime ended before the deadline was set, which took the place of the one that listen set.
		b.invocations.SetReadDeadline(time.Now().Add(exitGrace))
	default:
	}
	return wire.Read(b.reader, kiln.MaxResponse)
}

// alive reports whether the runtime process may still take an invocation.
func (b *box) alive() bool {
	select {
	case <-b.exited:
		return false
	case <-b.Done():
		return false
	default:
		return true
	}
}

// cause says why a read from the invocation line failed before its deadline.
func (b *box) cause(err error) failure {
	if errors.Is(err, wire.ErrTooLarge) {
		return responseTooLarge()
	}
	if !closedWithin(b.exited, wordGrace) {
		// The line is broken though the process lives: it closed its descriptor or wrote rubbish.
		return brokenProtocol()
	}
	if b.outOfMemory() {
		return outOfMemory()
	}
	if b.fault != nil {
		return *b.fault
	}
	return exitedWith(b.status)
}

// outOfMemory reports whether the runtime, which has ended, was killed by its sandbox's memory limit.
func (b *box) outOfMemory() bool {
	grace := killGrace
	if b.lost {
		grace = lossGrace
	}
	return b.status == killed && closedWithin(b.Done(), grace) && errors.Is(b.Exit().Err, sandbox.ErrKilledByMemory)
}

// taken reports whether the sandbox ended, or has lost what it cannot be without, by no doing of its function's or of Destroy's: the
// guest outlives a runtime that ends. It waits only for a sandbox that ends.
func (b *box) taken() bool {
	// Who thaws a sandbox is told whether its processes live, also before the word of their end has come.
	ends := errors.Is(b.Thaw(), sandbox.ErrEnded) || b.ended() && b.lost
	if !ends || !closedWithin(b.Done(), lossGrace) {
		return false
	}
	err := b.Exit().Err
	return err != nil && !errors.Is(err, sandbox.ErrKilledByMemory)
}

func closedWithin(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// destroy ends the sandbox and everything around it. When it returns nil nothing is left.
func (b *box) destroy() error {
	err := b.Sandbox.Destroy()
	if b.stopReaders != nil {
		b.stopReaders()
	}
	b.feed.end()
	err = errors.Join(err, b.closeLines())
	b.readers.Wait()
	return err
}

func (b *box) closeLines() error {
	var errs []error
	for _, c := range []net.Conn{b.control, b.invocations} {
		if c != nil {
			errs = append(errs, ignoreClosed(c.Close()))
		}
	}
	for _, c := range []*capture{b.logs, b.extensionLogs} {
		if c != nil {
			errs = append(errs, ignoreClosed(c.pipe.Close()))
		}
	}
	if b.api != nil {
		errs = append(errs, ignoreClosed(b.api.conn.Close()))
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// isTimeout reports whether a read ended at its deadline.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isGone reports whether an exchange failed because the other side ended before it had read the whole event. A socket whose other
// side is closed with something unread in it is reset, not just at its end (unix(7) does not say so, Linux does so).
func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
