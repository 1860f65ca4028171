// Package gvisor is the sandbox engine: every sandbox has gVisor's kernel of its own, in processes that own nothing of the host.
//
// gVisor's library is written for a program that starts one sandbox and ends: it gives the guest's kernel its own standard files,
// changes their owner, and ties the life of what it starts to the threads that it happens to run on. It therefore runs in a process
// of its own, the launcher, which runs cmd/kiln-sandbox. The launcher also outlives a kiln that is killed, by the
// moments that it takes to end every sandbox, frozen ones too; and if it is killed as well, the next Run finds what is left in the
// control groups that bear the directory's name.
package gvisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/cgroup"
)

const (
	// allowance is the memory that a sandbox may use beyond its guest's, for what the guest's kernel and the process that opens its
	// files come to need while it runs. What they have when they are moved into their control group, measured at 17 MB of their own,
	// is not charged to it.
	allowance = 16 << 20
	// maxTasks bounds the threads of a sandbox's processes on the host. Two for each of the guest's processes and forty for the
	// guest's kernel are needed: with fewer that kernel panics.
	maxTasks = 4096
	// maxWeight is the greatest that version 2 of control groups knows.
	maxWeight = 10_000
	// lockTimeout is how long the launcher of a kiln that was killed may take to end its sandboxes.
	lockTimeout = 30 * time.Second
	// readyTimeout is how long a launcher may take until it can start sandboxes.
	readyTimeout = 10 * time.Second
	// endTimeout bounds the end of one sandbox, or of a launcher and all of its own.
	endTimeout = 30 * time.Second
)

// Config says how an Engine works.
type Config struct {
	// Dir holds the engine's files, those behind the guests' /tmp among them: it must be on a disk, and belong to one Engine.
	Dir string
	// Exe is the path of cmd/kiln-sandbox, built without cgo; empty means that Run writes it into Dir.
	Exe string
	// Program opens what Run writes there. It is not called if Exe is given.
	Program func() (io.ReadCloser, error)
	// ParallelStarts bounds how many sandboxes are started at a time, the others wait; 0 means one per processor.
	ParallelStarts int
	// Log is told of what an operator did not ask for; nil means nobody is.
	Log *slog.Logger
}

// Engine is a sandbox.Engine. Run must be running; Start waits for it.
type Engine struct {
	cfg Config
	// slots holds a token for every start that is under way.
	slots chan struct{}
	// stopped is closed when no sandbox can be started any longer.
	stopped chan struct{}
	// tree and conn are set before a launcher is ready, and are its own.
	tree *cgroup.Tree
	conn *net.UnixConn

	sendMu sync.Mutex // so that messages are sent whole, one after the other

	mu    sync.Mutex
	boxes map[string]*box // +checklocks:mu
	// open means that there is a launcher, for which boxes may be added.
	open bool // +checklocks:mu
	// ready is closed when open becomes true; there is another when it becomes false.
	ready chan struct{} // +checklocks:mu

	// starts are those under way with the launcher that there is, watchers what follows its boxes.
	starts, watchers sync.WaitGroup
	// exhausted is how many sandboxes their memory limit has ended.
	exhausted atomic.Int64
}

var _ sandbox.Engine = (*Engine)(nil)

// New returns an engine that has yet to Run.
func New(cfg Config) (*Engine, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, errors.Join(errors.New("sandbox engine: no directory given"), err)
	}
	cfg.Dir = dir
	switch {
	case cfg.Exe != "":
		cfg.Program = nil
	case cfg.Program != nil:
		cfg.Exe = filepath.Join(dir, "kiln-sandbox")
	default:
		return nil, errors.New("sandbox engine: no program given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ParallelStarts == 0 {
		cfg.ParallelStarts = runtime.NumCPU()
	}
	return &Engine{
		cfg:     cfg,
		slots:   make(chan struct{}, cfg.ParallelStarts),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
		boxes:   make(map[string]*box),
	}, nil
}

// treeName names the parent of the control groups of a directory's sandboxes.
func treeName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:6])
}

