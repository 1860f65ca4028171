// Package environment runs one execution environment: a sandbox in which one deployment of one function is initialised once
// and then invoked again and again, one invocation at a time.
package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// Config says what an environment runs and in what.
type Config struct {
	Engine  sandbox.Engine
	Sandbox sandbox.Spec
	// Spare is the sandbox to run in, which the environment owns from then on, and Handover how; nil means that Sandbox is
	// booted, as it is when a spare turns out to be of no use.
	Spare    *Spare
	Handover Handover
	// Process is the runtime process, as the guest is told to start it.
	Process wire.Header
	Version *kiln.Version
	// Initialization is why there is to be an environment. One that is not OnDemand has no cold start to tell of: nobody waited for it.
	Initialization fleet.Initialization
	// InitCPUs is the processor share of the INIT phase, which AWS does not hold to the function's own.
	InitCPUs float64
	// InitTimeout bounds the INIT phase; 0 means kiln.InitTimeout.
	InitTimeout time.Duration
	// FreezeAfter is how long an idle environment keeps running before it is frozen; 0 means DefaultFreezeAfter.
	FreezeAfter time.Duration
	// API takes the connections that the function opens to AWS's API. It must be set if Process.API is.
	API API
	// Until is when the environment takes its last invocation, because it has something that ends then; zero means that it has not.
	Until time.Time
	// Queued is what the start has waited for others already.
	Queued time.Duration
	// Ended is called once an environment that has answered has ended, whoever ended it; nil means nobody wants to know. It must not
	// wait for Stop.
	Ended func()
	// Sink takes the log.
	Sink LogSink
	Log  *slog.Logger
}

// DefaultFreezeAfter leaves a call that follows at once the warm path, and keeps within the 20 ms after which an idle
// environment must not use the processor.
const DefaultFreezeAfter = 10 * time.Millisecond

// Environment is one execution environment. Its methods are safe for concurrent use.
type Environment struct {
	cfg Config

	// turn holds one token. Who has it owns the fields below and may use the box.
	turn   chan struct{}
	box    *box
	frozen bool
	cold   coldStart // what the first invocation reports
	// started is what the start took.
	started kiln.Timing
	// watched is true once Ended will be called.
	watched bool
	// unsettled is the invocation that has been answered and on which extensions work still, and until when they may.
	unsettled kiln.RequestID
	until     time.Time
	// late is set when INIT is run within the first invocation.
	late bool
	// reason is why the environment ends, as extensions are told; "" means that it is not needed any more.
	reason string
	// settling is the work of extensions on an invocation that has been answered, which has the turn; settled takes its outcome.
	settling sync.WaitGroup
	settled  chan bool
	// idle freezes the environment when it has been idle for FreezeAfter.
	idle *time.Timer

	mu    sync.Mutex
	state State // +checklocks:mu
	// sandbox is that of the box, for who must end it without having the turn.
	sandbox sandbox.Sandbox // +checklocks:mu
	killed  bool            // +checklocks:mu
}

// coldStart is what INIT left for the first invocation to tell.
type coldStart struct {
	pending bool
	timing  kiln.Timing
	// failed is why INIT failed, nil if it did not.
	failed *initFailure
}

type initFailure struct {
	failure
	// body is the error object of a runtime that said itself what failed.
	body []byte
	// retry is true when INIT ran out of time: it is tried again within the first invocation.
	retry bool
}

// Start boots a sandbox and runs INIT in it. An INIT that fails is no error if Initialization is OnDemand, and else wraps
// fleet.ErrInit: the first Invoke tells. An error means that nothing is left behind.
func Start(ctx context.Context, cfg Config) (*Environment, error) {
	if cfg.FreezeAfter == 0 {
		cfg.FreezeAfter = DefaultFreezeAfter
	}
	if cfg.InitTimeout == 0 {
		cfg.InitTimeout = kiln.InitTimeout
	}
	e := &Environment{cfg: cfg, turn: make(chan struct{}, 1), settled: make(chan bool, 1)}
	if err := e.boot(ctx, time.Now().Add(guestTimeout+cfg.InitTimeout), cfg.InitTimeout); err != nil {
		return nil, err
	}
	e.started = e.cold.timing
	if cfg.Initialization != fleet.OnDemand {
		if err := e.conceal(); err != nil {
			return nil, err
		}
	}
	e.advance(Initialized)
	e.idle = time.AfterFunc(e.cfg.FreezeAfter, e.freeze)
	e.turn <- struct{}{}
	return e, nil
}

