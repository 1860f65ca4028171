package test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// ricBuildTime bounds npm, which compiles curl, aws-lambda-cpp and an addon: 40 s on two idle cores. Where it takes much longer the
// time is for the other tests, unless there is enough of it.
func ricBuildTime() time.Duration {
	if os.Getenv("KILN_SOAK") != "" {
		return 10 * time.Minute
	}
	return time.Minute
}

// ricZip installs AWS's own runtime interface client for Node.js beside the function in testdata/ric and packs both. The test is
// skipped where it cannot be installed.
func ricZip(t *testing.T) []byte {
	t.Helper()
	for path, pkg := range map[string]string{"/usr/bin/node": "nodejs", "/usr/bin/npm": "npm"} {
		need(t, path, pkg)
	}
	for program, pkg := range map[string]string{"cmake": "cmake", "g++": "g++", "make": "make", "xz": "xz-utils"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs the Debian package %s", pkg)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/ric")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), ricBuildTime())
	defer cancel()
	npm := exec.CommandContext(ctx, "/usr/bin/npm", "install", "--no-audit", "--no-fund")
	npm.Dir, npm.WaitDelay = dir, 10*time.Second
	npm.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	npm.Cancel = func() error { return syscall.Kill(-npm.Process.Pid, syscall.SIGKILL) } // those that it has started write into dir
	if out, err := kilntest.Outside(npm); err != nil {
		t.Skipf("npm cannot install aws-lambda-ric here: %v\n%s", err, out)
	}
	return kilntest.Zip(t, tree(t, dir))
}

// tree reads the regular files below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		files[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestAWSsRuntimeInterfaceClientForNodejsRunsAsBootstrap(t *testing.T) {
	n := kilntest.Start(t)
	code := ricZip(t)
	deploy := func(name, handler string) {
		n.Deploy(t.Context(), kilntest.Function{Name: name, Runtime: "provided.al2023", Handler: handler, Timeout: 7, Zip: code})
	}
	deploy("ric", "index.handler")

	t.Run("answers", func(t *testing.T) {
		for range 3 {
			if got := value[map[string]any](t, n, "ric", `{"do":"echo","text":"äöü \u0000"}`); got["text"] != "äöü \x00" {
				t.Errorf("got %q", got["text"])
			}
		}
	})
	t.Run("context", func(t *testing.T) { ricContext(t, n) })
	t.Run("logs", func(t *testing.T) {
		out := call(t, n, "ric", `{"do":"log"}`)
		contains(t, string(out.Payload), "null")
		contains(t, logOf(t, out), "\tINFO\ta line\n")
	})
	t.Run("failures", func(t *testing.T) { ricFailures(t, n) })
	t.Run("largest payloads", func(t *testing.T) {
		event := `{"do":"echo","text":"` + strings.Repeat("x", 6<<20-len(`{"do":"echo","text":""}`)) + `"}`
		if out := call(t, n, "ric", event); string(out.Payload) != event {
			t.Errorf("got %d bytes for %d", len(out.Payload), len(event))
		}
	})
	t.Run("streamed answer to a buffered invocation", func(t *testing.T) {
		deploy("streaming", "index.streaming")
		for range 2 {
			if out := call(t, n, "streaming", `{"parts":["\"a","b","c\""]}`); string(out.Payload) != `"abc"` || out.FunctionError != nil {
				t.Errorf("got %s (%s)", out.Payload, aws.ToString(out.FunctionError))
			}
		}
	})
	t.Run("no such handler", func(t *testing.T) {
		deploy("missing", "index.missing")
		if f, _ := fails(t, n, "missing", `{}`); f.ErrorType != "Runtime.HandlerNotFound" {
			t.Errorf("got %+v", f)
		}
	})
}

func ricFailures(t *testing.T, n *kilntest.Node) {
	for _, c := range []struct{ do, kind, message, log string }{
		{"throw", "OutOfStock", "no widgets", "Invoke Error"},
		{"exit", "Runtime.ExitError", "Error: Runtime exited with error: exit status 4", "Runtime.ExitError"},
		{"reject", "Runtime.ExitError", "Error: Runtime exited with error: exit status 1", "OutOfStock: no widgets"},
	} {
		t.Run(c.do, func(t *testing.T) {
			f, out := fails(t, n, "ric", `{"do":"`+c.do+`","text":"no widgets"}`)
			if f.ErrorType != c.kind || !strings.HasSuffix(f.ErrorMessage, c.message) {
				t.Errorf("got %+v", f)
			}
			contains(t, logOf(t, out), c.log)
		})
	}
}

// ricContext checks what the runtime interface client makes of the headers that come with an invocation.
func ricContext(t *testing.T, n *kilntest.Node) {
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("ric"), Payload: []byte(`{"do":"context"}`), LogType: types.LogTypeTail,
		ClientContext: aws.String("eyJjdXN0b20iOnsiayI6InYifX0="),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"arn":"arn:aws:lambda:us-east-1:123456789012:function:ric"`, `"name":"ric"`, `"version":"$LATEST"`, `"memory":"512"`, `"client":"v"`,
		`"remaining":6`, // of 7,000 ms
	} {
		contains(t, string(out.Payload), want)
	}
	if id := `"id":"` + requestID(t, out) + `"`; !strings.Contains(string(out.Payload), id) {
		t.Errorf("%s has no %s", out.Payload, id)
	}
}
