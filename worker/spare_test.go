package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
	"kiln/fleet"
	"kiln/kilntest"
	"kiln/worker"
	"kiln/worker/bootstrap"
	"kiln/worker/environment"
	"kiln/worker/identity"
	"kiln/worker/runtime"
	"kiln/worker/runtime/guest"
	"kiln/worker/sandbox"
	"kiln/worker/sandbox/gvisor"
	"kiln/worker/sandbox/gvisor/program"
)

// door is an API that nobody answers.
type door struct{}

// rack is a worker node with real sandboxes, whose next spare sandbox the test chooses.
type rack struct {
	testing.TB
	*worker.Node
	host *worker.Host
	// dirs are the unpacked packages, by digest.
	dirs map[kiln.Digest]string
	logs strings.Builder

	mu    sync.Mutex
	spare *environment.Spare
	class runtime.Class
	// printed is what functions logged.
	printed strings.Builder
	// ended receives when nothing is left of an environment; there is room for more than a test has.
	ended chan struct{}
}

func newRack(t testing.TB) *rack {
	if os.Getuid() != 0 {
		t.Skip("sandboxes need root")
	}
	engine, err := gvisor.New(gvisor.Config{Dir: t.TempDir(), Program: program.Open})
	if err != nil {
		t.Fatal(err)
	}
	runtimes, err := runtime.Find(t.Context(), runtime.Options{Path: filepath.SplitList(os.Getenv("PATH"))})
	if err != nil {
		t.Fatal(err)
	}
	program, err := guest.Program()
	if err != nil {
		t.Fatal(err)
	}
	root, err := runtime.BuildRoot(filepath.Join(t.TempDir(), "root"), runtimes, program, bootstrap.Files)
	if err != nil {
		t.Fatal(err)
	}
	r := &rack{TB: t, ended: make(chan struct{}, 1000), dirs: make(map[kiln.Digest]string)}
	log := slog.New(slog.NewTextHandler(&r.logs, nil))
	r.host = &worker.Host{Region: "us-east-1", Engine: engine, Runtimes: runtimes, Root: root, Code: r, Spares: r, Logs: r, Log: log, Identity: identity.NewIssuer(), API: &door{}}
	r.Node = worker.New(worker.Config{Preparer: r.host, Memory: worker.NewMemory(100_000), Log: log})
	r.run(engine.Run)
	r.run(r.Node.Run)
	return r
}

// run runs a component until the test ends.
func (r *rack) run(component func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value, so that the component never waits
	go func() { ended <- component(ctx) }()
	r.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Error(err)
		}
	})
}

// Acquire implements worker.Code.
func (r *rack) Acquire(_ context.Context, _ kiln.AccountID, c kiln.Code) (string, func(), error) {
	return r.dirs[c.Digest], func() { r.ended <- struct{}{} }, nil
}

// AcquireLayers implements worker.Code, with directories that are their own digests and of which there is one at most.
func (r *rack) AcquireLayers(_ context.Context, layers []kiln.Layer) (string, func(), error) {
	for _, l := range layers {
		return r.dirs[l.Code.Digest], func() {}, nil
	}
	return "", func() {}, nil
}

// Take implements environment.API.
func (*door) Take(c net.Conn) { c.Close() }

// Write implements worker.Logs.
func (r *rack) Write(_ kiln.AccountID, _ kiln.FunctionName, lines []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.printed.Write(lines)
}

// log returns what functions logged since it was called last.
func (r *rack) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.printed.Reset()
	return r.printed.String()
}

// Expect implements worker.Spares.
func (r *rack) Expect(runtime.Class) {}

// Yield implements worker.Spares.
func (r *rack) Yield() bool { return false }

// Take implements worker.Spares.
func (r *rack) Take(runtime.Class) (*environment.Spare, runtime.Class, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.spare
	r.spare = nil
	return s, r.class, s != nil
}

// boot boots the sandbox that is taken next, and returns it.
func (r *rack) boot(c runtime.Class) *environment.Spare {
	r.Helper()
	s, err := r.host.BootSpare(r.Context(), c)
	if err != nil {
		r.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare, r.class = s, c
	return s
}

// newest is the newest runtime of a family that this machine has.
func (r *rack) newest(family string) string {
	r.Helper()
	for _, id := range slices.Backward(r.host.Runtimes.IDs()) {
		if strings.HasPrefix(id, family) {
			return id
		}
	}
	r.Skipf("this machine has no %s", family)
	return ""
}

// function is a version whose package holds files.
func (r *rack) function(id string, memoryMB int, env map[string]string, files map[string]string) *kiln.Version {
	r.Helper()
	dir := r.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
			r.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // a test's directory is its user's only
		r.Fatal(err)
	}
	digest := kiln.Digest(dir)
	r.dirs[digest] = dir
	return &kiln.Version{
		Account: kilntest.Account, Function: "f", Qualifier: kiln.LatestVersion, Deployment: dir,
		Config: kiln.Config{
			Runtime: id, Handler: "index.handler", MemoryMB: memoryMB, Timeout: 10 * time.Second, EphemeralMB: runtime.SpareTmpMB,
			Environment: env, LogGroup: "/aws/lambda/f", Code: kiln.Code{Digest: digest},
		},
	}
}

