package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
	"kiln/fleet"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// guest is the inside of a fake sandbox.
type guest struct {
	t           *testing.T
	control     net.Conn
	invocations net.Conn
	logs        *os.File
	// api is nil if the environment has no API.
	api   net.Conn
	start wire.Header
	begin wire.Header
	// die ends the sandbox, and cripple kills a process of it that the guest does not miss yet.
	die     func(error)
	cripple func()
}

func (g *guest) say(c net.Conn, h wire.Header, body string) {
	if err := wire.Write(c, h, []byte(body)); err != nil {
		g.t.Logf("guest: %v", err)
	}
}

func (g *guest) next() (wire.Header, []byte, bool) {
	h, body, err := wire.Read(g.invocations, kiln.MaxPayload)
	return h, body, err == nil
}

func (g *guest) ready() { g.say(g.invocations, wire.Header{Type: wire.Ready}, "") }

func (g *guest) answer(h wire.Header, body string) {
	g.say(g.invocations, wire.Header{Type: wire.Response, RequestID: h.RequestID}, body)
}

// exit is the runtime process ending.
func (g *guest) exit(status string) {
	g.say(g.control, wire.Header{Type: wire.Exited, Status: status}, "")
	g.invocations.Close()
}

// serve is a runtime that answers every event with itself.
func (g *guest) serve() {
	g.ready()
	for {
		h, body, ok := g.next()
		if !ok {
			return
		}
		g.answer(h, string(body))
	}
}

// fakeEngine runs a Go function where an engine runs a sandbox.
type fakeEngine struct {
	t      *testing.T
	script func(*guest)
	boxes  []*fakeBox
	// turn is how long starts wait for others.
	turn time.Duration
}

type fakeBox struct {
	mu     sync.Mutex
	frozen chan bool // receives each change
	cpus   float64
	// weights are those that it has had, one after the other.
	weights []int
	memory  int64
	mounts  []string
	done    chan struct{}
	// crippled and stuck are guarded by mu.
	crippled, stuck bool
	exit            sandbox.Exit
	once            sync.Once
	guest           *guest
	wg              sync.WaitGroup
}

func (e *fakeEngine) Start(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	if e.turn > 0 {
		<-time.After(e.turn)
		s.Begin()
	}
	g := &guest{t: e.t, control: dup(e.t, s.Files[3]), invocations: dup(e.t, s.Files[4])}
	fd, err := unix.Dup(int(s.Files[5].Fd()))
	if err != nil {
		return nil, err
	}
	g.logs = os.NewFile(uintptr(fd), "logs")
	if s.Files[7] != nil {
		g.api = dup(e.t, s.Files[7])
	}
	b := &fakeBox{frozen: make(chan bool, 100), cpus: s.Limits.CPUs, weights: []int{s.Limits.Weight}, done: make(chan struct{}), guest: g}
	g.die, g.cripple = b.die, b.cripple
	e.boxes = append(e.boxes, b)
	b.wg.Go(func() {
		g.say(g.control, wire.Header{Type: wire.Hello}, "")
		h, _, err := wire.Read(g.control, 0)
		if err == nil && h.Type == wire.Prepare {
			g.say(g.control, wire.Header{Type: wire.Prepared}, "")
			g.say(g.invocations, wire.Header{Type: wire.Waiting}, "")
			h, _, err = wire.Read(g.control, 0)
		}
		if err != nil {
			return
		}
		g.start = h
		g.say(g.control, wire.Header{Type: wire.Started}, "")
		if h.Adopt {
			g.begin, _, _ = g.next()
		}
		e.script(g)
	})
	return b, nil
}

func dup(t *testing.T, f *os.File) net.Conn {
	t.Helper()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *fakeBox) Freeze() error { b.frozen <- true; return nil }
func (b *fakeBox) Thaw() error {
	b.mu.Lock()
	crippled, stuck := b.crippled, b.stuck
	b.mu.Unlock()
	if stuck {
		return errors.New("thaw: not done in time")
	}
	if crippled {
		b.die(errors.New("a process was killed"))
		return sandbox.ErrEnded
	}
	b.frozen <- false
	return nil
}
func (b *fakeBox) cripple() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.crippled = true
}
func (b *fakeBox) SetCPUs(c float64, weight int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cpus, b.weights = c, append(b.weights, weight)
	return nil
}
func (b *fakeBox) SetMemory(bytes int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory = bytes
	return nil
}
func (b *fakeBox) Mount(_ context.Context, name, source string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mounts = append(b.mounts, name+"="+source)
	return nil
}
func (b *fakeBox) Usage() (sandbox.Usage, error) {
	return sandbox.Usage{PeakMemoryBytes: 41<<20 + 1}, nil
}
func (b *fakeBox) PeakMemory() (int64, error) { return 41<<20 + 1, nil }
func (b *fakeBox) Done() <-chan struct{}      { return b.done }
func (b *fakeBox) Exit() sandbox.Exit         { return b.exit }