// conceal keeps the cold start from the first invocation. If INIT has failed it destroys the box.
func (e *Environment) conceal() error {
	failed := e.cold.failed
	e.cold = coldStart{}
	if failed == nil {
		e.box.logs.handOn()
		return nil
	}
	e.box.logs.end(initReport(e.started.Init, failed.failure))
	e.box.shutdown(endFailure)
	err := fmt.Errorf("%w: %s", fleet.ErrInit, cmp.Or(failed.Message, failed.Type))
	return errors.Join(err, e.box.destroy())
}

// initWeight is the weight of a sandbox until INIT has ended. On a machine whose processors are all busy with what is there already, INIT would
// otherwise take as many times as long as there are others, and its caller waits; few are under way at a time.
const initWeight = 8 * sandbox.UsualWeight

// boot makes the box and runs INIT until it ends, initLimit has passed, or the deadline has.
func (e *Environment) boot(ctx context.Context, deadline time.Time, initLimit time.Duration) error {
	spec := e.cfg.Sandbox
	cpus := spec.Limits.CPUs
	spec.Limits.CPUs, spec.Limits.Weight = max(cpus, e.cfg.InitCPUs), initWeight
	failed, err := e.occupy(ctx, spec)
	if err != nil {
		return err
	}
	e.cold.pending = true
	if failed != nil {
		e.cold.failed = &initFailure{failure: *failed}
		return nil
	}
	launched := time.Now()
	until := launched.Add(initLimit)
	if deadline.Before(until) {
		until = deadline
	}
	b := e.box
	e.cold.failed = b.awaitReady(until)
	if e.cold.failed == nil {
		e.cold.failed = b.awaitExtensions(until)
	}
	if e.cold.failed != nil && e.cold.timing.Start != kiln.Booted && !e.wasKilled() && b.taken() {
		return e.bootAnew(ctx, deadline, initLimit)
	}
	e.cold.timing.Init = time.Since(launched)
	b.telemetryInitReport(e.cold.timing.Init, e.cold.failed)
	b.logs.drain()
	if e.cold.failed != nil {
		return nil
	}
	if err := b.SetCPUs(cpus, e.cfg.Sandbox.Limits.Weight); err != nil && b.alive() {
		return errors.Join(fmt.Errorf("limit processor share: %w", err), b.destroy())
	}
	return nil
}

// bootAnew boots a sandbox of the environment's own after a spare was taken away while INIT ran in it, which is no fault of the
// function's: what the spare was missing made INIT fail, or it ended with its sandbox. Code that had begun runs again, as it does at AWS
// after an INIT that failed. It happens once, because there is one spare.
func (e *Environment) bootAnew(ctx context.Context, deadline time.Time, initLimit time.Duration) error {
	e.cfg.Log.Warn("spare sandbox ended during init", "environment", e.cfg.Sandbox.ID, "err", e.box.Exit().Err)
	if err := e.box.destroy(); err != nil {
		return fmt.Errorf("destroy spare sandbox that ended during init: %w", err)
	}
	e.renew()
	return e.boot(ctx, deadline, initLimit)
}