// Run removes what a killed predecessor left and then runs the engine until ctx ends. When it returns, every sandbox has ended and
// nothing is left of any. A launcher that ends, and all sandboxes with it, is followed by another. It fails if another kiln uses the
// directory, if the machine lacks something, or if launchers keep ending. It may be called once.
func (e *Engine) Run(ctx context.Context) (err error) {
	defer close(e.stopped)
	for _, dir := range []string{stateDir(e.cfg.Dir), filepath.Join(e.cfg.Dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make sandbox directory: %w", err)
		}
	}
	lock, err := lockDir(ctx, e.cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := e.install(); err != nil {
		return err
	}
	defer e.removeState()
	if e.tree, err = cgroup.OpenTree(treeName(e.cfg.Dir)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.sweep(context.WithoutCancel(ctx)), e.tree.Remove()) }()
	var past restarts
	for {
		if err := e.sweep(ctx); err != nil {
			return err
		}
		wasReady, err := e.runLauncher(ctx, lock)
		if err == nil || ctx.Err() != nil || !wasReady && len(past.ends) == 0 {
			return err
		}
		pause, again := past.next(time.Now())
		if !again {
			return fmt.Errorf("%d launchers have ended within %v, the last: %w", maxRestarts+1, restartWindow, err)
		}
		e.cfg.Log.Error("launcher ended with its sandboxes and is started again", "pause", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// install writes the program, unless it is there already. A launcher of an earlier life goes on with the file that it has.
func (e *Engine) install() (err error) {
	if e.cfg.Program == nil {
		return nil
	}
	program, err := e.cfg.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	fresh := e.cfg.Exe + ".new"
	if err := writeProgram(fresh, program); err != nil {
		return fmt.Errorf("install program of sandboxes: %w", err)
	}
	if err := os.Rename(fresh, e.cfg.Exe); err != nil {
		return fmt.Errorf("install program of sandboxes: %w", err)
	}
	return nil
}

func writeProgram(path string, program io.Reader) (err error) {
	// A process that is forked meanwhile would have the file open for writing until it executes another, and the kernel refuses to
	// execute it (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o700)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, program); err != nil {
		return err
	}
	return f.Chmod(0o700) // it may have been there
}

// runLauncher runs one launcher until it ends, which it does with an error unless ctx has ended. When it returns no sandbox is left.
// wasReady says whether sandboxes could be started.
func (e *Engine) runLauncher(ctx context.Context, lock *os.File) (wasReady bool, err error) {
	// The one before has removed the tree if it could not tell the engine that it ended.
	if e.tree, err = cgroup.OpenTree(treeName(e.cfg.Dir)); err != nil {
		return false, err
	}
	cmd, err := e.startLauncher(lock)
	if err != nil {
		return false, err
	}
	err = e.serve(ctx)
	wasReady, endErr := e.endLauncher(cmd)
	return wasReady, errors.Join(err, endErr)
}

// removeState removes the places where a launcher mounts its state, which is gone with it.
func (e *Engine) removeState() {
	_ = unix.Rmdir(stateDir(e.cfg.Dir)) // at worst an empty directory stays
	_ = unix.Rmdir(runDir)              // fails while another engine runs
}

// sweep removes the control groups with their processes and the files of sandboxes that nobody owns.
func (e *Engine) sweep(ctx context.Context) error {
	n, err := e.tree.Sweep(ctx)
	if err != nil {
		return fmt.Errorf("sweep control groups: %w", err)
	}
	if n > 0 {
		e.cfg.Log.Warn("removed sandboxes that nobody owned", "count", n)
	}
	// State is in memory and gone with the launcher. What it hides belongs to nobody.
	tmp := filepath.Join(e.cfg.Dir, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return fmt.Errorf("sweep files: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(tmp, entry.Name())); err != nil {
			return fmt.Errorf("sweep files: %w", err)
		}
	}
	return nil
}

// lockDir takes the lock on a directory. A launcher whose kiln was killed keeps it until it has ended its sandboxes.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock sandbox directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK {
			return nil, errors.Join(fmt.Errorf("lock sandbox directory: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock sandbox directory %s: another kiln uses it", dir), f.Close())
		case <-again.C:
		}
	}
}