// die is the sandbox ending by itself.
func (b *fakeBox) die(err error) {
	b.once.Do(func() {
		b.exit = sandbox.Exit{Err: err}
		b.guest.control.Close()
		b.guest.invocations.Close()
		b.guest.logs.Close()
		if b.guest.api != nil {
			b.guest.api.Close()
		}
		close(b.done)
	})
}

func (b *fakeBox) Destroy() error {
	b.die(nil)
	b.wg.Wait()
	return nil
}

// logBook is a LogSink that remembers.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) sink(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type fixture struct {
	*Environment
	engine *fakeEngine
	book   *logBook
}

func start(t *testing.T, script func(*guest), change ...func(*Config)) fixture {
	t.Helper()
	f, cfg := prepare(t, script, change...)
	e, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	f.Environment = e
	return f
}

// prepare returns what start starts, and the fixture without it.
func prepare(t *testing.T, script func(*guest), change ...func(*Config)) (fixture, Config) {
	f := fixture{engine: &fakeEngine{t: t, script: script}, book: &logBook{}}
	cfg := Config{
		Engine:  f.engine,
		Sandbox: sandbox.Spec{ID: "e1", Limits: sandbox.Limits{CPUs: 0.5}},
		Process: wire.Header{Args: []string{"/var/task/bootstrap"}},
		Version: &kiln.Version{Qualifier: kiln.LatestVersion, Config: kiln.Config{Timeout: 10 * time.Second, MemoryMB: 128}},
		Sink:    f.book.sink, InitCPUs: 2, Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	return f, cfg
}

func timeout(d time.Duration) func(*Config) {
	return func(c *Config) {
		v := *c.Version
		v.Timeout = d
		c.Version = &v
	}
}

func (f fixture) invoke(t *testing.T, payload string) (kiln.Result, bool) {
	t.Helper()
	res, reusable, err := f.Invoke(t.Context(), kiln.Invocation{ID: "11111111-2222-3333-4444-555555555555", Payload: []byte(payload)})
	if err != nil {
		t.Fatal(err)
	}
	return res, reusable
}

func wantFailure(t *testing.T, res kiln.Result, errorType, message string) {
	t.Helper()
	var got struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal(res.Payload, &got); err != nil {
		t.Fatalf("payload %q: %v", res.Payload, err)
	}
	if errorType != "Function.ResponseSizeTooLarge" { // the one whose message names no request
		message = "RequestId: 11111111-2222-3333-4444-555555555555 Error: " + message
	}
	if res.FunctionError != "Unhandled" || got.ErrorType != errorType || got.ErrorMessage != message {
		t.Errorf("got %s %+v, want %s %q", res.FunctionError, got, errorType, message)
	}
}

func TestAnEnvironmentAnswersOneCallAfterAnother(t *testing.T) {
	f := start(t, (*guest).serve)
	for _, payload := range []string{`{"n":1}`, `{"n":2}`, `"` + strings.Repeat("x", 1<<20) + `"`} {
		res, reusable := f.invoke(t, payload)
		if string(res.Payload) != payload || res.FunctionError != "" || !reusable {
			t.Errorf("got %.40s %q reusable %v", res.Payload, res.FunctionError, reusable)
		}
	}
	if f.State() != Idle {
		t.Errorf("state %v", f.State())
	}
}

func TestWaitingForOtherStartsIsNotBooting(t *testing.T) {
	const turn, memory = 20 * time.Millisecond, time.Hour
	f := start(t, (*guest).serve, func(c *Config) {
		c.Queued = memory
		c.Engine.(*fakeEngine).turn = turn
	})
	cold, _ := f.invoke(t, `{}`)
	warm, _ := f.invoke(t, `{}`)
	if q := cold.Timing.Queue; q < memory+turn || q > memory+time.Minute || cold.Timing.Sandbox == 0 || warm.Timing.Queue != 0 {
		t.Errorf("cold %+v, warm %+v", cold.Timing, warm.Timing)
	}
}

func TestAStartThatWaitsForNobodyReportsNoQueue(t *testing.T) {
	f := start(t, (*guest).serve, func(c *Config) { c.Queued = time.Microsecond })
	if cold, _ := f.invoke(t, `{}`); cold.Timing.Queue != 0 || cold.Timing.Sandbox == 0 {
		t.Errorf("cold %+v", cold.Timing)
	}
}

func TestTheFirstCallReportsTheColdStart(t *testing.T) {
	f := start(t, (*guest).serve)
	started := f.Started()
	cold, _ := f.invoke(t, `{}`)
	warm, _ := f.invoke(t, `{}`)
	if cold.Timing.Start != kiln.Booted || warm.Timing.Start != kiln.Warm || started.Init != cold.Timing.Init {
		t.Errorf("started %+v, cold %+v, warm %+v", started, cold.Timing, warm.Timing)
	}
	if cold.Timing.Sandbox == 0 || cold.Timing.Init == 0 || warm.Timing.Sandbox != 0 || warm.Timing.Init != 0 {
		t.Errorf("cold %+v, warm %+v", cold.Timing, warm.Timing)
	}
	if !strings.Contains(string(cold.LogTail), "\tInit Duration: ") || strings.Contains(string(warm.LogTail), "Init Duration") {
		t.Errorf("logs: cold %q, warm %q", cold.LogTail, warm.LogTail)
	}
}

func provisioned(c *Config) { c.Initialization = fleet.Provisioned }

func TestTheFirstCallOfAProvisionedEnvironmentReportsNoColdStart(t *testing.T) {
	f := start(t, (*guest).serve, provisioned)
	if started := f.Started(); started.Start != kiln.Booted || started.Init == 0 {
		t.Errorf("started %+v", started)
	}
	res, reusable := f.invoke(t, `{}`)
	if res.Timing.Start != kiln.Warm || res.Timing.Init != 0 || strings.Contains(string(res.LogTail), "Init Duration") || !reusable {
		t.Errorf("got %+v, %s", res.Timing, res.LogTail)
	}
}

func TestAProvisionedEnvironmentWhoseInitFailsIsNone(t *testing.T) {
	f, cfg := prepare(t, func(g *guest) {
		g.say(g.invocations, wire.Header{Type: wire.InitError, ErrorType: "Runtime.ImportModuleError"}, `{}`)
		g.next()
	}, provisioned)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, fleet.ErrInit) || !strings.Contains(err.Error(), "Runtime.ImportModuleError") {
		t.Errorf("got %v", err)
	}
	if log := f.book.String(); !strings.Contains(log, "\tPhase: init\tStatus: error\tError Type: Runtime.ImportModuleError\n") {
		t.Errorf("log %q", log)
	}
	select {
	case <-f.engine.boxes[0].done:
	default:
		t.Error("its sandbox is left")
	}
}

