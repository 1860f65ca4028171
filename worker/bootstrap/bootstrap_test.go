package bootstrap_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"kiln"
	"kiln/worker/bootstrap"
	"kiln/worker/runtime"
	"kiln/worker/wire"
)

// TestScripts runs every script below testdata with every interpreter of this machine, in a process that is started with its function
// and in one that is given it later. A script is a txtar archive: the files of
// a function, and before them what happens, a line each:
//
//	only N            the script is for versions from N on (Python 3.N, Node.js N); "only -N" for those up to N
//	pretend N         makes Node.js say that it is version N
//	handler NAME      sets _HANDLER; "index.handler" if it is not said
//	env NAME=VALUE    sets a variable; {dir} stands for the function's directory, here and below
//	start             starts the process
//	invoke EVENT      starts the process, which must become ready, if it does not run; sends it an event
//	with NAME=VALUE   changes the next invoke: context, identity, trace, timeout (in milliseconds)
//	response BODY     the answer, byte for byte
//	error REGEXP      the error object that is the answer, whole
//	initError REGEXP  the error object of an INIT that failed, whole
//	log REGEXP        matches somewhere in what was logged since the last invoke, or since the start
//	quiet             nothing was logged since then
//	exit STATUS       the process ends
func TestScripts(t *testing.T) {
	for _, language := range []string{"python", "nodejs"} {
		scripts, err := filepath.Glob("testdata/" + language + "/*.txtar")
		if err != nil || len(scripts) == 0 {
			t.Fatalf("scripts of %s: %v, %v", language, scripts, err)
		}
		for _, rt := range interpreters(t, language) {
			for _, script := range scripts {
				archive, err := txtar.ParseFile(script)
				if err != nil {
					t.Fatal(err)
				}
				name := rt.id + "/" + strings.TrimSuffix(filepath.Base(script), ".txtar")
				t.Run(name, func(t *testing.T) { runScript(t, rt, archive, false) })
				t.Run(name+"/given later", func(t *testing.T) { runScript(t, rt, archive, true) })
			}
		}
	}
}

// interpreter is one of this machine's interpreters.
type interpreter struct {
	id     string
	number int // of the release: 12 of Python 3.12, 20 of Node.js 20
	set    *runtime.Set
}

func interpreters(t testing.TB, language string) []interpreter {
	set, err := runtime.Find(t.Context(), runtime.Options{Path: filepath.SplitList(os.Getenv("PATH"))})
	if err != nil {
		t.Fatal(err)
	}
	var found []interpreter
	for _, id := range set.IDs() {
		if !strings.HasPrefix(id, language) {
			continue
		}
		number, err := strconv.Atoi(regexp.MustCompile(`^(python3\.|nodejs)|\.x$`).ReplaceAllString(id, ""))
		if err != nil {
			t.Fatalf("runtime %q: %v", id, err)
		}
		found = append(found, interpreter{id, number, set})
	}
	if len(found) == 0 {
		t.Skipf("this machine has no %s", language)
	}
	return found
}

// process is a bootstrap that runs natively, seen from the worker.
type process struct {
	testing.TB
	cmd    *exec.Cmd
	socket net.Conn
	reader *bufio.Reader
	logs   *os.File
	logged []byte
}

// config says what a process runs.
type config struct {
	interpreter
	dir, handler string
	env          []string
	preload      string // a file that Node.js loads first
	later        bool   // the process is started before its function is known
}

