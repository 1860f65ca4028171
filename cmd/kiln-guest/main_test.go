package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/wire"
)

// built is where TestMain puts the guest and the function, readable by any user.
var built string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	var err error
	if built, err = os.MkdirTemp("", "kiln-guest"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(built)
	if err := os.Chmod(built, 0o755); err != nil {
		return 0, err
	}
	for name, pkg := range map[string]string{"guest": ".", "function": "./testdata/function"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(built, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return m.Run(), nil
}

const (
	testUID     = 61234 // a user of its own, because the limit on processes counts all of a user's
	testGID     = 61235
	maxResponse = 1 << 20
)

// sandbox is a guest in a process and network namespace of its own, seen from the worker.
type sandbox struct {
	testing.TB
	control, invocations net.Conn
	reader               *bufio.Reader
	logs, extensionLogs  *os.File
	cmd                  *exec.Cmd
	stderr               bytes.Buffer
}

// newSandbox starts a guest in a process and a network namespace of its own, and in those given.
func newSandbox(t testing.TB, namespaces ...uintptr) *sandbox {
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces and to change the user of a process")
	}
	s := &sandbox{TB: t, cmd: exec.Command(filepath.Join(built, "guest"))}
	var files [4]*os.File
	s.control, files[0] = socketpair(t)
	s.invocations, files[1] = socketpair(t)
	s.reader = bufio.NewReader(s.invocations)
	var err error
	if s.logs, files[2], err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if s.extensionLogs, files[3], err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	s.cmd.ExtraFiles = files[:]
	s.cmd.Stderr = &s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	for _, n := range namespaces {
		s.cmd.SysProcAttr.Unshareflags |= n // which also makes mounts private
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}
	deadline := time.Now().Add(time.Minute) // far beyond any step, so that a fault ends the test
	s.control.SetDeadline(deadline)
	s.invocations.SetDeadline(deadline)
	s.logs.SetDeadline(deadline)
	t.Cleanup(s.end)
	s.expectControl(wire.Hello)
	return s
}

// end closes the control line, at which all that runs in the sandbox must end.
func (s *sandbox) end() {
	s.control.Close()
	if s.cmd.ProcessState == nil {
		if err := s.cmd.Wait(); err != nil {
			s.Errorf("guest: %v: %s", err, &s.stderr)
		}
	}
	s.invocations.Close()
	if _, err := io.Copy(io.Discard, s.logs); err != nil {
		s.Errorf("the log pipe is still held: %v", err)
	}
	s.logs.Close()
	s.extensionLogs.Close()
}

func socketpair(t testing.TB) (net.Conn, *os.File) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host := os.NewFile(uintptr(p[0]), "host")
	defer host.Close()
	c, err := net.FileConn(host)
	if err != nil {
		t.Fatal(err)
	}
	return c, os.NewFile(uintptr(p[1]), "guest")
}

func (s *sandbox) expectControl(want wire.Type) wire.Header {
	s.Helper()
	return s.expectFrom(s.control, want)
}

func (s *sandbox) expectFrom(r io.Reader, want wire.Type) wire.Header {
	s.Helper()
	h, body, err := wire.Read(r, maxResponse)
	if err != nil || h.Type != want {
		s.Fatalf("read %+v %s, %v; want %q", h, body, err, want)
	}
	return h
}