func TestTheEndOfAProvisionedEnvironmentIsToldBeforeItsFirstCall(t *testing.T) {
	ended := make(chan struct{})
	f := start(t, (*guest).serve, provisioned, func(c *Config) { c.Ended = func() { close(ended) } })
	f.Watch()
	if err := f.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if _, _, err := f.Invoke(t.Context(), kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestTheProcessorShareIsTheFunctionsOwnAfterInit(t *testing.T) {
	f := start(t, (*guest).serve)
	b := f.engine.boxes[0]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cpus != 0.5 || !slices.Equal(b.weights, []int{initWeight, 0}) {
		t.Errorf("%v processors after INIT; the weights were %v", b.cpus, b.weights)
	}
}

func TestTheLogHoldsEverythingWrittenBeforeTheAnswer(t *testing.T) {
	f := start(t, func(g *guest) {
		io.WriteString(g.logs, "from init\n")
		g.ready()
		for {
			h, _, ok := g.next()
			if !ok {
				return
			}
			io.WriteString(g.logs, "one\ntwo")
			g.answer(h, "null")
		}
	})
	res, _ := f.invoke(t, `{}`)
	lines := strings.Split(string(res.LogTail), "\n")
	if len(lines) != 7 || lines[0] != "from init" || !strings.HasPrefix(lines[1], "START RequestId: 11111111-") ||
		lines[2] != "one" || lines[3] != "two" || !strings.HasPrefix(lines[4], "END RequestId: ") || !strings.HasPrefix(lines[5], "REPORT ") {
		t.Errorf("tail %q", res.LogTail)
	}
	if !strings.Contains(lines[5], "\tMemory Size: 128 MB\tMax Memory Used: 42 MB\t") {
		t.Errorf("report %q", lines[5])
	}
	res, _ = f.invoke(t, `{}`)
	if !strings.HasPrefix(string(res.LogTail), "START ") {
		t.Errorf("the second call's tail begins with the first one's: %q", res.LogTail)
	}
	if got := f.book.String(); strings.Count(got, "START") != 2 || strings.Count(got, "two\n") != 2 {
		t.Errorf("the sink got %q", got)
	}
}

func TestTheTailIsTheEndOfALongLog(t *testing.T) {
	f := start(t, func(g *guest) {
		g.ready()
		h, _, _ := g.next()
		for range 1000 {
			io.WriteString(g.logs, strings.Repeat("x", 99)+"\n")
		}
		g.answer(h, "null")
		g.next()
	})
	res, _ := f.invoke(t, `{}`)
	if len(res.LogTail) != kiln.MaxLogTail || !strings.Contains(string(res.LogTail), "REPORT ") {
		t.Errorf("tail of %d bytes: %.60q", len(res.LogTail), res.LogTail)
	}
	if got := strings.Count(f.book.String(), strings.Repeat("x", 99)+"\n"); got != 1000 {
		t.Errorf("the sink got %d lines", got)
	}
}

func TestFailuresAreToldAsAWSDoes(t *testing.T) {
	for name, c := range map[string]struct {
		script           func(*guest)
		timeout          time.Duration
		errorType, error string
		outcome          kiln.Outcome
		log              string
	}{
		"timeout": {
			script:  func(g *guest) { g.ready(); g.next(); g.next() },
			timeout: 50 * time.Millisecond, errorType: "Sandbox.Timedout", error: "Task timed out after 0.05 seconds", outcome: kiln.TimedOut,
			log: "Task timed out after 0.05 seconds",
		},
		"exit": {
			script:    func(g *guest) { g.ready(); g.next(); g.exit("exit status 3") },
			errorType: "Runtime.ExitError", error: "Runtime exited with error: exit status 3", outcome: kiln.Crashed, log: "\tError Type: Runtime.ExitError",
		},
		"exit without a reason": {
			script:    func(g *guest) { g.ready(); g.next(); g.exit("exit status 0") },
			errorType: "Runtime.ExitError", error: "Runtime exited without providing a reason", outcome: kiln.Crashed,
		},
		"sandbox killed": {
			script:    func(g *guest) { g.ready(); g.next(); g.die(errors.New("signal: killed")) },
			errorType: "Runtime.ExitError", error: "Runtime exited with error: signal: killed", outcome: kiln.Crashed,
		},
		"out of memory": {
			script:    func(g *guest) { g.ready(); g.next(); g.die(fmt.Errorf("sandbox ended: %w", sandbox.ErrKilledByMemory)) },
			errorType: "Runtime.OutOfMemory", error: "Runtime exited with error: signal: killed", outcome: kiln.OutOfMemory, log: "\tError Type: Runtime.OutOfMemory",
		},
		"exit in init": {
			script:    func(g *guest) { g.exit("exit status 7") },
			errorType: "Runtime.ExitError", error: "Runtime exited with error: exit status 7", outcome: kiln.InitFailed,
		},
		"answer to another request": {
			script:    func(g *guest) { g.ready(); h, _, _ := g.next(); h.RequestID = "other"; g.answer(h, "1"); g.next() },
			errorType: "Runtime.Unknown", error: "Runtime broke the protocol of invocations", outcome: kiln.Crashed,
		},
		"answer too large": {
			script: func(g *guest) {
				g.ready()
				h, _, _ := g.next()
				g.answer(h, strings.Repeat("x", kiln.MaxResponse+1))
			},
			errorType: "Function.ResponseSizeTooLarge", error: "Response payload size exceeded maximum allowed payload size (6291556 bytes).", outcome: kiln.FunctionFailed,
		},
		"rubbish": {
			script: func(g *guest) {
				g.ready()
				g.next()
				io.WriteString(g.invocations, "HTTP/1.1 200 OK\r\n\r\n")
				g.next()
			},
			errorType: "Runtime.Unknown", error: "Runtime broke the protocol of invocations", outcome: kiln.Crashed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, c.script, func(cfg *Config) {
				if c.timeout != 0 {
					timeout(c.timeout)(cfg)
				}
			})
			res, reusable := f.invoke(t, `{}`)
			wantFailure(t, res, c.errorType, c.error)
			if reusable || f.State() != Stopping || res.Outcome != c.outcome {
				t.Errorf("reusable %v, state %v, outcome %v", reusable, f.State(), res.Outcome)
			}
			if !strings.Contains(string(res.LogTail), c.log) || !strings.Contains(string(res.LogTail), "\tStatus: ") {
				t.Errorf("log %q", res.LogTail)
			}
		})
	}
}