// occupy starts the runtime process, in the spare if there is one that is of use, and else in a sandbox of its own. A process that
// cannot be started is a failure, not an error.
func (e *Environment) occupy(ctx context.Context, spec sandbox.Spec) (*failure, error) {
	if s := e.cfg.Spare; s != nil {
		e.cfg.Spare = nil // it serves once
		failed, err := e.occupySpare(ctx, s, spec.Limits)
		if err == nil || errors.Is(err, errKilled) {
			return failed, err
		}
		e.cfg.Log.Warn("run in spare sandbox", "environment", e.cfg.Sandbox.ID, "err", err)
		e.renew()
		spec.ID = e.cfg.Sandbox.ID
	}
	asked := time.Now()
	begun := asked
	spec.Begin = func() { begun = time.Now() }
	b, err := newBox(ctx, e.cfg.Engine, spec, e.cfg.API)
	if err != nil {
		return nil, err
	}
	if !e.expose(b) {
		return nil, errors.Join(errKilled, b.destroy())
	}
	booted := time.Now()
	e.telemetryInitStart(b)
	failed, err := b.launch(ctx, e.cfg.Process, e.cfg.Sink)
	if err != nil {
		return nil, errors.Join(err, b.destroy())
	}
	e.box = b
	e.cold = coldStart{timing: kiln.Timing{
		Start: kiln.Booted, Queue: e.queued(begun.Sub(asked)), Sandbox: booted.Sub(begun), Guest: time.Since(booted),
	}}
	return failed, nil
}

// queued is what the start has waited for others, with what it waited here, and 0 if that is only what it takes to look.
func (e *Environment) queued(here time.Duration) time.Duration {
	waited := e.cfg.Queued + here
	e.cfg.Queued = 0 // another sandbox, if this one has to be replaced, did not wait for that
	if waited < leastQueue {
		return 0
	}
	return waited
}

// leastQueue is longer than a start takes that finds nobody before it.
const leastQueue = 100 * time.Microsecond

// renew gives the environment a name for its next sandbox, because an ID names one only.
func (e *Environment) renew() { e.cfg.Sandbox.ID += "r" }

// awaitReady waits for the end of INIT.
func (b *box) awaitReady(until time.Time) *initFailure {
	h, body, err := b.receive(until)
	switch {
	case err == nil && h.Type == wire.Ready:
		return nil
	case err == nil && h.Type == wire.InitError:
		return &initFailure{failure: failure{Type: h.ErrorType, Status: "error"}, body: body}
	case err == nil:
		return &initFailure{failure: brokenProtocol()}
	case isTimeout(err) && b.alive():
		return &initFailure{failure: failure{Type: typeTimedOut, Status: "timeout"}, retry: true}
	default:
		return &initFailure{failure: b.cause(err)}
	}
}

// Started says how the environment started and what that took.
func (e *Environment) Started() kiln.Timing { return e.started }

// Invoke runs one invocation and returns when the function answered, failed or ran out of time. If the environment is not
// reusable, all that is left to do with it is Stop. fleet.ErrGone means that it had ended and has not started the invocation.
func (e *Environment) Invoke(ctx context.Context, inv kiln.Invocation) (res kiln.Result, reusable bool, err error) {
	if _, ok := <-e.turn; !ok {
		return res, false, fleet.ErrGone
	}
	defer func() {
		if !res.Unsettled {
			e.turn <- struct{}{}
		}
	}()
	e.idle.Stop()
	if !e.cfg.Until.IsZero() && time.Now().After(e.cfg.Until) {
		e.advance(Failed)
		return res, false, fleet.ErrGone
	}
	if !e.advance(Assigned) {
		return res, false, fleet.ErrGone
	}
	if err := e.wake(); err != nil {
		e.advance(Failed)
		if !errors.Is(err, sandbox.ErrEnded) && !closedWithin(e.box.Done(), exitGrace) {
			e.cfg.Log.Warn("end environment that cannot go on", "environment", e.cfg.Sandbox.ID, "err", err)
		}
		return res, false, fleet.ErrGone // nothing of the invocation has begun
	}
	o := e.run(ctx, inv)
	if o.gone {
		e.fail(nil)
		return res, false, fleet.ErrGone
	}
	res = e.conclude(inv, o)
	if o.fatal && e.wasKilled() {
		e.advance(Failed)
		return kiln.Result{}, false, errKilled
	}
	if o.fatal {
		e.fail(o.failed)
		return res, false, nil
	}
	if e.box.extended {
		res.Unsettled = true
		e.unsettled = inv.ID
		e.settling.Go(e.settle) // has the turn from here
		return res, true, nil
	}
	e.advance(Answered)
	e.watch()
	e.idle.Reset(e.cfg.FreezeAfter)
	return res, true, nil
}