// call starts an environment of v and returns its first answer.
func (r *rack) call(v *kiln.Version) (kiln.Result, fleet.EnvironmentID) {
	r.Helper()
	id, err := r.Start(r.Context(), v, fleet.OnDemand)
	if err != nil {
		r.Fatal(err)
	}
	res, _, err := r.Invoke(r.Context(), id, kiln.Invocation{ID: "r", Payload: []byte(`{"n":1}`)})
	if err != nil {
		r.Fatal(err)
	}
	return res, id
}

const describePython = `
import ctypes, os, sys
def handler(event, context):
    try:
        ctypes.CDLL("libmine.so")
        library = "found"
    except OSError as e:
        library = str(e)
    return {
        "event": event, "name": context.function_name, "env": dict(os.environ), "dir": os.getcwd(), "args": sys.argv, "library": library,
        "uid": os.getuid(), "files": sorted(os.listdir("/var/task")), "descriptors": sorted(os.listdir("/proc/self/fd")),
    }
`

const describeNode = `
const fs = require('fs');
exports.handler = async (event, context) => ({
  event, name: context.functionName, env: process.env, dir: process.cwd(), args: process.argv.slice(1), library: 'found', uid: process.getuid(),
  files: fs.readdirSync('/var/task').sort(), descriptors: [],
});
`

// description is what the functions above answer.
type description struct {
	Event              map[string]int
	Name, Dir, Library string
	Env                map[string]string
	Args, Files        []string
	UID                int
	Descriptors        []string
}

// library is a shared library that any process can load.
func library(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/lib*/x86_64-linux-gnu/libc.so.6") // the pattern is well formed
	if len(found) == 0 {
		t.Skip("this machine's C library is not where Debian has it")
	}
	text, err := os.ReadFile(strings.Replace(found[0], "libc.so.6", "libz.so.1", 1))
	if err != nil {
		t.Skip(err)
	}
	return string(text)
}

// TestAFunctionSeesNoDifferenceInASandboxThatWaited compares what a function sees of its environment in a sandbox that was booted for
// it and in one that was given to it later.
func TestAFunctionSeesNoDifferenceInASandboxThatWaited(t *testing.T) {
	for family, file := range map[string]string{"python3": "index.py", "nodejs": "index.js"} {
		t.Run(family, func(t *testing.T) {
			r := newRack(t)
			source := map[string]string{"index.py": describePython, "index.js": describeNode}[file]
			for name, env := range map[string]map[string]string{
				"adopted": {"MINE": "1", "EMPTY": ""},
				"restarted for its variables": {
					"TZ": "Europe/Berlin", "PYTHONHASHSEED": "1", "NODE_OPTIONS": "--no-warnings", "LD_LIBRARY_PATH": "/var/task/lib",
				},
			} {
				t.Run(name, func(t *testing.T) {
					v := r.function(r.newest(family), 256, env, map[string]string{file: source, "lib/libmine.so": library(t)})
					booted := r.describe(t, v)
					rt, _ := r.host.Runtimes.Lookup(v.Runtime)
					spare := r.boot(rt.Class(v))
					waited := r.describe(t, v)
					if !strings.HasSuffix(waited.Env["AWS_LAMBDA_LOG_STREAM_NAME"], spare.ID) {
						t.Fatalf("it ran in %s and not in %s", waited.Env["AWS_LAMBDA_LOG_STREAM_NAME"], spare.ID)
					}
					for _, own := range []string{"AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
						delete(booted.Env, own)
						delete(waited.Env, own)
					}
					if !maps.Equal(booted.Env, waited.Env) {
						t.Errorf("variables: %v\nin one that waited: %v", booted.Env, waited.Env)
					}
					booted.Env, waited.Env = nil, nil
					a, _ := json.Marshal(booted) // plain members
					b, _ := json.Marshal(waited) // as above
					if string(a) != string(b) {
						t.Errorf("%s\nin one that waited: %s", a, b)
					}
					if waited.Library != "found" || waited.Event["n"] != 1 || waited.Dir != "/var/task" {
						t.Errorf("%+v", waited)
					}
				})
			}
		})
	}
}

// describe runs v once.
func (r *rack) describe(t *testing.T, v *kiln.Version) description {
	t.Helper()
	res, id := r.call(v)
	defer r.Stop(id, fleet.Idle)
	var d description
	if err := json.Unmarshal(res.Payload, &d); err != nil || res.FunctionError != "" {
		t.Fatalf("%s %s: %v\n%s", res.FunctionError, res.Payload, err, res.LogTail)
	}
	return d
}