func TestAnAnswerSentRightBeforeTheExitCounts(t *testing.T) {
	f := start(t, func(g *guest) {
		g.ready()
		h, _, _ := g.next()
		g.answer(h, `"done"`)
		g.say(g.control, wire.Header{Type: wire.Exited, Status: "exit status 1"}, "")
	})
	res, _ := f.invoke(t, `{}`)
	if string(res.Payload) != `"done"` {
		t.Fatalf("got %s", res.Payload)
	}
	<-f.box.exited
	if _, _, err := f.Invoke(t.Context(), kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("the call after the exit: %v", err)
	}
}

func TestAnEventThatWasNeverReadIsNotLost(t *testing.T) {
	f := start(t, func(g *guest) {
		g.ready()
		h, _, _ := g.next()
		g.answer(h, "1")
		// As when a frozen sandbox was killed: it ends when it is thawed, with the event in its socket.
		fd, err := g.invocations.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		fd.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil
		})
		g.die(errors.New("signal: killed"))
	})
	f.invoke(t, `{}`)
	if _, _, err := f.Invoke(t.Context(), kiln.Invocation{ID: "r", Payload: []byte(`{}`)}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestAnEventThatARuntimeNeverAskedForIsNotLost(t *testing.T) {
	for name, c := range map[string]struct {
		given string
		gone  bool
	}{"it ended after the answer before": {"first", true}, "it had the event": {"second", false}} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(g *guest) {
				g.ready()
				h, _, _ := g.next()
				g.answer(h, "1")
				g.next() // the guest holds it until the runtime asks
				g.say(g.control, wire.Header{Type: wire.Exited, Status: "exit status 1", RequestID: c.given}, "")
			})
			if _, _, err := f.Invoke(t.Context(), kiln.Invocation{ID: "first", Payload: []byte(`{}`)}); err != nil {
				t.Fatal(err)
			}
			res, _, err := f.Invoke(t.Context(), kiln.Invocation{ID: "second", Payload: []byte(`{}`)})
			if errors.Is(err, fleet.ErrGone) != c.gone || !c.gone && res.FunctionError != "Unhandled" {
				t.Errorf("got %s %s, %v", res.FunctionError, res.Payload, err)
			}
		})
	}
}