func start(t testing.TB, c config) *process {
	rt, _ := c.set.Lookup(c.id)
	v := &kiln.Version{
		Function: "fn", Qualifier: kiln.LatestVersion,
		Config: kiln.Config{Handler: c.handler, MemoryMB: 256, LogGroup: "/aws/lambda/fn"},
	}
	v.Environment = map[string]string{}
	for _, variable := range c.env {
		name, value, _ := strings.Cut(variable, "=")
		v.Environment[name] = value
	}
	if c.later && !rt.Adopts(v, rt.Class(v)) {
		t.Skip("the interpreter is started anew for it")
	}
	v.Environment = nil // added below
	h := rt.Process(v, runtime.Launch{Region: "us-east-1", Stream: "stream"})
	args := slices.Clone(h.Args)
	programs := t.TempDir()
	if err := os.CopyFS(programs, bootstrap.Files); err != nil {
		t.Fatal(err)
	}
	args[len(args)-1] = filepath.Join(programs, filepath.Base(args[len(args)-1]))
	if c.preload != "" {
		args = slices.Insert(args, 1, "--require", c.preload)
	}
	p := &process{TB: t, cmd: exec.Command(args[0], args[1:]...)}
	env := append(append(h.Env, "LAMBDA_TASK_ROOT="+c.dir, "LD_LIBRARY_PATH=", "PYTHONDONTWRITEBYTECODE=1"), c.env...)
	p.cmd.Dir, p.cmd.Env = c.dir, env
	if c.later {
		p.cmd.Args = append(p.cmd.Args, "wait")
		p.cmd.Dir, p.cmd.Env = "/", []string{"LANG=C.UTF-8", "TZ=:UTC", "NODE_PATH=" + variable(env, "NODE_PATH")}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, guest := os.NewFile(uintptr(pair[0]), "host"), os.NewFile(uintptr(pair[1]), "guest")
	if p.socket, err = net.FileConn(host); err != nil {
		t.Fatal(err)
	}
	p.reader = bufio.NewReader(p.socket)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.logs = r
	p.cmd.ExtraFiles, p.cmd.Stdout, p.cmd.Stderr = []*os.File{guest}, w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	host.Close()
	guest.Close()
	w.Close()
	p.socket.SetDeadline(time.Now().Add(time.Minute)) // far beyond any step, so that a fault ends the test
	t.Cleanup(p.stop)
	if c.later {
		p.receive(wire.Waiting)
		if err := wire.Write(p.socket, wire.Header{Type: wire.Begin, Env: env, Dir: c.dir}, nil); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// variable is the last value of that name in an environment.
func variable(env []string, name string) (value string) {
	for _, v := range env {
		if after, ok := strings.CutPrefix(v, name+"="); ok {
			value = after
		}
	}
	return value
}

// stop closes the socket, at which the process must end by itself.
func (p *process) stop() {
	p.socket.Close()
	if p.Failed() {
		p.cmd.Process.Kill()
	}
	io.Copy(io.Discard, p.logs)
	if p.cmd.ProcessState == nil {
		if err := p.cmd.Wait(); err != nil && !p.Failed() {
			p.Errorf("at the end of its socket the process ended with %v", err)
		}
	}
	p.logs.Close()
}

// receive reads a frame of type want, and what was logged before it.
func (p *process) receive(want wire.Type) (wire.Header, []byte) {
	p.Helper()
	h, body, err := wire.Read(p.reader, kiln.MaxResponse)
	p.readLogs()
	if err != nil || h.Type != want {
		p.Fatalf("read %+v %s, %v; want %q; logged:\n%s", h, body, err, want, p.logged)
	}
	return h, body
}

// readLogs takes what is in the log pipe now, without waiting.
func (p *process) readLogs() {
	raw, err := p.logs.SyscallConn()
	if err != nil {
		p.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			p.logged = append(p.logged, buf[:n]...)
		}
	})
}

func (p *process) invoke(h wire.Header, event string) {
	p.Helper()
	h.Type = wire.Invoke
	if err := wire.Write(p.socket, h, []byte(event)); err != nil {
		p.Fatal(err)
	}
}

// script is a run of one script.
type script struct {
	*testing.T
	config
	process *process
	next    wire.Header
	timeout time.Duration
	count   int
}

func runScript(t *testing.T, rt interpreter, archive *txtar.Archive, later bool) {
	s := &script{T: t, config: config{interpreter: rt, handler: "index.handler", later: later}}
	s.dir = t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(s.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(string(archive.Comment)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		verb, arg, _ := strings.Cut(line, " ")
		s.do(verb, strings.ReplaceAll(arg, "{dir}", s.dir))
		if t.Failed() {
			t.Fatalf("at %q", line)
		}
	}
}

func (s *script) do(verb, arg string) {
	switch verb {
	case "only":
		n, err := strconv.Atoi(arg)
		if err != nil {
			s.Fatal(err)
		}
		if s.number < n || n < 0 && s.number > -n {
			s.Skip("not for this version")
		}
	case "pretend":
		s.pretend(arg)
	case "handler":
		s.handler = arg
	case "env":
		s.env = append(s.env, arg)
	case "start":
		s.process = start(s, s.config)
	case "with":
		s.with(arg)
	case "invoke":
		s.invoke(arg)
	case "response":
		if h, body := s.process.receive(wire.Response); string(body) != arg || h.RequestID != s.requestID() {
			s.Errorf("answered %+v %s", h, body)
		}
	case "error":
		h, body := s.process.receive(wire.Error)
		s.match(arg, body, true)
		if h.RequestID != s.requestID() || !bytes.Contains(body, []byte(h.ErrorType)) {
			s.Errorf("answered %+v %s", h, body)
		}
	case "initError":
		s.process = start(s, s.config)
		h, body := s.process.receive(wire.InitError)
		s.match(arg, body, true)
		if h.ErrorType == "" || !bytes.Contains(body, []byte(h.ErrorType)) {
			s.Errorf("answered %+v %s", h, body)
		}
	case "log":
		s.match(arg, s.process.logged, false)
	case "quiet":
		s.match("^$", s.process.logged, false)
	case "exit":
		s.exit(arg)
	default:
		s.Fatalf("unknown line")
	}
	if verb == "invoke" {
		s.process.logged = nil
	}
}

func (s *script) requestID() string { return fmt.Sprintf("request-%d", s.count) }

func (s *script) pretend(version string) {
	s.preload = filepath.Join(s.TempDir(), "preload.cjs")
	source := fmt.Sprintf("Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '%s.0.0' } });\n", version)
	if err := os.WriteFile(s.preload, []byte(source), 0o644); err != nil {
		s.Fatal(err)
	}
}

func (s *script) with(arg string) {
	name, value, _ := strings.Cut(arg, "=")
	switch name {
	case "context":
		s.next.ClientContext = value
	case "identity":
		s.next.Identity = value
	case "trace":
		s.next.TraceID = value
	case "timeout":
		ms, err := strconv.Atoi(value)
		if err != nil {
			s.Fatal(err)
		}
		s.timeout = time.Duration(ms) * time.Millisecond
	default:
		s.Fatalf("unknown %q", name)
	}
}

func (s *script) invoke(event string) {
	if s.process == nil {
		s.process = start(s, s.config)
		s.process.receive(wire.Ready)
	}
	s.count++
	h := s.next
	h.RequestID, h.FunctionARN = s.requestID(), "arn:aws:lambda:us-east-1:000000000000:function:fn"
	h.DeadlineMs = time.Now().Add(max(s.timeout, time.Minute)).UnixMilli()
	if s.timeout != 0 {
		h.DeadlineMs = time.Now().Add(s.timeout).UnixMilli()
	}
	s.process.invoke(h, event)
	s.next, s.timeout = wire.Header{}, 0
}

func (s *script) match(pattern string, text []byte, whole bool) {
	if whole {
		pattern = `^(?:` + pattern + `)$`
	}
	if !regexp.MustCompile(`(?s)` + pattern).Match(text) {
		s.Errorf("%q does not match\n%s", pattern, text)
	}
}

func (s *script) exit(want string) {
	rest, err := io.ReadAll(s.process.logs)
	if err != nil {
		s.Fatal(err)
	}
	s.process.logged = append(s.process.logged, rest...)
	err = s.process.cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		s.Fatal(err)
	}
	if got := s.process.cmd.ProcessState.String(); got != want {
		s.Errorf("ended with %q, want %q; logged:\n%s", got, want, s.process.logged)
	}
}

func echo(t testing.TB, rt interpreter) config {
	c := config{interpreter: rt, dir: t.TempDir(), handler: "index.handler"}
	for name, source := range map[string]string{
		"index.py": "def handler(event, context):\n    return event\n",
		"index.js": "exports.handler = async (event) => event;\n",
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func everyInterpreter(t testing.TB) []interpreter {
	return slices.Concat(interpreters(t, "python"), interpreters(t, "nodejs"))
}

func TestTheLongestPayloadsPass(t *testing.T) {
	for _, rt := range everyInterpreter(t) {
		t.Run(rt.id, func(t *testing.T) {
			p := start(t, echo(t, rt))
			p.receive(wire.Ready)
			event := `"` + strings.Repeat("x", kiln.MaxPayload-2) + `"`
			for range 2 {
				p.invoke(wire.Header{RequestID: "a"}, event)
				if _, body := p.receive(wire.Response); string(body) != event {
					t.Errorf("answered %d bytes", len(body))
				}
			}
		})
	}
}

func TestAFrameMayArriveInPieces(t *testing.T) {
	for _, rt := range everyInterpreter(t) {
		t.Run(rt.id, func(t *testing.T) {
			p := start(t, echo(t, rt))
			p.receive(wire.Ready)
			frame, err := wire.Append(nil, wire.Header{Type: wire.Invoke, RequestID: "a"}, []byte(`"é"`))
			if err != nil {
				t.Fatal(err)
			}
			for i := range frame {
				if _, err := p.socket.Write(frame[i : i+1]); err != nil {
					t.Fatal(err)
				}
			}
			if _, body := p.receive(wire.Response); string(body) != `"é"` && string(body) != `"\u00e9"` {
				t.Errorf("answered %s", body)
			}
		})
	}
}

// TestAllOutputIsWrittenBeforeTheAnswer prints more than a pipe holds, in the ways that buffer.
func TestAllOutputIsWrittenBeforeTheAnswer(t *testing.T) {
	const size = 300_000
	sources := map[string]string{
		"index.py": `import sys
def handler(event, context):
    sys.stdout.write("o" * 300000)
    sys.stderr.write("e" * 300000)
`,
		"index.js": `exports.handler = async () => {
  console.log("first");
  process.stdout.write("o".repeat(300000));
  process.stderr.write("e".repeat(300000));
  console.log("last");
};
`,
	}
	for _, rt := range everyInterpreter(t) {
		t.Run(rt.id, func(t *testing.T) {
			c := echo(t, rt)
			for name, source := range sources {
				if err := os.WriteFile(filepath.Join(c.dir, name), []byte(source), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p := start(t, c)
			p.receive(wire.Ready)
			p.invoke(wire.Header{RequestID: "a"}, "{}")
			read := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(p.logs) // ends when the process has ended or the test closes the pipe
				read <- b
			}()
			if _, _, err := wire.Read(p.reader, kiln.MaxResponse); err != nil {
				t.Fatal(err)
			}
			// Killed at its answer, the process cannot write any more.
			p.cmd.Process.Kill()
			p.cmd.Wait()
			b := <-read
			if bytes.Count(b, []byte("o")) < size || bytes.Count(b, []byte("e")) < size {
				t.Errorf("%d bytes were logged before the answer", len(b))
			}
		})
	}
}

func BenchmarkInvoke(b *testing.B) {
	for _, rt := range everyInterpreter(b) {
		b.Run(rt.id, func(b *testing.B) {
			p := start(b, echo(b, rt))
			p.receive(wire.Ready)
			event := `{"text":"` + strings.Repeat("x", 1000) + `"}`
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				p.invoke(wire.Header{RequestID: "a", DeadlineMs: 1}, event)
				if _, _, err := wire.Read(p.reader, kiln.MaxResponse); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

func BenchmarkStart(b *testing.B) {
	for _, rt := range everyInterpreter(b) {
		b.Run(rt.id, func(b *testing.B) {
			c := echo(b, rt)
			for b.Loop() {
				p := start(b, c)
				p.receive(wire.Ready)
				p.socket.Close()
				p.cmd.Wait()
			}
		})
	}
}