// Watch has Ended called when the time comes though no invocation has been answered.
func (e *Environment) Watch() {
	if _, ok := <-e.turn; !ok {
		return
	}
	e.watch()
	e.turn <- struct{}{}
}

// watch has Ended called when the time comes. Of an environment that was started on demand there is an invocation that finds out before
// the first answer.
func (e *Environment) watch() {
	if e.cfg.Ended == nil || e.watched {
		return
	}
	e.watched = true
	b := e.box // there will be no other
	b.readers.Go(func() {
		<-b.exited
		e.cfg.Ended()
	})
}

// Settle returns, once after each Invoke whose result was unsettled, when the extensions are done with the invocation. If it returns
// false, all that is left to do with the environment is Stop.
func (e *Environment) Settle() (reusable bool) { return <-e.settled }

func (e *Environment) settle() {
	ok := e.awaitSettled()
	e.turn <- struct{}{}
	e.settled <- ok
}

func (e *Environment) awaitSettled() (reusable bool) {
	b := e.box
	failed := b.awaitSettled(string(e.unsettled), e.until)
	b.extensionLogs.drain()
	b.extensionLogs.handOn()
	if failed != nil {
		if failed.Status == "timeout" {
			failed.Message = timedOut(e.cfg.Version.Timeout).Message
		}
		b.logs.end(failureLines(report{RequestID: e.unsettled, Failure: failed, FinishedAt: time.Now()}))
		e.fail(failed)
		return false
	}
	e.advance(Answered)
	e.watch()
	e.idle.Reset(e.cfg.FreezeAfter)
	return true
}

// fail says that the environment cannot be used again, and why.
func (e *Environment) fail(f *failure) {
	e.reason = endFailure
	if f != nil && f.Status == "timeout" {
		e.reason = endTimeout
	}
	e.advance(Failed)
}

// outcome is how an invocation ended.
type outcome struct {
	payload []byte
	// functionError is set when the runtime itself reported an error, and errorType is that error's.
	functionError bool
	errorType     string
	failed        *failure
	// fatal means that the environment cannot be used again.
	fatal bool
	// gone means that it had ended before it took the invocation.
	gone bool
	// init means that it failed before the handler was called.
	init   bool
	timing kiln.Timing
}

// run takes the invocation through INIT's outcome to the function's answer.
func (e *Environment) run(ctx context.Context, inv kiln.Invocation) outcome {
	cold := e.cold
	e.cold = coldStart{}
	if !cold.pending && !e.box.alive() {
		return outcome{gone: true}
	}
	begun := time.Now()
	deadline := begun.Add(e.cfg.Version.Timeout)
	start := startLine(inv.ID, e.cfg.Version.Qualifier)
	e.until = deadline
	e.box.logs.begin(start, cold.pending)
	if cold.failed != nil && cold.failed.retry {
		cold = e.retryInit(ctx, deadline)
		e.box.logs.begin(start, true)
	}
	e.telemetryStart(inv)
	o := outcome{fatal: true}
	if f := cold.failed; f != nil {
		o.payload, o.failed, o.init = f.body, &f.failure, true
	} else {
		o = e.exchange(inv, deadline)
	}
	if o.gone && cold.pending {
		// It ended between INIT and its first event: another would do the same.
		o = outcome{failed: new(e.box.cause(io.EOF)), fatal: true}
	}
	o.timing = cold.timing
	o.timing.Handler = time.Since(begun)
	return o
}