func TestARuntimeThatEndsBeforeItsFirstEventIsTold(t *testing.T) {
	f := start(t, func(g *guest) { g.ready(); g.exit("exit status 5") })
	res, reusable := f.invoke(t, `{}`)
	wantFailure(t, res, "Runtime.ExitError", "Runtime exited with error: exit status 5")
	if reusable || res.Outcome != kiln.Crashed {
		t.Errorf("reusable %v, outcome %v", reusable, res.Outcome)
	}
}

func TestARuntimesOwnErrorIsPassedOn(t *testing.T) {
	f := start(t, func(g *guest) {
		g.ready()
		h, _, _ := g.next()
		g.say(g.invocations, wire.Header{Type: wire.Error, RequestID: h.RequestID, ErrorType: "ValueError"}, `{"errorType":"ValueError"}`)
		g.next()
	})
	res, reusable := f.invoke(t, `{}`)
	if string(res.Payload) != `{"errorType":"ValueError"}` || res.FunctionError != "Unhandled" || res.Outcome != kiln.FunctionFailed || !reusable {
		t.Errorf("got %s %s %v reusable %v", res.Payload, res.FunctionError, res.Outcome, reusable)
	}
}

func TestAnInitErrorIsToldToTheFirstCaller(t *testing.T) {
	f := start(t, func(g *guest) {
		g.say(g.invocations, wire.Header{Type: wire.InitError, ErrorType: "Runtime.ImportModuleError"}, `{"errorType":"Runtime.ImportModuleError"}`)
		g.next()
	})
	res, reusable := f.invoke(t, `{}`)
	if string(res.Payload) != `{"errorType":"Runtime.ImportModuleError"}` || res.FunctionError != "Unhandled" || res.Outcome != kiln.InitFailed || reusable {
		t.Errorf("got %s %s %v reusable %v", res.Payload, res.FunctionError, res.Outcome, reusable)
	}
	if _, _, err := f.Invoke(t.Context(), kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("the second call: %v", err)
	}
}

