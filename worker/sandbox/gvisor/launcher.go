package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/container"

	"kiln/worker/sandbox/cgroup"
)

const (
	// launcherSocket and launcherLock are the descriptors that a launcher is started with: the line to the engine, and the lock on
	// its directory, which is held until the last sandbox is gone, whoever of the two ends first.
	launcherSocket = 3
	launcherLock   = 4
	// startTimeout bounds the start of one sandbox. It is long because a busy machine is no fault of the sandbox's.
	startTimeout = 20 * time.Second
	// tableSize is a descriptor number beyond what a sandbox process opens while it starts.
	tableSize = 1000
)

// launcher is the process that gVisor's library runs in. It starts sandboxes, waits for their ends, and when the line to the engine
// ends, ends them all.
type launcher struct {
	dir  string
	tree *cgroup.Tree
	null *os.File
	// standard are this process' own standard files, which the runtime would close if nothing held them.
	standard []*os.File

	sendMu sync.Mutex // so that messages are sent whole, one after the other
	conn   *net.UnixConn

	mu    sync.Mutex
	lives map[string]*life // +checklocks:mu
	boxes sync.WaitGroup
}

// life is a sandbox from the request to start it until its processes have ended.
type life struct {
	stop context.CancelFunc
	// tmp is the file behind the guest's /tmp, nil until there is one. The guard of the disk closes it.
	tmp *os.File
	// over is closed at the end.
	over chan struct{}
	// slot is where directories are mounted for it, once it has started.
	slot string
}

// launch is the main function of a launcher.
func launch() error {
	if len(os.Args) != 2 {
		return errors.New("a launcher is started by kiln only")
	}
	l := &launcher{dir: os.Args[1], lives: make(map[string]*life)}
	if err := l.open(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.boxes.Go(func() { l.guardDisk(ctx) })
	err := l.serve(ctx)
	cancel()
	l.boxes.Wait()
	if l.tell(message{Kind: ended}) == nil {
		return err // the engine still runs, and removes the control groups when it has read what they used
	}
	_, sweepErr := l.tree.Sweep(context.WithoutCancel(ctx))
	return errors.Join(err, sweepErr, l.tree.Remove())
}

// open makes this process ready for gVisor's library, which takes it for a program that starts one sandbox and ends.
func (l *launcher) open() error {
	unix.CloseOnExec(launcherSocket)
	unix.CloseOnExec(launcherLock)
	// Who ends a service signals all of its processes, but this one ends when the engine says so. Signals are caught because ignoring
	// them would be inherited; nobody reads the channel, and what finds it full is dropped.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
	if err := separateMounts(stateDir(l.dir)); err != nil {
		return err
	}
	if err := l.openFiles(); err != nil {
		return err
	}
	var err error
	if l.tree, err = cgroup.OpenTree(treeName(l.dir)); err != nil {
		return err
	}
	return send(l.conn, message{Kind: ready})
}

// separateMounts takes this process' mounts, which are a copy of the engine's, out of the engine's sight. What the engine mounts
// later still appears here, and from here in the sandboxes that follow it.
func separateMounts(state string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts with sandboxes: %w", err)
	}
	// In memory, and gone with the last process that sees it.
	if err := unix.Mount("kiln", state, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount state: %w", err)
	}
	return nil
}

func (l *launcher) openFiles() error {
	socket := os.NewFile(launcherSocket, "engine")
	conn, err := net.FileConn(socket)
	if err := errors.Join(err, socket.Close()); err != nil {
		return fmt.Errorf("open line to engine: %w", err)
	}
	var ok bool
	if l.conn, ok = conn.(*net.UnixConn); !ok {
		return fmt.Errorf("line to engine is a %T", conn)
	}
	if l.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	// A child's descriptor table is made as large as its parent's. In the child, which has many threads, growing it would take a
	// grace period of the kernel's, some 10 ms.
	if _, err := unix.FcntlInt(l.null.Fd(), unix.F_DUPFD_CLOEXEC, tableSize); err != nil {
		return fmt.Errorf("grow descriptor table: %w", err)
	}
	// gVisor hands the guest's kernel the standard files of the process that starts it and changes their owner. So these must be
	// nobody else's: a pipe without a reader.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	l.standard = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	os.Stdin, os.Stdout, os.Stderr = w, w, w
	return r.Close()
}