// retryInit runs INIT once more, in a new sandbox and on the invocation's own time.
func (e *Environment) retryInit(ctx context.Context, deadline time.Time) coldStart {
	late := coldStart{failed: &initFailure{failure: timedOut(e.cfg.Version.Timeout)}}
	e.box.logs.end(initReport(e.cfg.InitTimeout, failure{Status: "timeout"}))
	e.box.shutdown(endTimeout)
	if err := e.box.destroy(); err != nil {
		e.cfg.Log.Error("destroy sandbox after init timeout", "environment", e.cfg.Sandbox.ID, "err", err)
		return late
	}
	e.renew()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	e.late = true
	if err := e.boot(ctx, deadline, e.cfg.Version.Timeout); err != nil {
		e.cfg.Log.Warn("boot sandbox after init timeout", "environment", e.cfg.Sandbox.ID, "err", err)
		return late
	}
	cold := e.cold
	e.cold = coldStart{}
	if cold.failed != nil && cold.failed.retry {
		return late
	}
	return cold
}

// exchange sends the event and waits for the answer.
func (e *Environment) exchange(inv kiln.Invocation, deadline time.Time) outcome {
	h := wire.Header{
		Type: wire.Invoke, RequestID: string(inv.ID), DeadlineMs: deadline.UnixMilli(),
		FunctionARN: inv.FunctionARN, TraceID: inv.TraceID, ClientContext: inv.ClientContext,
	}
	if e.box.extended && e.tellExtensions(h) != nil {
		return outcome{gone: true, fatal: true}
	}
	e.box.invocations.SetWriteDeadline(deadline)
	if err := wire.Write(e.box.invocations, h, inv.Payload); err != nil {
		if isTimeout(err) {
			f := timedOut(e.cfg.Version.Timeout)
			return outcome{failed: &f, fatal: true}
		}
		if isGone(err) {
			return outcome{gone: true, fatal: true}
		}
		return outcome{failed: new(e.box.cause(err)), fatal: true}
	}
	h, body, err := e.box.receive(deadline)
	switch {
	case err != nil && isTimeout(err) && e.box.alive():
		return outcome{failed: new(timedOut(e.cfg.Version.Timeout)), fatal: true}
	case err != nil && (isGone(err) || e.unread(inv.ID)):
		return outcome{gone: true, fatal: true}
	case err != nil:
		return outcome{failed: new(e.box.cause(err)), fatal: true}
	case h.RequestID != string(inv.ID):
		// The late answer of another invocation must never reach this caller.
		return outcome{failed: new(brokenProtocol()), fatal: true}
	case h.Type == wire.Response:
		return outcome{payload: body}
	case h.Type == wire.Error:
		return outcome{payload: body, functionError: true, errorType: h.ErrorType}
	default:
		return outcome{failed: new(brokenProtocol()), fatal: true}
	}
}

// tellExtensions hands the event of an invocation to the extensions.
func (e *Environment) tellExtensions(h wire.Header) error {
	return e.box.tell(wire.Header{
		Type: wire.Event, RequestID: h.RequestID, DeadlineMs: h.DeadlineMs, FunctionARN: h.FunctionARN, TraceID: h.TraceID,
	}, nil)
}

// unread reports whether a runtime that has ended did so without asking for the invocation, as one that ends itself after the answer to
// the one before does. It is known of custom runtimes only; from the sockets of all others see isGone.
func (e *Environment) unread(id kiln.RequestID) bool {
	b := e.box
	return !e.cfg.Process.Direct && closedWithin(b.exited, exitGrace) && !b.lost && b.fault == nil && b.given != string(id)
}

// conclude writes the log's last lines and makes the caller's answer.
func (e *Environment) conclude(inv kiln.Invocation, o outcome) kiln.Result {
	e.box.logs.drain()
	if e.box.extended {
		e.box.extensionLogs.drain()
		e.box.extensionLogs.handOn()
	}
	used, err := e.box.PeakMemory()
	if err != nil && e.box.alive() {
		e.cfg.Log.Warn("read memory use", "environment", e.cfg.Sandbox.ID, "err", err)
	}
	r := report{
		RequestID: inv.ID, Version: e.cfg.Version.Qualifier, Handler: o.timing.Handler, Init: o.timing.Guest + o.timing.Init,
		MemoryMB: e.cfg.Version.MemoryMB, UsedBytes: used, Failure: o.failed, FinishedAt: time.Now(),
	}
	e.telemetryReport(inv, o, r)
	res := kiln.Result{Payload: o.payload, Outcome: o.kind(), Timing: o.timing, LogTail: e.box.logs.end(endLines(r))}
	if o.functionError || o.failed != nil {
		res.FunctionError = "Unhandled"
	}
	if o.failed != nil && len(o.payload) == 0 {
		res.Payload = o.failed.payload(inv.ID)
	}
	return res
}

