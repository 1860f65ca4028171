package kilntest

import (
	"archive/zip"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// Zip returns a deployment package with the files named by the keys; every file is executable.
func Zip(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range files {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(0o755)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// GoZip builds the Go package in dir, relative to the module, and returns a deployment package with it as bootstrap.
func GoZip(t testing.TB, dir string) []byte {
	t.Helper()
	return Zip(t, map[string]string{"bootstrap": GoProgram(t, dir)})
}

// GoProgram builds the Go package in dir, relative to the module, as a function for Lambda.
func GoProgram(t testing.TB, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bootstrap")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", out, "./"+dir)
	cmd.Dir = Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Function says what Deploy creates; zero fields mean the defaults in the comments.
type Function struct {
	Name string
	// Runtime is the machine's newest Python if empty.
	Runtime string
	// Handler is index.handler if empty.
	Handler string
	// MemoryMB is 512 if 0.
	MemoryMB int32
	// Timeout is in seconds; 10 if 0.
	Timeout int32
	Zip     []byte
	Env     map[string]string
	// Layers are the ARNs of layer versions.
	Layers []string
}

// Deploy creates a function and waits until it is active.
func (n *Node) Deploy(ctx context.Context, f Function) {
	n.t.Helper()
	if f.Runtime == "" {
		f.Runtime = n.Runtime("python3")
	}
	in := &lambda.CreateFunctionInput{
		FunctionName: aws.String(f.Name), Role: aws.String(Role), Code: &types.FunctionCode{ZipFile: f.Zip},
		Runtime: types.Runtime(f.Runtime), Handler: aws.String(orDefault(f.Handler, "index.handler")),
		MemorySize: aws.Int32(orDefault(f.MemoryMB, 512)), Timeout: aws.Int32(orDefault(f.Timeout, 10)), Layers: f.Layers,
	}
	if f.Env != nil {
		in.Environment = &types.Environment{Variables: f.Env}
	}
	c := n.Client()
	if _, err := c.CreateFunction(ctx, in); err != nil {
		n.t.Fatalf("create %s: %v", f.Name, err)
	}
	n.Active(ctx, f.Name)
}

// Active waits until a function has left Pending and InProgress.
func (n *Node) Active(ctx context.Context, name string) {
	n.t.Helper()
	w := lambda.NewFunctionUpdatedV2Waiter(n.Client(), func(o *lambda.FunctionUpdatedV2WaiterOptions) {
		o.MinDelay, o.MaxDelay = 10*time.Millisecond, 100*time.Millisecond
	})
	if err := w.Wait(ctx, &lambda.GetFunctionInput{FunctionName: aws.String(name)}, time.Minute); err != nil {
		n.t.Fatalf("wait for %s: %v", name, err)
	}
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}