// serve takes requests until the line to the engine ends.
func (l *launcher) serve(ctx context.Context) error {
	for {
		m, files, err := receive(l.conn)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive request: %w", err)
		}
		switch m.Kind {
		case start:
			boxCtx, stop := context.WithCancel(ctx)
			l.mu.Lock()
			l.lives[m.ID] = &life{stop: stop, over: make(chan struct{})}
			l.mu.Unlock()
			l.boxes.Go(func() { l.run(boxCtx, m, files) })
		case mount:
			_ = l.tell(message{Kind: mounted, ID: m.ID, Reason: l.mount(m)}) // without an engine serve ends
		case stop:
			l.mu.Lock()
			if life := l.lives[m.ID]; life != nil {
				life.stop()
			}
			l.mu.Unlock()
		}
	}
}

// run is the life of one sandbox. It ends with the message that nothing of the sandbox is left.
func (l *launcher) run(ctx context.Context, m message, files []*os.File) {
	reason := l.box(ctx, m, files)
	l.retire(m.ID)
	if err := clearAway(layoutOf(l.dir, m.ID)); err != nil {
		reason += ": " + err.Error()
	}
	_ = l.tell(message{Kind: ended, ID: m.ID, Reason: reason}) // without an engine there is nobody to tell
}

// retire forgets a sandbox that has ended: nothing is mounted for it any more.
func (l *launcher) retire(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	life := l.lives[id]
	delete(l.lives, id)
	life.stop()
	if life.tmp != nil {
		life.tmp.Close() // it was only looked at
	}
	close(life.over)
}

// tell sends a message to the engine. It fails if the engine is gone, which serve sees as well.
func (l *launcher) tell(m message) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	return send(l.conn, m)
}

// box starts a sandbox, waits for its end or that of ctx, and says why it ended.
func (l *launcher) box(ctx context.Context, m message, files []*os.File) string {
	place := layoutOf(l.dir, m.ID)
	c, err := l.start(ctx, place, m, files)
	if err := errors.Join(err, closeAll(files)); err != nil {
		return err.Error()
	}
	l.mu.Lock()
	l.lives[m.ID].slot = place.slot
	l.mu.Unlock()
	pids := []int{c.SandboxPid(), c.GoferPid.Load()}
	_ = l.tell(message{Kind: started, ID: m.ID, Pids: pids}) // without an engine ctx ends
	reason := l.awaitEnd(ctx, m.ID, pids)
	if err := errors.Join(l.tree.Group(m.ID).Kill(), c.Destroy()); err != nil {
		reason += ": " + err.Error()
	}
	return reason
}

// start creates the sandbox's processes, moves them into their control group, and only then lets the guest's first process start.
func (l *launcher) start(ctx context.Context, place layout, m message, files []*os.File) (_ *container.Container, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var watch sync.WaitGroup
	defer watch.Wait()
	done := make(chan struct{})
	defer close(done)
	watch.Go(func() { killLate(ctx, place.state, done) })

	conf, err := configuration(place, m.Start.Network)
	if err != nil {
		return nil, err
	}
	spec := specification(place, m.Start, networkPath(m.Start, files))
	if err := writeBundle(place, spec, flagLines(m.Start, runtime.NumCPU())); err != nil {
		return nil, err
	}
	c, err := container.New(conf, container.Args{
		ID: containerID, Spec: spec, BundleDir: place.state, Attached: true, PassFiles: l.guestFiles(m.Start, files),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create sandbox: %w", err), ctx.Err())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ctx.Err(), l.tree.Group(m.ID).Kill(), c.Destroy())
		}
	}()
	if err := l.adoptTmp(m.ID, boot.SelfFilestorePath(place.tmp, containerID)); err != nil {
		return nil, fmt.Errorf("file behind /tmp: %w", err)
	}
	for _, pid := range []int{c.SandboxPid(), c.GoferPid.Load()} {
		if err := l.tree.Group(m.ID).Add(pid); err != nil {
			return nil, err
		}
	}
	if err := c.Start(conf); err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	return c, ctx.Err()
}

