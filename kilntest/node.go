// Package kilntest runs whole nodes inside tests: the real binary, real sandboxes, a folder of its own.
package kilntest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// The identity that nodes of this package are given.
const (
	Account   = "123456789012"
	AccessKey = "test"
	Secret    = "test"
	Region    = "us-east-1"
	Role      = "arn:aws:iam::123456789012:role/lambda-role"
)

// startTimeout bounds how long a node may take until it serves.
const startTimeout = 30 * time.Second

// stopTimeout bounds how long a node that has nothing to do may take to end.
const stopTimeout = 15 * time.Second

// Node is one running kiln.
type Node struct {
	// Endpoint is the URL of the API.
	Endpoint string
	// Dir is the data directory. It outlives the process, so that a test can start another node on it.
	Dir string

	t testing.TB
	// program is the path of what runs, and env what is added to its environment.
	program string
	env     []string
	args    []string
	cmd     *exec.Cmd
	wait    func() error
	out     *transcript
	// host is the process that runs functions, nil if it is this one.
	host *Node
}

// Start runs a node in a new data directory until the test ends. args are added to `kiln serve`. The test is skipped on a machine
// that cannot run sandboxes.
func Start(t testing.TB, args ...string) *Node {
	t.Helper()
	needRoot(t)
	n := &Node{t: t, Dir: t.TempDir(), program: Binary(t), args: args}
	n.Restart()
	t.Cleanup(n.Stop)
	return n
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("sandboxes need root")
	}
}

// Roles is a node as several processes. Its Data alone has an Endpoint.
type Roles struct {
	Control, Data *Node
	Workers       []*Node
}

// StartRoles runs a node as a process for its control plane, one that serves clients, and so many workers. args are added to those of
// all.
func StartRoles(t testing.TB, workers int, args ...string) *Roles {
	t.Helper()
	needRoot(t)
	return startRoles(t, workers, Binary(t), nil, args)
}

func startRoles(t testing.TB, workers int, program string, env, args []string) *Roles {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--listen", l.Addr().String()}, args...)
	l.Close() // the node takes its place
	dir := t.TempDir()
	start := func(role ...string) *Node {
		n := &Node{t: t, Dir: dir, program: program, env: env, args: append(role, args...)}
		n.Restart()
		t.Cleanup(n.Stop)
		return n
	}
	r := &Roles{Control: start("--role", "control")}
	for i := range workers {
		r.Workers = append(r.Workers, start("--role", "worker", "--name", fmt.Sprint("w", i)))
	}
	r.Data = start("--role", "data")
	r.Data.host = r.Workers[0]
	return r
}

// Binary is the path of bin/kiln, which `make build` makes.
func Binary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(Root(t), "bin", "kiln")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("run `make build` first: %v", err)
	}
	return path
}

// Root is the module's directory.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run inside the module")
		}
		dir = filepath.Dir(dir)
	}
}

// Restart starts the node's process, which must not be running, and waits until it serves.
func (n *Node) Restart() {
	n.t.Helper()
	if n.cmd != nil {
		n.t.Fatal("the node is running already")
	}
	// Only what is about the network needs a machine that has one.
	args := append([]string{
		"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", n.Dir, "--region", Region, "--egress", "none",
	}, n.args...)
	cmd := exec.Command(n.program, args...)
	cmd.Env = append(append(os.Environ(), n.env...), "KILN_ACCOUNT_ID="+Account, "KILN_ACCESS_KEY_ID="+AccessKey, "KILN_SECRET_ACCESS_KEY="+Secret)
	n.out = newTranscript()
	cmd.Stdout, cmd.Stderr = n.out, n.out
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd, n.wait = cmd, sync.OnceValue(cmd.Wait)
	select {
	case n.Endpoint = <-n.out.endpoint:
	case <-time.After(startTimeout):
		n.Kill()
		n.t.Fatalf("the node does not serve after %v:\n%s", startTimeout, n.out)
	}
}