func TestAnInitThatTimesOutIsTriedAgainWithinTheCall(t *testing.T) {
	tries := make(chan struct{}, 2)
	f := start(t, func(g *guest) {
		tries <- struct{}{}
		if len(tries) == 2 {
			g.serve()
			return
		}
		g.next()
	}, func(c *Config) { c.InitTimeout = 50 * time.Millisecond })
	res, reusable := f.invoke(t, `"hi"`)
	if string(res.Payload) != `"hi"` || !reusable {
		t.Errorf("got %s %s", res.Payload, res.LogTail)
	}
	if !strings.Contains(f.book.String(), "INIT_REPORT Init Duration: 50.00 ms\tPhase: init\tStatus: timeout\n") {
		t.Errorf("log %q", f.book)
	}
}

func TestAnInitThatNeverEndsTimesOutWithTheCall(t *testing.T) {
	f := start(t, func(g *guest) { g.next() }, func(c *Config) { c.InitTimeout = 20 * time.Millisecond }, timeout(50*time.Millisecond))
	res, reusable := f.invoke(t, `{}`)
	wantFailure(t, res, "Sandbox.Timedout", "Task timed out after 0.05 seconds")
	if reusable {
		t.Error("reusable")
	}
}

func TestAnIdleEnvironmentIsFrozenAndThawedForTheNextCall(t *testing.T) {
	f := start(t, (*guest).serve, func(c *Config) { c.FreezeAfter = time.Millisecond })
	b := f.engine.boxes[0]
	if !<-b.frozen {
		t.Fatal("thawed first")
	}
	f.invoke(t, `{}`)
	if <-b.frozen {
		t.Error("frozen while a call ran")
	}
	if !<-b.frozen {
		t.Error("not frozen again after the call")
	}
}

func TestAnEnvironmentThatCannotBeThawedLosesNoCall(t *testing.T) {
	f := start(t, (*guest).serve, func(c *Config) { c.FreezeAfter = time.Millisecond })
	b := f.engine.boxes[0]
	<-b.frozen
	b.mu.Lock()
	b.stuck = true
	b.mu.Unlock()
	if _, reusable, err := f.Invoke(t.Context(), kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) || reusable {
		t.Errorf("got %v, reusable %v", err, reusable)
	}
}

func TestStopWaitsForTheInvocationThatRuns(t *testing.T) {
	running, release := make(chan struct{}), make(chan struct{})
	f := start(t, func(g *guest) {
		g.ready()
		h, _, _ := g.next()
		close(running)
		<-release
		g.answer(h, "1")
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		res, _, err := f.Invoke(t.Context(), kiln.Invocation{})
		if err != nil || string(res.Payload) != "1" {
			t.Errorf("got %s, %v", res.Payload, err)
		}
	})
	<-running
	wg.Go(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	close(release)
	wg.Wait()
	if f.State() != Stopped {
		t.Errorf("state %v", f.State())
	}
	if _, _, err := f.Invoke(t.Context(), kiln.Invocation{}); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("after Stop: %v", err)
	}
}

func TestKillEndsTheInvocationThatRuns(t *testing.T) {
	running := make(chan struct{})
	f := start(t, func(g *guest) {
		g.ready()
		g.next()
		close(running)
		g.next()
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, reusable, err := f.Invoke(t.Context(), kiln.Invocation{}); kiln.KindOf(err) != kiln.Unavailable || reusable {
			t.Errorf("got %v, %v", reusable, err)
		}
	})
	<-running
	if err := f.Kill(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestAGuestThatSaysNothingIsAnErrorAndLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	engine := &mute{cancel: cancel}
	_, err := Start(ctx, Config{
		Engine: engine, Version: &kiln.Version{}, Sink: func([]byte) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil || !engine.destroyed {
		t.Errorf("error %v, destroyed %v", err, engine.destroyed)
	}
}

// mute is an engine and a sandbox whose guest never speaks.
type mute struct {
	fakeBox
	cancel    context.CancelFunc
	files     []net.Conn
	destroyed bool
}

func (m *mute) Start(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	c, err := net.FileConn(s.Files[3])
	m.files = append(m.files, c)
	m.cancel()
	return m, err
}

func (m *mute) Destroy() error {
	m.destroyed = true
	for _, c := range m.files {
		c.Close()
	}
	return nil
}