// start starts the function, in a mode unless it is "".
func (s *sandbox) start(mode string, change ...func(*wire.Header)) wire.Header {
	s.Helper()
	h := wire.Header{
		Type: wire.Start, Args: []string{filepath.Join(built, "function")}, Dir: "/", UID: testUID, GID: testGID,
		Env:          []string{"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "MODE=" + mode, "PATH=/usr/bin:/bin"},
		MaxProcesses: 100, MaxFiles: 256, MaxResponse: maxResponse, Direct: mode == "direct",
	}
	for _, f := range change {
		f(&h)
	}
	if err := wire.Write(s.control, h, nil); err != nil {
		s.Fatal(err)
	}
	return s.expectControl(wire.Started)
}

// invoke returns the answer to an event, whose frame must be of type want.
func (s *sandbox) invoke(event string, want wire.Type) (wire.Header, string) {
	s.Helper()
	h := wire.Header{
		Type: wire.Invoke, RequestID: "id-1", FunctionARN: "arn:f", TraceID: "Root=1", DeadlineMs: time.Now().Add(time.Minute).UnixMilli(),
		ClientContext: `{"custom":{"k":"v"}}`,
	}
	if err := wire.Write(s.invocations, h, []byte(event)); err != nil {
		s.Fatal(err)
	}
	answer, body, err := wire.Read(s.reader, maxResponse)
	if err != nil || answer.Type != want || answer.RequestID != h.RequestID {
		s.Fatalf("answered %+v %s, %v; want %q", answer, body, err, want)
	}
	return answer, string(body)
}

func TestAGoFunctionIsServed(t *testing.T) {
	s := newSandbox(t)
	if h := s.start(""); h.Failure != "" {
		t.Fatal(h.Failure)
	}
	s.expectFrom(s.reader, wire.Ready)
	if _, body := s.invoke(`{"Do":"echo","Text":"é"}`, wire.Response); body != `{"Do":"echo","Text":"é","N":0}` {
		t.Errorf("echo: %s", body)
	}
	if _, body := s.invoke(`{"Do":"context"}`, wire.Response); !strings.HasPrefix(body, `["id-1","arn:f",{"k":"v"},1`) || !strings.HasSuffix(body, `,"Root=1"]`) {
		t.Errorf("context: %s", body)
	}
	if h, body := s.invoke(`{"Do":"error","Text":"bad"}`, wire.Error); h.ErrorType != "Runtime.Unknown" || body != `{"errorMessage":"bad","errorType":"errorString"}` {
		t.Errorf("error: %+v %s", h, body)
	}
	if _, body := s.invoke(`{"Do":"long","N":1048574}`, wire.Response); len(body) != maxResponse {
		t.Errorf("the longest answer: %d bytes", len(body))
	}
}

func TestAPanicIsAnErrorAndAnEnd(t *testing.T) {
	s := newSandbox(t)
	s.start("")
	s.expectFrom(s.reader, wire.Ready)
	_, body := s.invoke(`{"Do":"panic","Text":"oh"}`, wire.Error)
	var object struct{ ErrorMessage, ErrorType string }
	if err := json.Unmarshal([]byte(body), &object); err != nil || object.ErrorMessage != "oh" || object.ErrorType != "string" {
		t.Errorf("error object %s (%v)", body, err)
	}
	if h := s.expectControl(wire.Exited); h.Status != "exit status 1" || h.RequestID != "id-1" {
		t.Errorf("status %q after the invocation %q", h.Status, h.RequestID)
	}
}

func TestAnAnswerThatIsTooLongIsAnError(t *testing.T) {
	s := newSandbox(t)
	s.start("")
	s.expectFrom(s.reader, wire.Ready)
	h, body := s.invoke(`{"Do":"long","N":1048575}`, wire.Error)
	if h.ErrorType != "Function.ResponseSizeTooLarge" || !strings.Contains(body, "maximum allowed payload size (1048576 bytes).") {
		t.Errorf("got %+v %s", h, body)
	}
}

func TestHowTheRuntimeEndedIsReported(t *testing.T) {
	for mode, want := range map[string]string{"exit": "exit status 3", "crash": "signal: killed"} {
		t.Run(mode, func(t *testing.T) {
			s := newSandbox(t)
			s.start(mode)
			if h := s.expectControl(wire.Exited); h.Status != want {
				t.Errorf("status %q, want %q", h.Status, want)
			}
		})
	}
	t.Run("in an invocation", func(t *testing.T) {
		s := newSandbox(t)
		s.start("")
		s.expectFrom(s.reader, wire.Ready)
		if err := wire.Write(s.invocations, wire.Header{Type: wire.Invoke, RequestID: "a"}, []byte(`{"Do":"exit","N":7}`)); err != nil {
			t.Fatal(err)
		}
		if h := s.expectControl(wire.Exited); h.Status != "exit status 7" {
			t.Errorf("status %q", h.Status)
		}
		want := "init\nlast words"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(s.logs, got); err != nil || string(got) != want {
			t.Errorf("logged %q, %v", got, err)
		}
	})
}

func TestInitErrorAndEnd(t *testing.T) {
	s := newSandbox(t)
	s.start("init-error")
	if h := s.expectFrom(s.reader, wire.InitError); h.ErrorType != "Function.NoLuck" {
		t.Errorf("got %+v", h)
	}
	if h := s.expectControl(wire.Exited); h.Status != "exit status 1" {
		t.Errorf("status %q", h.Status)
	}
	if got, err := bufio.NewReader(s.logs).ReadString('\n'); err != nil || got != "status 202\n" {
		t.Errorf("the runtime was answered %q, %v", got, err)
	}
}

func TestARuntimeThatAnswersTwiceIsRefused(t *testing.T) {
	s := newSandbox(t)
	s.start("twice")
	s.expectFrom(s.reader, wire.Ready)
	s.invoke("{}", wire.Response)
	if _, body := s.invoke("{}", wire.Response); body != "[400,202,403,403]" {
		t.Errorf("statuses %s", body)
	}
}

func TestADirectRuntimeHasTheSocket(t *testing.T) {
	s := newSandbox(t)
	s.start("direct")
	s.expectFrom(s.reader, wire.Ready)
	if _, body := s.invoke(`"event"`, wire.Response); body != `"event"` {
		t.Errorf("answered %s", body)
	}
	s.invocations.Close()
	// The guest holds no copy of the socket's other end, so the runtime sees its end at once.
	if h := s.expectControl(wire.Exited); h.Status != "exit status 1" {
		t.Errorf("status %q", h.Status)
	}
}

// prepare has the function started in mode "direct" before it is known.
func (s *sandbox) prepare() {
	s.Helper()
	h := wire.Header{
		Type: wire.Prepare, Args: []string{filepath.Join(built, "function"), "wait"}, Dir: "/", UID: testUID, GID: testGID,
		Env: []string{"MODE=direct"}, Direct: true,
	}
	if err := wire.Write(s.control, h, nil); err != nil {
		s.Fatal(err)
	}
	if h := s.expectControl(wire.Prepared); h.Failure != "" {
		s.Fatal(h.Failure)
	}
	s.expectFrom(s.reader, wire.Waiting)
}

func TestAPreparedProcessBecomesTheRuntime(t *testing.T) {
	s := newSandbox(t)
	s.prepare()
	if h := s.start("direct", func(h *wire.Header) { h.Adopt = true }); h.Failure != "" {
		t.Fatal(h.Failure)
	}
	if err := wire.Write(s.invocations, wire.Header{Type: wire.Begin}, nil); err != nil {
		t.Fatal(err)
	}
	s.expectFrom(s.reader, wire.Ready)
	if _, body := s.invoke(`"event"`, wire.Response); body != `"event"` {
		t.Errorf("answered %s", body)
	}
	s.invocations.Close()
	if h := s.expectControl(wire.Exited); h.Status != "exit status 1" {
		t.Errorf("status %q", h.Status)
	}
}

func TestAPreparedProcessGivesWayToAnother(t *testing.T) {
	for _, mode := range []string{"direct", ""} {
		t.Run("mode "+mode, func(t *testing.T) {
			s := newSandbox(t)
			s.prepare()
			if h := s.start(mode); h.Failure != "" {
				t.Fatal(h.Failure)
			}
			s.expectFrom(s.reader, wire.Ready)
			if _, body := s.invoke(`{"Do":"echo","Text":"a"}`, wire.Response); !strings.Contains(body, `"a"`) {
				t.Errorf("answered %s", body)
			}
		})
	}
}

func TestTheEndOfAPreparedProcessIsReported(t *testing.T) {
	s := newSandbox(t)
	s.prepare()
	if err := wire.Write(s.invocations, wire.Header{Type: wire.Exited}, nil); err != nil { // not what it waits for
		t.Fatal(err)
	}
	if h := s.expectControl(wire.Exited); h.Status != "exit status 1" {
		t.Errorf("status %q", h.Status)
	}
}

func TestDirectoriesAppearBeforeTheRuntimeStarts(t *testing.T) {
	s := newSandbox(t, syscall.CLONE_NEWNS)
	source, target := t.TempDir(), t.TempDir()
	s.start("", func(h *wire.Header) { h.Binds = []wire.Bind{{Source: source, Target: target}} })
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.cmd.Process.Pid))
	if err != nil || !strings.Contains(string(mounts), " "+target+" ") {
		t.Errorf("%s is no mount point (%v)", target, err)
	}
	s.expectFrom(s.reader, wire.Ready)
}