// Runtime is a runtime of the family, "python3" or "nodejs", that this machine has, the newest. The test is skipped if there is
// none.
func (n *Node) Runtime(family string) string {
	if n.host != nil {
		n = n.host
	}
	n.t.Helper()
	found := ""
	for line := range strings.Lines(n.Output()) {
		if rest, ok := strings.CutPrefix(line, "runtimes: "); ok {
			for _, r := range strings.Fields(rest) {
				if strings.HasPrefix(r, family) {
					found = r
				}
			}
		}
	}
	if found == "" {
		n.t.Skipf("this machine has no %s", family)
	}
	return found
}

// Metrics is the URL of the node's metrics.
func (n *Node) Metrics() string {
	n.t.Helper()
	for line := range strings.Lines(n.Output()) {
		if url, ok := strings.CutPrefix(line, "metrics on "); ok {
			return strings.TrimSpace(url)
		}
	}
	n.t.Fatal("the node has no metrics")
	return ""
}

// Pid is the process id of the node.
func (n *Node) Pid() int { return n.cmd.Process.Pid }

// IsAncestor reports whether pid descends from the node.
func (n *Node) IsAncestor(pid int) bool {
	for pid > 1 {
		if pid == n.Pid() {
			return true
		}
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			return false
		}
		// The command, in parentheses, may hold anything; what follows it is fixed: state, parent.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return false
}

// Second tries to run another node on the same data and returns what it printed.
func (n *Node) Second(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := []string{"serve", "--listen", "127.0.0.1:0", "--admin", "", "--egress", "none", "--data", n.Dir}
	out, err := exec.CommandContext(ctx, Binary(n.t), args...).CombinedOutput()
	return string(out), err
}

// Output is what the node has printed so far.
func (n *Node) Output() string { return n.out.String() }

// Kill ends the node's process with SIGKILL, as a crash would, and waits for it.
func (n *Node) Kill() {
	n.t.Helper()
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Fatal(err)
	}
	n.wait() // the error is the signal
	n.cmd = nil
}

// Stop ends the node with SIGTERM and fails the test if it does not end well.
func (n *Node) Stop() {
	n.t.Helper()
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Fatal(err)
	}
	ended := make(chan error, 1) // one value, so that its sender never waits
	go func() { ended <- n.wait() }()
	select {
	case err := <-ended:
		if err != nil {
			n.t.Errorf("kiln ended with %v:\n%s", err, n.out)
		}
	case <-time.After(stopTimeout):
		n.t.Errorf("kiln does not end within %v of SIGTERM:\n%s", stopTimeout, n.out)
		n.Kill()
	}
	n.cmd = nil
}

// Client returns an aws-sdk-go-v2 client of the node that does not retry, so that a test sees every answer.
func (n *Node) Client() *lambda.Client {
	return lambda.New(lambda.Options{
		BaseEndpoint: aws.String(n.Endpoint), Region: Region, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, Secret, ""),
	})
}

// Env is the environment in which the aws CLI and boto3 find the node and its credentials.
func (n *Node) Env() []string {
	return append(os.Environ(),
		"AWS_ENDPOINT_URL="+n.Endpoint, "AWS_ENDPOINT_URL_LAMBDA="+n.Endpoint, "AWS_DEFAULT_REGION="+Region, "AWS_REGION="+Region,
		"AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(n.Dir, "credentials"), "AWS_CONFIG_FILE=/dev/null", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1",
	)
}

// AWS runs the aws CLI against the node and returns what it printed.
func (n *Node) AWS(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/aws", append([]string{"--endpoint-url", n.Endpoint, "--output", "json"}, args...)...)
	cmd.Env = n.Env()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var serving = regexp.MustCompile(`(?:serving on (http://\S+)|control plane in |worker \S+ in )`)

// transcript keeps a process's output and finds the endpoint in it.
type transcript struct {
	endpoint chan string // receives once

	mu    sync.Mutex
	b     bytes.Buffer // +checklocks:mu
	found bool         // +checklocks:mu
}

func newTranscript() *transcript { return &transcript{endpoint: make(chan string, 1)} }

// Write implements io.Writer.
func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p)
	if t.found {
		return len(p), nil
	}
	s := bufio.NewScanner(bytes.NewReader(t.b.Bytes()))
	for s.Scan() {
		if m := serving.FindStringSubmatch(s.Text()); m != nil {
			t.found = true
			t.endpoint <- strings.TrimSpace(m[1])
		}
	}
	return len(p), nil
}

// String returns all output so far.
func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
