package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/worker/wire"
)

// launch starts a runtime process: as the user that order names, without capabilities or a way to get any, in a session of its own,
// writing to the log pipe. Its end will be reported.
//
// +checklocks:g.mu
func (g *guest) launch(order wire.Header) (int, error) {
	pid, err := launch(order)
	if err != nil {
		return 0, err
	}
	g.pid = pid
	g.adopt(pid, &child{done: make(chan struct{})})
	return pid, nil
}

// child is a process that was started here.
type child struct {
	// extension is its name, "" for a runtime process.
	extension string
	// done is closed when it has ended.
	done chan struct{}
}

// adopt has the end of a process noticed.
//
// +checklocks:g.mu
func (g *guest) adopt(pid int, c *child) {
	g.children[pid] = c
	if g.reaping {
		return
	}
	g.reaping = true
	go func() {
		if err := g.reap(); err != nil {
			g.over <- err
		}
	}()
}

func launch(start wire.Header) (pid int, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Dir: start.Dir, Env: start.Env, Files: []uintptr{null.Fd(), logsFD, logsFD},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: start.UID, Gid: start.GID},
		},
	}
	if start.Direct {
		attr.Files = append(attr.Files, invocationsFD)
	}
	return startConfined(start, attr)
}

// startConfined starts a process from a thread that has given up what the process must not have. The thread ends with it.
func startConfined(start wire.Header, attr *syscall.ProcAttr) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is of no further use
		if err = confine(start); err != nil {
			return
		}
		program := programOf(start)
		args := append([]string{program}, start.Args[1:]...)
		if pid, err = syscall.ForkExec(program, args, attr); err != nil {
			err = &os.PathError{Op: "fork/exec", Path: program, Err: err}
		}
	}()
	<-done
	return pid, err
}

// programOf returns the program to start: the first of start's that is there, executable or not.
func programOf(start wire.Header) string {
	if start.Fallback != "" && !isThere(start.Args[0]) && isThere(start.Fallback) {
		return start.Fallback
	}
	return start.Args[0]
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// confine sets what a new process inherits from this thread.
func confine(start wire.Header) error {
	// The limits are the guest's own too, which needs less.
	for resource, limit := range map[int]uint64{unix.RLIMIT_NPROC: start.MaxProcesses, unix.RLIMIT_NOFILE: start.MaxFiles} {
		if limit == 0 {
			continue
		}
		// Not unix.Prlimit: syscall.Setrlimit is what tells ForkExec to leave the limit on open files as it is.
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("set resource limit %d to %d: %w", resource, limit, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for c := uintptr(0); ; c++ {
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); {
		case errors.Is(err, unix.EINVAL): // beyond the last capability that the kernel knows
			return nil
		case err != nil:
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
}

// reap waits for every process that ends, as the first process of a system must, and reports the ends of those that were started here.
// It returns when there is none left.
func (g *guest) reap() error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.ECHILD:
			if g.rest() {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		}
		err = g.report(pid, status)
		if errors.Is(err, syscall.EPIPE) {
			return nil // the worker has ended the sandbox meanwhile, and run sees it too
		}
		if err != nil {
			return err
		}
	}
}

// rest ends the waiting for processes, unless one has been started meanwhile.
func (g *guest) rest() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reaping = len(g.children) > 0
	return !g.reaping
}

// report tells the worker of the end of a process that was started here: of the runtime, and which invocation it was given last if it
// was served here, and of an extension whose end nobody wanted.
func (g *guest) report(pid int, status syscall.WaitStatus) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.children[pid]
	if c == nil {
		return nil
	}
	delete(g.children, pid)
	close(c.done)
	if c.extension != "" && !g.leaving {
		return g.say(wire.Header{Type: wire.Fault, ErrorType: cmp.Or(g.extensions.Fatal(), "Extension.Crash"), Failure: describe(status)})
	}
	if pid != g.pid {
		return nil
	}
	exited := wire.Header{Type: wire.Exited, Status: describe(status)}
	if g.api != nil {
		exited.RequestID = g.api.Given()
	}
	if g.extensions != nil {
		exited.ErrorType = g.extensions.Fatal()
	}
	return g.say(exited)
}

// describe says how a process ended in the words of os.ProcessState.
func describe(s syscall.WaitStatus) string {
	if !s.Signaled() {
		return "exit status " + strconv.Itoa(s.ExitStatus())
	}
	if s.CoreDump() {
		return "signal: " + s.Signal().String() + " (core dumped)"
	}
	return "signal: " + s.Signal().String()
}

// killGroup kills what is left of the session of a process that was started here.
func killGroup(pid int) error {
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}
