package environment

import (
	"sync"
	"time"

	"kiln/worker/wire"
)

// How long the end of an environment may take, by the extensions that it has
// (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-shutdown). One without any is ended
// at once.
const (
	externalGrace = 2 * time.Second
	internalGrace = 500 * time.Millisecond
)

// The reasons for the end of an environment that extensions are told.
const (
	endSpindown = "spindown"
	endTimeout  = "timeout"
	endFailure  = "failure"
)

// extensions is what is known of an environment's extensions.
type extensions struct {
	// telling is held while a control frame is written.
	telling sync.Mutex
	// settled takes the invocation for which the extensions are ready again, "" for INIT: one at a time is awaited.
	settled chan string
	// left is closed when all processes of the environment have ended.
	left chan struct{}

	mu sync.Mutex
	// there is set when there are extensions, and external when some have processes of their own.
	there, external bool // +checklocks:mu
	// closed is set when INIT is over, after which there will be no others.
	closed bool // +checklocks:mu
	gone   bool // +checklocks:mu left is closed
	// command is the runtime's, which the guest starts when external extensions have registered.
	command []string // +checklocks:mu
}

func newExtensions() *extensions {
	return &extensions{settled: make(chan string, 1), left: make(chan struct{})}
}

// launched says that there are external extensions, and that the runtime is started after them.
func (x *extensions) launched(command []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.there, x.external, x.command = true, true, command
}

// register takes the word that a first internal extension wants to register, and returns the answer.
func (x *extensions) register() wire.Header {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return wire.Header{Type: wire.Registration, Failure: "INIT is over"}
	}
	x.there = true
	return wire.Header{Type: wire.Registration}
}

// close lets no first extension register any more, and reports whether there are any.
func (x *extensions) close() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	return x.there
}

// grace is how long the extensions have for their end.
func (x *extensions) grace() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.external:
		return externalGrace
	case x.there:
		return internalGrace
	}
	return 0
}

func (x *extensions) settle(request string) {
	select {
	case x.settled <- request:
	default: // nobody awaits a second
	}
}

func (x *extensions) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.gone {
		x.gone = true
		close(x.left)
	}
}

// failed is the failure that a Fault tells of.
func (x *extensions) failed(h wire.Header) failure {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h.ErrorType == "" && len(x.command) > 0 {
		return notStarted(x.command, h.Failure)
	}
	if h.Failure == "exit status 0" {
		return extensionFailed(h.ErrorType, "exit code 0") // AWS's words
	}
	return extensionFailed(h.ErrorType, h.Failure)
}

// awaitExtensions waits for the INIT of the extensions, if there are any, when the runtime is ready.
func (b *box) awaitExtensions(until time.Time) *initFailure {
	b.heard.catchUp() // an extension that the runtime registered is known here before the runtime can be ready
	b.extended = b.extensions.close()
	if !b.extended {
		b.endTelemetry()
		return nil
	}
	b.feed.platform("platform.initRuntimeDone", initDone{b.initialization, b.phase, "success", "", nil})
	if b.tell(wire.Header{Type: wire.Initialized}, nil) != nil {
		return &initFailure{failure: b.cause(nil)}
	}
	if f := b.awaitSettled("", until); f != nil {
		return &initFailure{failure: *f, retry: f.Status == "timeout"}
	}
	b.endTelemetry()
	return nil
}

// endTelemetry ends the telemetry if nobody has subscribed to it.
func (b *box) endTelemetry() {
	if b.feed.closeUnlessWanted() {
		b.logs.show(nil)
	}
}

// awaitSettled waits until the extensions are ready again, and returns what kept them from it.
func (b *box) awaitSettled(request string, until time.Time) *failure {
	limit := time.NewTimer(time.Until(until))
	defer limit.Stop()
	select {
	case r := <-b.extensions.settled:
		if r != request {
			return new(brokenProtocol())
		}
		return nil
	case <-b.exited:
		return new(b.cause(nil))
	case <-b.Done():
		return new(b.cause(nil))
	case <-limit.C:
		return &failure{Type: "Sandbox.Timedout", Status: "timeout"}
	}
}

// shutdown has the processes of the environment end by themselves, if there are extensions, for as long as they may take.
func (b *box) shutdown(reason string) {
	grace := b.extensions.grace()
	if grace == 0 || b.ended() && b.lost {
		return
	}
	b.feed.send(b.tell)
	deadline := time.Now().Add(grace)
	if b.tell(wire.Header{Type: wire.Shutdown, Reason: reason, DeadlineMs: deadline.UnixMilli()}, nil) != nil {
		return // it has ended
	}
	limit := time.NewTimer(grace)
	defer limit.Stop()
	select {
	case <-b.extensions.left:
	case <-b.Done():
	case <-limit.C:
	}
	b.logs.drain()
	b.extensionLogs.drain()
	b.extensionLogs.handOn()
	b.logs.handOn()
}