func TestWhatCannotBeStartedIsSaid(t *testing.T) {
	plain := filepath.Join(built, "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		change func(*wire.Header)
		want   string
	}{
		"missing": {func(h *wire.Header) { h.Args = []string{"/var/task/bootstrap"} }, "fork/exec /var/task/bootstrap: no such file or directory"},
		"both missing": {func(h *wire.Header) { h.Args, h.Fallback = []string{"/var/task/bootstrap"}, "/nonexistent/bootstrap" },
			"fork/exec /var/task/bootstrap: no such file or directory"},
		"not executable, with a fallback": {func(h *wire.Header) { h.Args, h.Fallback = []string{plain}, filepath.Join(built, "function") },
			"fork/exec " + plain + ": permission denied"},
		"not executable":    {func(h *wire.Header) { h.Args = []string{plain} }, "fork/exec " + plain + ": permission denied"},
		"missing directory": {func(h *wire.Header) { h.Dir = "/nonexistent" }, "fork/exec " + filepath.Join(built, "function") + ": no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			if h := newSandbox(t).start("", row.change); h.Failure != row.want {
				t.Errorf("failure %q, want %q", h.Failure, row.want)
			}
		})
	}
}

func TestAFallbackIsStartedWhenTheProgramIsNotThere(t *testing.T) {
	s := newSandbox(t)
	h := s.start("", func(h *wire.Header) { h.Args, h.Fallback = []string{"/var/task/bootstrap"}, h.Args[0] })
	if h.Failure != "" {
		t.Fatalf("failure %q", h.Failure)
	}
	s.expectFrom(s.reader, wire.Ready)
}

