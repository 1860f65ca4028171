package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/extensionapi"
	"kiln/worker/wire"
)

// serveExtensions makes the Extensions API of the function that order is for.
//
// +checklocks:g.mu
func (g *guest) serveExtensions(order wire.Header) {
	g.registration = make(chan bool)
	g.extensions = extensionapi.New(extensionapi.Config{
		Account: order.Account, Function: variable(order.Env, "AWS_LAMBDA_FUNCTION_NAME"),
		Version: variable(order.Env, "AWS_LAMBDA_FUNCTION_VERSION"), Handler: variable(order.Env, "_HANDLER"),
		Ask: func() bool {
			g.tell(wire.Header{Type: wire.Register})
			return <-g.registration
		},
		Say: g.tell, Deliver: post,
	})
}

// tell says something to the worker. If that fails, the control socket has ended, and obey sees it too.
func (g *guest) tell(h wire.Header) { _ = g.say(h) }

func variable(env []string, name string) string {
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// launchExtensions starts the external extensions, if there are any. They have the runtime's user, and share /tmp with it.
//
// +checklocks:g.mu
func (g *guest) launchExtensions(order wire.Header) (started bool, err error) {
	if order.Extensions == "" {
		return false, nil
	}
	files, err := os.ReadDir(order.Extensions)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	for _, f := range files {
		if f.IsDir() {
			continue
		}
		if err := g.launchExtension(order, f.Name()); err != nil {
			return started, err
		}
		started = true
	}
	return started, nil
}

// +checklocks:g.mu
func (g *guest) launchExtension(order wire.Header, name string) error {
	if err := g.extensions.Launch(name); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	order.Args, order.Fallback = []string{filepath.Join(order.Extensions, name)}, ""
	pid, err := startConfined(order, &syscall.ProcAttr{
		Dir: "/", Env: extensionEnv(order.Env), Files: []uintptr{null.Fd(), extensionLogsFD, extensionLogsFD},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: order.UID, Gid: order.GID}},
	})
	if err != nil {
		return err
	}
	g.adopt(pid, &child{extension: name, done: make(chan struct{})})
	return nil
}

// runtimeOnly are the variables that the runtime has and extensions have not
// (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html#runtimes-extensions-api-env).
var runtimeOnly = []string{
	"AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_XRAY_CONTEXT_MISSING", "AWS_XRAY_DAEMON_ADDRESS",
	"LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT",
}

// extensionEnv is the environment of an external extension of a runtime that has env.
func extensionEnv(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "_") || slices.Contains(runtimeOnly, name)
	})
}

// runtimeShare is the part of the time for the end, in tenths, that the runtime may take, as in AWS's runtime interface emulator.
const runtimeShare = 3

// flushShare is the part of the time for the end that the delivery of telemetry may take, before extensions are told to end: one in
// this many.
const flushShare = 4

// flush delivers what telemetry is left, for as long as limit.
func (g *guest) flush(limit time.Duration) {
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		g.extensions.Flush()
	}()
	select {
	case <-flushed:
	case <-time.After(limit):
	}
}

// leave ends the runtime process and then the extensions, and tells the worker when all have ended or h's deadline has passed.
func (g *guest) leave(h wire.Header) {
	g.mu.Lock()
	g.leaving = true
	pid, runtime := g.pid, g.children[g.pid]
	g.mu.Unlock()
	deadline := time.UnixMilli(h.DeadlineMs)
	if runtime != nil {
		_ = unix.Kill(pid, unix.SIGTERM) // it has ended meanwhile
		runtime.end(pid, time.Now().Add(time.Until(deadline)*runtimeShare/10))
	}
	g.flush(time.Until(deadline) / flushShare)
	told := g.extensions.Shutdown(h)
	var ends sync.WaitGroup
	for pid, c := range g.left() {
		until := deadline
		if !told[c.extension] {
			until = time.Now()
		}
		ends.Go(func() { c.end(pid, until) })
	}
	ends.Wait()
	g.tell(wire.Header{Type: wire.Left})
}

// left are the processes that were started here and have not ended.
func (g *guest) left() map[int]*child {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.children)
}

// end waits for a process to end, and kills it if it has not when the time has come.
func (c *child) end(pid int, until time.Time) {
	limit := time.NewTimer(time.Until(until))
	defer limit.Stop()
	select {
	case <-c.done:
	case <-limit.C:
		_ = killGroup(pid) // the sandbox, which ends now, takes it along
		<-c.done
	}
}

// Bounds of one delivery of telemetry.
const (
	deliveryTimeout = 5 * time.Second
	maxAnswer       = 64 << 10
)

// post sends body to an HTTP server of the sandbox, and returns when that has taken it.
func post(port int, path string, body []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	c := os.NewFile(uintptr(fd), "telemetry")
	defer c.Close() // what has been taken is known by then
	limit := unix.NsecToTimeval(int64(deliveryTimeout))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return fmt.Errorf("limit time: %w", err)
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("connect to port %d: %w", port, err)
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: sandbox.localdomain:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		path, port, len(body))
	if _, err := c.Write(append([]byte(head), body...)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	r := bufio.NewReader(io.LimitReader(c, maxAnswer))
	status, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	_, _ = io.Copy(io.Discard, r) // so that the server is not cut off in its answer
	if fields := strings.Fields(status); len(fields) < 2 || fields[1] >= "400" {
		return fmt.Errorf("answered %q", strings.TrimSpace(status))
	}
	return nil
}