func TestACustomRuntimeStartsInASandboxThatWaited(t *testing.T) {
	r := newRack(t)
	program := map[string]string{"bootstrap": kilntest.GoProgram(t, "bench/echo")}
	own := r.function("provided.al2023", 128, nil, program)
	layered := r.function("provided.al2023", 128, nil, map[string]string{"data": ""})
	layered.Layers = []kiln.Layer{{Code: r.function("", 0, nil, program).Code}}
	for name, v := range map[string]*kiln.Version{"bootstrap of its own": own, "bootstrap in a layer": layered} {
		spare := r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 512})
		res, id := r.call(v)
		if string(res.Payload) != `{"n":1}` || string(id) != spare.ID {
			t.Errorf("%s: %s answered %s\n%s", name, id, res.Payload, res.LogTail)
		}
	}
}

func TestLayersAppearInASandboxThatWaited(t *testing.T) {
	r := newRack(t)
	v := r.function(r.newest("python3"), 128, nil, map[string]string{"index.py": "import ours\ndef handler(e, c):\n    return ours.name\n"})
	v.Layers = []kiln.Layer{{Code: r.function("", 0, nil, map[string]string{"python/ours.py": "name = 'ours'\n"}).Code}}
	spare := r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 512})
	if res, id := r.call(v); string(res.Payload) != `"ours"` || string(id) != spare.ID {
		t.Errorf("%s answered %s\n%s", id, res.Payload, res.LogTail)
	}
}

func TestTheHeapOfNodeFitsTheFunctionWhateverWaited(t *testing.T) {
	r := newRack(t)
	v := r.function(r.newest("nodejs"), 128, nil, map[string]string{"index.js": `
exports.handler = async () => require('v8').getHeapStatistics().heap_size_limit / 1048576;`})
	r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 1024})
	res, _ := r.call(v)
	var limit float64
	if err := json.Unmarshal(res.Payload, &limit); err != nil || limit > 200 {
		t.Errorf("its heap may have %s MB (%v)", res.Payload, err)
	}
}

func TestTheMemoryOfASandboxThatWaitedIsTheFunctions(t *testing.T) {
	r := newRack(t)
	v := r.function(r.newest("python3"), 128, nil, map[string]string{"index.py": "def handler(e, c):\n    return len(bytearray(180 << 20))\n"})
	v.Timeout = time.Minute // a fourteenth of a processor, on a machine whose memory is found when it is touched first
	r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 1769})
	res, _ := r.call(v)
	if !strings.Contains(string(res.Payload), "Runtime.OutOfMemory") {
		t.Errorf("180 MB of 128: %s %s\n%s", res.FunctionError, res.Payload, res.LogTail)
	}
	v.MemoryMB = 256
	r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 512})
	if res, _ := r.call(v); res.FunctionError != "" {
		t.Errorf("180 MB of 256: %s\n%s", res.Payload, res.LogTail)
	}
}

func TestASandboxThatDiedWaitingIsNotTheFunctionsTrouble(t *testing.T) {
	r := newRack(t)
	v := r.function(r.newest("python3"), 128, nil, map[string]string{"index.py": "def handler(e, c):\n    return e\n"})
	spare := r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 512})
	if err := spare.Destroy(); err != nil {
		t.Fatal(err)
	}
	<-spare.Ended()
	res, _ := r.call(v)
	if string(res.Payload) != `{"n": 1}` || res.Timing.Sandbox == 0 {
		t.Errorf("%s after %v\n%s", res.Payload, res.Timing.Sandbox, res.LogTail)
	}
}

// sawn is an engine whose sandboxes lose a process as soon as they show a function's files: just before they are given away.
type sawn struct {
	sandbox.Engine
	lose func(id string)
}

type sawnBox struct {
	sandbox.Sandbox
	lose func()
}

func (e sawn) Start(ctx context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	b, err := e.Engine.Start(ctx, s)
	return sawnBox{b, func() { e.lose(s.ID) }}, err
}

func (b sawnBox) Mount(ctx context.Context, name, source string) error {
	err := b.Sandbox.Mount(ctx, name, source)
	b.lose()
	return err
}

// killProcess kills the process of a sandbox whose command line begins so.
func killProcess(t *testing.T, id, prefix string) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(text), prefix) || !strings.Contains(string(text), "/"+id+"\x00") {
			continue // another's, or it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		unix.Kill(pid, unix.SIGKILL) // a process that another's end has ended already is as dead
	}
}

func TestASandboxThatDiesAsItIsGivenAwayCostsNoCall(t *testing.T) {
	for _, process := range []string{"runsc-gofer", "runsc-sandbox"} {
		for _, family := range []string{"python3", "nodejs"} {
			t.Run(process+"/"+family, func(t *testing.T) {
				r := newRack(t)
				r.host.Engine = sawn{r.host.Engine, func(id string) { killProcess(t, id, process) }}
				v := r.function(r.newest(family), 256, nil, map[string]string{
					"index.py": "def handler(e, c):\n    return e['n']\n", "index.js": "exports.handler = async (e) => e.n;",
				})
				for range 3 {
					r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 512})
					res, id := r.call(v)
					if string(res.Payload) != `1` || res.Timing.Start != kiln.Booted {
						t.Errorf("%s start: %s\n%s", res.Timing.Start, res.Payload, res.LogTail)
					}
					r.Stop(id, fleet.Idle)
				}
			})
		}
	}
}