// guestFiles are the descriptors of the guest's first process. Its standard files lead nowhere.
func (l *launcher) guestFiles(o *order, files []*os.File) map[int]*os.File {
	guest := map[int]*os.File{0: l.null, 1: l.null, 2: l.null}
	for i, d := range o.Descriptors {
		guest[d] = files[i]
	}
	return guest
}

// networkPath is where this process finds the sandbox's network namespace, or empty.
func networkPath(o *order, files []*os.File) string {
	if !o.Network {
		return ""
	}
	return fmt.Sprintf("/proc/self/fd/%d", files[len(o.Descriptors)].Fd())
}

// killLate kills, once ctx has ended, the processes of a sandbox that is being created, until done is closed. gVisor waits for them
// without bound, and they are in no control group yet.
func killLate(ctx context.Context, state string, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	again := time.NewTicker(10 * time.Millisecond) // until the last of them has been forked
	defer again.Stop()
	for {
		killStarted(state)
		select {
		case <-done:
			return
		case <-again.C:
		}
	}
}

// killStarted kills the children of this process that were given the sandbox's directory.
func killStarted(state string) {
	lists, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is well formed
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range bytes.Fields(text) {
			pid, err := strconv.Atoi(string(field))
			args, readErr := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", field))
			if err == nil && readErr == nil && bytes.Contains(args, []byte(state+"\x00")) {
				_ = unix.Kill(pid, unix.SIGKILL) // it is a child that nobody has waited for: it can be killed
			}
		}
	}
}

// awaitEnd waits until the guest's kernel, the first of those processes, has ended or ctx has, and says why. The kernel would miss the
// second, which opens its files, only when it opens one: so the engine, who may be freezing it, is asked to end it at once.
func (l *launcher) awaitEnd(ctx context.Context, id string, pids []int) (reason string) {
	watched, cancel := context.WithCancel(ctx)
	crippled := ""
	var watch sync.WaitGroup
	watch.Go(func() {
		if awaitExit(watched, pids[1]) == nil {
			crippled = "; what opens its files: " + exitReason(pids[1])
			_ = l.tell(message{Kind: cripples, ID: id}) // without an engine ctx ends
		}
	})
	err := awaitExit(ctx, pids[0])
	cancel()
	watch.Wait()
	switch {
	case err == nil:
		return exitReason(pids[0]) + crippled
	case ctx.Err() != nil:
		return "stopped"
	default:
		return err.Error()
	}
}

// awaitExit waits, without a thread of its own, until a child has ended or ctx has.
func awaitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	process := os.NewFile(uintptr(fd), "process")
	defer process.Close()
	defer context.AfterFunc(ctx, func() { process.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := process.SyscallConn()
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return nil
}

// exitReason says how a child, which has ended, did. It leaves it to be waited for: gVisor does that, and its own way to ask may hang on
// a process that is gone.
func exitReason(pid int) string {
	// The layout of siginfo_t for SIGCHLD on Linux, 64 bits (sigaction(2)).
	var info struct {
		Signo, Errno, Code, _ int32
		PID, UID, Status      int32
		_                     [100]byte
	}
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid), uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, 0, 0)
	switch {
	case errno != 0:
		return os.NewSyscallError("waitid", errno).Error()
	case info.Code == 1: // CLD_EXITED
		return fmt.Sprintf("exit status %d", info.Status)
	default:
		return "signal: " + unix.Signal(info.Status).String()
	}
}
