package gvisor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/gvisor"
)

// built is where TestMain puts the kiln and guest binaries; empty if this machine cannot run sandboxes.
var built string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run()
	}
	if holder, ok := os.LookupEnv(holderDir); ok {
		return hold(holder)
	}
	dir, err := os.MkdirTemp("", "kilntest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for name, pkg := range map[string]string{"kiln-sandbox": "kiln/cmd/kiln-sandbox", "guest": "./testdata/guest"} {
		// gVisor's precompiled system call filters are for binaries without cgo, whatever this test was built with.
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	built = dir
	return m.Run()
}

// engine runs an engine for the length of a test, or until the returned function is called.
func engine(t testing.TB, dir string) (*gvisor.Engine, func()) {
	t.Helper()
	if built == "" {
		t.Skip("needs root")
	}
	e, err := gvisor.New(gvisor.Config{Dir: dir, Exe: filepath.Join(built, "kiln-sandbox")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var once bool
	stop := func() {
		if once {
			return
		}
		once = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("engine: %v", err)
		}
	}
	t.Cleanup(stop)
	return e, stop
}

// root makes the root directory of a guest.
func root(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"proc", "dev", "sys", "tmp", "mnt/a", "mnt/b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	guest, err := os.ReadFile(filepath.Join(built, "guest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "guest"), guest, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// guest is a sandbox that runs the guest program.
type guest struct {
	sandbox.Sandbox
	conn  net.Conn
	lines *bufio.Scanner
}

func start(t testing.TB, e *gvisor.Engine, s sandbox.Spec) *guest {
	t.Helper()
	g, err := tryStart(e, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.end(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func tryStart(e *gvisor.Engine, s sandbox.Spec) (*guest, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "host"), os.NewFile(uintptr(p[1]), "guest")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	s.Args = []string{"/guest"}
	s.Files = map[int]*os.File{3: theirs}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	box, err := e.Start(ctx, s)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &guest{Sandbox: box, conn: conn, lines: bufio.NewScanner(conn)}, nil
}

func (g *guest) end() error {
	defer g.conn.Close()
	return g.Destroy()
}

func (g *guest) do(words ...string) (string, error) {
	text, err := json.Marshal(words)
	if err != nil {
		return "", err
	}
	if err := g.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	if _, err := g.conn.Write(append(text, '\n')); err != nil {
		return "", err
	}
	if !g.lines.Scan() {
		return "", fmt.Errorf("no answer to %v: %v", words, g.lines.Err())
	}
	var out string
	err = json.Unmarshal(g.lines.Bytes(), &out)
	return out, err
}

func (g *guest) mustDo(t testing.TB, words ...string) string {
	t.Helper()
	out, err := g.do(words...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func limits() sandbox.Limits {
	return sandbox.Limits{MemoryBytes: 128 << 20, TmpBytes: 64 << 20}
}
