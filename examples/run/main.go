// Command run shows kiln at work: it starts a node from bin/kiln, deploys the functions beside it, calls each once, and keeps
// the node serving until Ctrl-C. Run it in the module's directory, as root.
package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const role = "arn:aws:iam::000000000000:role/example"

type example struct {
	name, runtime, handler string
	pack                   func(ctx context.Context, dir string) ([]byte, error)
}

var examples = []example{
	{"hello-go", "provided.al2023", "bootstrap", packGo},
	{"hello-python", "python3", "index.handler", packFile("examples/python/index.py")},
	{"hello-nodejs", "nodejs", "index.handler", packFile("examples/nodejs/index.mjs")},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// run returns when the node has ended, and removes its data.
func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "kiln-run")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	node := exec.Command("bin/kiln", "serve", "--data", dir)
	node.Stderr = os.Stderr
	// The node gets its signal from here, after what uses it has ended.
	node.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := node.StdoutPipe()
	if err != nil {
		return err
	}
	if err := node.Start(); err != nil {
		return err
	}
	err = show(ctx, out, dir)
	if err == nil {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		err = nil // Ctrl-C cuts short what show does, too
	}
	fmt.Println("\nending the node")
	return errors.Join(err, node.Process.Signal(syscall.SIGTERM), node.Wait())
}

// show deploys and calls the examples and says how to go on.
func show(ctx context.Context, out io.Reader, dir string) error {
	endpoint, runtimes, err := await(out)
	if err != nil {
		return err
	}
	credentials := filepath.Join(dir, "credentials")
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion("us-east-1"), config.WithBaseEndpoint(endpoint),
		config.WithSharedCredentialsFiles([]string{credentials}), config.WithSharedConfigFiles(nil))
	if err != nil {
		return err
	}
	client := lambda.NewFromConfig(cfg)
	shown := ""
	for _, e := range examples {
		runtime := newest(runtimes, e.runtime)
		if runtime == "" {
			fmt.Printf("\n== %s: this machine has no %s\n", e.name, e.runtime)
			continue
		}
		if err := deploy(ctx, client, e, runtime, dir); err != nil {
			return fmt.Errorf("deploy %s: %w", e.name, err)
		}
		for _, kind := range []string{"first call", "second call"} {
			if err := call(ctx, client, e.name, kind); err != nil {
				return fmt.Errorf("call %s: %w", e.name, err)
			}
		}
		shown = e.name
	}
	fmt.Printf("\nendpoint:    %s\ncredentials: %s\n", endpoint, credentials)
	// Versions 1 and 2 of the command line read an inline payload differently, and one from a file alike.
	fmt.Printf("\nTry next, in another terminal:\n\n  echo '{\"name\":\"you\"}' | AWS_SHARED_CREDENTIALS_FILE=%s aws --region us-east-1 --endpoint-url %s \\\n"+
		"    lambda invoke --function-name %s --payload fileb:///dev/stdin /dev/stdout\n\nCtrl-C ends everything.\n", credentials, endpoint, shown)
	return nil
}

// await reads what the node prints until it serves, and goes on passing it through.
func await(out io.Reader) (endpoint string, runtimes []string, err error) {
	s := bufio.NewScanner(out)
	for s.Scan() {
		fmt.Println(s.Text())
		if rest, ok := strings.CutPrefix(s.Text(), "runtimes: "); ok {
			runtimes = strings.Fields(rest)
		}
		if _, url, ok := strings.Cut(s.Text(), "serving on "); ok {
			go io.Copy(os.Stdout, out) // ends with the node, whose end run waits for
			return url, runtimes, nil
		}
	}
	return "", nil, errors.New("the node ended before it served")
}

// newest picks the last runtime of a family, in the order in which the node lists them.
func newest(runtimes []string, family string) string {
	found := ""
	for _, r := range runtimes {
		if strings.HasPrefix(r, family) {
			found = r
		}
	}
	return found
}

func deploy(ctx context.Context, c *lambda.Client, e example, runtime, dir string) error {
	code, err := e.pack(ctx, dir)
	if err != nil {
		return err
	}
	_, err = c.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName: &e.name, Role: aws.String(role), Handler: &e.handler, Runtime: types.Runtime(runtime),
		Code: &types.FunctionCode{ZipFile: code}, MemorySize: aws.Int32(512),
	})
	if err != nil {
		return err
	}
	return lambda.NewFunctionActiveV2Waiter(c, func(o *lambda.FunctionActiveV2WaiterOptions) {
		o.MinDelay, o.MaxDelay = 10*time.Millisecond, time.Second
	}).Wait(ctx, &lambda.GetFunctionInput{FunctionName: &e.name}, time.Minute)
}

func call(ctx context.Context, c *lambda.Client, name, kind string) error {
	begun := time.Now()
	out, err := c.Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, LogType: types.LogTypeTail, Payload: []byte(`{"name":"kiln"}`)})
	took := time.Since(begun)
	if err != nil {
		return err
	}
	if out.FunctionError != nil {
		return fmt.Errorf("%s: %s", *out.FunctionError, out.Payload)
	}
	log, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
	if err != nil {
		return err
	}
	fmt.Printf("\n== %s, %s: %.1f ms\n%s\n", name, kind, float64(took)/1e6, out.Payload)
	if raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok {
		fmt.Println("time:", raw.Header.Get("Server-Timing"))
	}
	for line := range strings.Lines(string(log)) {
		fmt.Print("  | ", line)
	}
	return nil
}

func packGo(ctx context.Context, dir string) ([]byte, error) {
	path := filepath.Join(dir, "bootstrap")
	defer os.Remove(path)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", path, "./examples/go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return packFile(path)(ctx, dir)
}

// packFile returns a deployment package with the one file.
func packFile(path string) func(context.Context, string) ([]byte, error) {
	return func(context.Context, string) ([]byte, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		h := &zip.FileHeader{Name: filepath.Base(path), Method: zip.Deflate}
		h.SetMode(0o755)
		f, err := w.CreateHeader(h)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(content); err != nil {
			return nil, err
		}
		err = w.Close()
		return b.Bytes(), err
	}
}