// Stop ends the environment and returns when nothing is left of it. An invocation that runs is waited for, and so are extensions that
// want to be told of the end, for at most two seconds.
func (e *Environment) Stop() error {
	if _, ok := <-e.turn; !ok {
		return nil
	}
	return e.stop()
}

// StopBy is Stop if no invocation runs, or what runs is done by then. Else it returns false and does nothing.
func (e *Environment) StopBy(until time.Time) (stopped bool, err error) {
	left := time.Until(until)
	if left <= 0 {
		return false, nil
	}
	limit := time.NewTimer(left)
	defer limit.Stop()
	select {
	case _, ok := <-e.turn:
		if !ok {
			return true, nil
		}
		return true, e.stop()
	case <-limit.C:
		return false, nil
	}
}

// stop ends the environment. Whoever calls it has the turn.
func (e *Environment) stop() error {
	e.settling.Wait()
	e.advance(Told)
	e.idle.Stop()
	e.shutdown()
	err := e.box.destroy()
	e.advance(Destroyed)
	close(e.turn)
	if err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", e.cfg.Sandbox.ID, err)
	}
	return nil
}

// shutdown runs AWS's SHUTDOWN phase, if there are extensions.
func (e *Environment) shutdown() {
	if e.box.extensions.grace() == 0 || e.wasKilled() {
		return
	}
	if err := e.wake(); err != nil {
		return // it has ended, or is destroyed as it is
	}
	e.box.shutdown(cmp.Or(e.reason, endSpindown))
}

// errKilled is what becomes of an invocation whose environment Kill has ended.
var errKilled = kiln.Errorf(kiln.Unavailable, "The execution environment was ended. Please try again.")

func (e *Environment) wasKilled() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.killed
}

// expose lets Kill find the sandbox of b, which has booted. It returns false if Kill has been called already.
func (e *Environment) expose(b *box) bool {
	e.advance(Booted)
	b.phase, b.initialization = phaseInit, e.cfg.Initialization.String()
	if e.late {
		b.phase = phaseInvoke
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sandbox = b.Sandbox
	return !e.killed
}

// Kill ends the sandbox at once. An invocation that runs fails; Stop does the rest.
func (e *Environment) Kill() error {
	e.mu.Lock()
	e.killed = true
	s := e.sandbox
	e.mu.Unlock()
	return s.Destroy()
}

// State returns where the environment is in its life.
func (e *Environment) State() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

// freeze stops an environment from running while it is idle. Whoever has the turn makes it needless.
func (e *Environment) freeze() {
	select {
	case _, ok := <-e.turn:
		if !ok {
			return
		}
	default:
		return
	}
	if err := e.box.Freeze(); err != nil {
		e.cfg.Log.Warn("freeze idle environment", "environment", e.cfg.Sandbox.ID, "err", err)
	} else {
		e.frozen = true
	}
	e.turn <- struct{}{}
}

func (e *Environment) wake() error {
	if !e.frozen {
		return nil
	}
	if err := e.box.Thaw(); err != nil {
		return fmt.Errorf("thaw environment: %w", err)
	}
	e.frozen = false
	return nil
}

// advance moves the state machine, and reports whether the event was possible.
func (e *Environment) advance(ev Event) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	next, err := e.state.Next(ev)
	if err != nil {
		return false
	}
	e.state = next
	return true
}

// notStarted is a runtime process that the guest could not start: why is the operating system's word.
func notStarted(args []string, why string) failure {
	if len(args) > 1 && slices.Contains(args, "bootstrap") || strings.HasSuffix(args[0], "/bootstrap") {
		return invalidEntrypoint("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]: " + why)
	}
	return exitedWith("exit status 127")
}