func TestTheRuntimeHasNoPrivilege(t *testing.T) {
	s := newSandbox(t)
	s.start("", func(h *wire.Header) { h.Dir = built })
	s.expectFrom(s.reader, wire.Ready)
	_, body := s.invoke(`{"Do":"self"}`, wire.Response)
	var self struct {
		Status, Limits, Dir string
		Leader              bool
		Env                 []string
		Sockets             int
	}
	if err := json.Unmarshal([]byte(body), &self); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Uid:\t61234\t61234\t61234\t61234\n", "Gid:\t61235\t61235\t61235\t61235\n", "Groups:\t \n", "NoNewPrivs:\t1\n",
		"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
		"CapAmb:\t0000000000000000\n",
	} {
		if !strings.Contains(self.Status, want) {
			t.Errorf("status without %q:\n%s", want, self.Status)
		}
	}
	fields := strings.Join(strings.Fields(self.Limits), " ")
	for _, want := range []string{"Max processes 100 100 processes", "Max open files 256 256 files"} {
		if !strings.Contains(fields, want) {
			t.Errorf("limits without %q:\n%s", want, self.Limits)
		}
	}
	if self.Sockets != 1 {
		t.Errorf("%d sockets are open, want the connection to the runtime api alone", self.Sockets)
	}
	if !self.Leader || self.Dir != built || slices.Contains(self.Env, "HOME="+os.Getenv("HOME")) {
		t.Errorf("leader of its session: %v, directory %s, environment %q", self.Leader, self.Dir, self.Env)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	s := newSandbox(t)
	s.start("", func(h *wire.Header) { h.MaxProcesses = 1000 })
	s.expectFrom(s.reader, wire.Ready)
	// 1,200 orphans, more than the limit on processes: a zombie counts too. The rest of the limit is for a busy machine, on
	// which the guest reaps late.
	s.invoke(`{"Do":"orphans","N":400}`, wire.Response)
}

func TestTheGuestDistrustsTheControlLine(t *testing.T) {
	for name, frames := range map[string][]byte{
		"not start":    frame(t, wire.Header{Type: wire.Hello}),
		"no arguments": frame(t, wire.Header{Type: wire.Start}),
		"second start": append(frame(t, wire.Header{Type: wire.Start, Args: []string{"/bin/sleep", "60"}}), frame(t, wire.Header{Type: wire.Start})...),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			if _, err := s.control.Write(frames); err != nil {
				t.Fatal(err)
			}
			if err := s.cmd.Wait(); s.cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(s.stderr.String(), "kiln-guest: ") {
				t.Errorf("guest ended with %v and said %q, want exit status 1 and why", err, &s.stderr)
			}
		})
	}
}

func frame(t *testing.T, h wire.Header) []byte {
	b, err := wire.Append(nil, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func BenchmarkInvoke(b *testing.B) {
	event := `{"Do":"echo","Text":"` + strings.Repeat("x", 1000) + `"}`
	for name, mode := range map[string]string{"go": "", "direct": "direct"} {
		b.Run(name, func(b *testing.B) {
			s := newSandbox(b)
			s.start(mode)
			s.expectFrom(s.reader, wire.Ready)
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				s.invoke(event, wire.Response)
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
