// Command function is a runtime process that does what the guest's tests ask of it: with aws-lambda-go, or in MODE itself.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"kiln/worker/wire"
)

func main() {
	modes := map[string]func() error{
		"direct": direct, "init-error": initError, "exit": func() error { os.Exit(3); return nil }, "twice": twice,
		"crash": func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) },
	}
	if mode, ok := modes[os.Getenv("MODE")]; ok {
		if err := mode(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	fmt.Println("init")
	lambda.Start(handle)
}

type event struct {
	Do   string
	Text string
	N    int
}

func handle(ctx context.Context, e event) (any, error) {
	switch e.Do {
	case "echo":
		return e, nil
	case "context":
		lc, _ := lambdacontext.FromContext(ctx)
		deadline, _ := ctx.Deadline()
		return []any{lc.AwsRequestID, lc.InvokedFunctionArn, lc.ClientContext.Custom, deadline.UnixMilli(), os.Getenv("_X_AMZN_TRACE_ID")}, nil
	case "error":
		return nil, errors.New(e.Text)
	case "panic":
		panic(e.Text)
	case "exit":
		fmt.Print("last words")
		os.Exit(e.N)
	case "long":
		return strings.Repeat("x", e.N), nil
	case "orphans":
		return nil, orphans(e.N)
	case "self":
		return self()
	}
	return nil, fmt.Errorf("do what? %q", e.Do)
}

// orphans starts n processes whose parent ends at once.
func orphans(n int) error {
	for i := range n {
		if out, err := exec.Command("/bin/sh", "-c", "true & true & true & exit 0").CombinedOutput(); err != nil {
			return fmt.Errorf("orphan %d: %w: %s", i, err, out)
		}
	}
	return nil
}

// self describes this process as the kernel does.
func self() (any, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return nil, err
	}
	sid, err := syscall.Getpgid(0)
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return nil, err
	}
	sockets := 0
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	return map[string]any{
		"status": string(status), "limits": string(limits), "leader": sid == os.Getpid(), "dir": dir, "env": os.Environ(), "sockets": sockets,
	}, nil
}

// direct speaks to the worker itself and answers each event with itself.
func direct() error {
	socket := os.NewFile(3, "socket")
	if slices.Contains(os.Args, "wait") {
		if err := wait(socket); err != nil {
			return err
		}
	}
	res, err := http.Get("http://127.0.0.1:9001/2018-06-01/runtime/invocation/next")
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		return errors.New("the runtime api is served")
	}
	if err := wire.Write(socket, wire.Header{Type: wire.Ready}, nil); err != nil {
		return err
	}
	for {
		h, body, err := wire.Read(socket, 1<<20)
		if err != nil {
			return err
		}
		if err := wire.Write(socket, wire.Header{Type: wire.Response, RequestID: h.RequestID}, body); err != nil {
			return err
		}
	}
}

// wait waits to be given its function.
func wait(socket io.ReadWriter) error {
	if err := wire.Write(socket, wire.Header{Type: wire.Waiting}, nil); err != nil {
		return err
	}
	h, _, err := wire.Read(socket, 0)
	if err == nil && h.Type != wire.Begin {
		err = fmt.Errorf("worker sent %q", h.Type)
	}
	return err
}

const api = "http://127.0.0.1:9001/2018-06-01/runtime/"

func initError() error {
	req, err := http.NewRequest("POST", api+"init/error", strings.NewReader(`{"errorType":"Function.NoLuck"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Lambda-Runtime-Function-Error-Type", "Function.NoLuck")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	return fmt.Errorf("status %d", res.StatusCode)
}

// twice answers the first invocation twice and with the wrong id, and the second with the statuses that it got.
func twice() error {
	id, err := nextID()
	if err != nil {
		return err
	}
	var statuses []int
	for _, path := range []string{"other/response", id + "/response", id + "/response", id + "/error"} {
		res, err := http.Post(api+"invocation/"+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			return err
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		statuses = append(statuses, res.StatusCode)
	}
	answer, err := json.Marshal(statuses)
	if err != nil {
		return err
	}
	if id, err = nextID(); err != nil {
		return err
	}
	res, err := http.Post(api+"invocation/"+id+"/response", "application/json", bytes.NewReader(answer))
	if err != nil {
		return err
	}
	return res.Body.Close()
}

func nextID() (string, error) {
	res, err := http.Get(api + "invocation/next")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.Header.Get("Lambda-Runtime-Aws-Request-Id"), err
}