// startLauncher starts the launcher, with mounts of its own, and opens the line to it.
func (e *Engine) startLauncher(lock *os.File) (_ *exec.Cmd, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open line to launcher: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "launcher"), os.NewFile(uintptr(p[1]), "engine")
	defer closeAll([]*os.File{ours, theirs})
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("open line to launcher: %w", err)
	}
	var ok bool
	if e.conn, ok = conn.(*net.UnixConn); !ok {
		return nil, errors.Join(fmt.Errorf("line to launcher is a %T", conn), conn.Close())
	}
	cmd := exec.Command(e.cfg.Exe)
	cmd.Args = []string{launcherName, e.cfg.Dir}
	cmd.Env = []string{}   // not nil, which would hand on this process' own and its secrets
	cmd.Stderr = os.Stderr // for the trace of a panic; no sandbox gets to see it
	cmd.ExtraFiles = []*os.File{theirs, lock}
	// A session of its own keeps the terminal's interrupt from it: the engine says when it is to end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start launcher: %w", err), e.conn.Close())
	}
	return cmd, nil
}

// serve takes the launcher's messages until it ends, which it is told to do when ctx does.
func (e *Engine) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		e.conn.CloseWrite()
		e.conn.SetReadDeadline(time.Now().Add(endTimeout))
	})()
	if err := e.conn.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return fmt.Errorf("wait for launcher: %w", err)
	}
	for {
		m, files, err := receive(e.conn)
		if errors.Is(err, io.EOF) && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("launcher ended: %w", err)
		}
		closeAll(files) // there are none
		switch m.Kind {
		case ready:
			if err := e.conn.SetReadDeadline(time.Time{}); err != nil {
				return fmt.Errorf("wait for launcher: %w", err)
			}
			e.opens()
		case started:
			if b := e.box(m.ID); b != nil {
				b.pids = m.Pids
				close(b.started)
			}
		case crowds:
			if b := e.box(m.ID); b != nil {
				e.cfg.Log.Warn("ending the sandbox whose /tmp holds most of a disk that is short", "sandbox", m.ID)
				e.watchers.Go(func() { _ = b.kill(&b.crowding) }) // watch does it once more, and reports
			}
		case cripples:
			if b := e.box(m.ID); b != nil {
				e.watchers.Go(func() { _ = b.kill(&b.crippled) }) // as above
			}
		case mounted:
			if b := e.box(m.ID); b != nil {
				b.mounted <- m.Reason
			}
		case ended:
			if b := e.remove(m.ID); b != nil {
				b.end(m.Reason)
			}
		}
	}
}

// opens lets sandboxes be started.
func (e *Engine) opens() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open = true
	close(e.ready)
}

// closes lets no sandbox be started until there is another launcher. It returns those that there are, and whether any could be started.
func (e *Engine) closes() (left map[string]*box, wasOpen bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	left, wasOpen = e.boxes, e.open
	e.boxes, e.open = make(map[string]*box), false
	if wasOpen {
		e.ready = make(chan struct{})
	}
	return left, wasOpen
}

// endLauncher waits for the end of the launcher and of all that concerns its sandboxes, and reports whether it was ready before.
func (e *Engine) endLauncher(cmd *exec.Cmd) (wasReady bool, err error) {
	killed := time.AfterFunc(endTimeout, func() { cmd.Process.Kill() })
	defer killed.Stop()
	err = errors.Join(e.conn.Close(), cmd.Wait())
	left, wasReady := e.closes()
	for _, b := range left {
		b.end("launcher ended")
	}
	e.starts.Wait()
	e.watchers.Wait()
	if err != nil {
		return wasReady, fmt.Errorf("end launcher: %w", err)
	}
	return wasReady, nil
}

// Usage is what all sandboxes of an engine have used together, those too that have ended.
type Usage struct {
	cgroup.Usage
	// OutOfMemory is how many sandboxes were ended by their memory limit.
	OutOfMemory int64
}

// Usage reads what the sandboxes use. It is zero, but for OutOfMemory, while the engine has no launcher.
func (e *Engine) Usage() (Usage, error) {
	u := Usage{OutOfMemory: e.exhausted.Load()}
	e.mu.Lock()
	open := e.open
	e.mu.Unlock()
	if !open {
		return u, nil
	}
	var err error
	u.Usage, err = e.tree.Usage()
	return u, err
}

func (e *Engine) box(id string) *box {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.boxes[id]
}

// add registers a box, unless there is one of its name or the launcher has ended.
func (e *Engine) add(b *box) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.open {
		return errLauncherEnded
	}
	if e.boxes[b.id] != nil {
		return fmt.Errorf("there is a sandbox %s already", b.id)
	}
	e.boxes[b.id] = b
	e.watchers.Go(b.watch)
	return nil
}

// remove forgets a box, if it is there, and returns it.
func (e *Engine) remove(id string) *box {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.boxes[id]
	delete(e.boxes, id)
	return b
}

var (
	errStopped       = errors.New("sandbox engine has stopped")
	errLauncherEnded = errors.New("launcher ended")
)

// Start implements sandbox.Engine.
func (e *Engine) Start(ctx context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	if err := e.validate(s); err != nil {
		return nil, fmt.Errorf("sandbox %q: %w", s.ID, err)
	}
	select {
	case e.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-e.slots }()
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	defer e.starts.Done()
	if s.Begin != nil {
		s.Begin()
	}
	b, err := e.start(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", s.ID, err)
	}
	return b, nil
}

// enter waits for a launcher and counts a start with it, which the caller ends.
func (e *Engine) enter(ctx context.Context) error {
	for {
		e.mu.Lock()
		ready, open := e.ready, e.open
		if open {
			e.starts.Add(1)
		}
		e.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-ready:
		case <-e.stopped:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// start makes the control group and has the launcher start the sandbox in it.
func (e *Engine) start(ctx context.Context, s sandbox.Spec) (*box, error) {
	b, err := newBox(e, s)
	if err != nil {
		return nil, err
	}
	if err := e.add(b); err != nil {
		return nil, errors.Join(err, b.discard())
	}
	order, files := newOrder(s)
	if err := b.tell(message{Kind: start, ID: b.id, Start: order}, files...); err != nil {
		if e.remove(b.id) != nil {
			b.end("not started") // else the end of the launcher has ended it
		}
		<-b.done
		return nil, errors.Join(err, b.left)
	}
	select {
	case <-b.started:
	case <-b.ended:
		<-b.done
		return nil, errors.Join(b.Exit().Err, b.left)
	case <-ctx.Done():
		err := b.tell(message{Kind: stop, ID: b.id})
		<-b.done
		return nil, errors.Join(ctx.Err(), err, b.left)
	}
	if err := b.begin(); err != nil {
		return nil, errors.Join(err, b.Destroy())
	}
	return b, nil
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// validate refuses what cannot work, so that it fails here and not in the middle of a start.
func (e *Engine) validate(s sandbox.Spec) error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(!validID.MatchString(s.ID), "the name must be 1 to 64 letters, digits, hyphens and underscores")
	refuse(!isThere(s.Root), "the root %q is no absolute path of something that exists", s.Root)
	refuse(len(s.Args) == 0, "there is nothing to run")
	refuse(s.Limits.MemoryBytes <= 0 || s.Limits.TmpBytes <= 0 || s.Limits.CPUs < 0 || s.Limits.Weight < 0 || s.Limits.Weight > maxWeight, "the limits %+v are out of range", s.Limits)
	refuse(len(s.Files) >= maxFiles, "%d files are more than %d", len(s.Files), maxFiles-1) // the network's comes with them
	for d := range s.Files {
		refuse(d < 3 || d >= maxOpenFiles, "a file cannot be the descriptor %d", d)
	}
	for _, m := range s.Mounts {
		refuse(!isThere(m.Source), "the source %q of a mount is no absolute path of something that exists", m.Source)
		refuse(!filepath.IsAbs(m.Target), "the target %q of a mount is no absolute path", m.Target)
	}
	return errors.Join(errs...)
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return filepath.IsAbs(path) && err == nil
}
