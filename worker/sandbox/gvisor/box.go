package gvisor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/cgroup"
)

// box is a sandbox as the engine sees it: a control group, and what the launcher tells about its processes.
type box struct {
	engine *Engine
	// line leads to the launcher that it was made for.
	line  *net.UnixConn
	id    string
	group *cgroup.Group
	// memory is the guest's limit in bytes.
	memory atomic.Int64
	// oom becomes readable when the memory limit is met; nil where the kernel then ends the whole group by itself.
	oom *os.File
	// baseline is the memory that was charged when the guest's first process was started.
	baseline atomic.Int64

	gaugeMu sync.Mutex
	gauge   *cgroup.Gauge // +checklocks:gaugeMu nil at the end
	// charged is what the gauge said last, and peak what the guest's part of it was found to be.
	charged, peak int64 // +checklocks:gaugeMu

	// started and ended are closed when the launcher says so, with reason set before; done after that, when nothing is left.
	started, ended, done chan struct{}
	reason               string
	// pids are the processes that it cannot be without, set before started is closed.
	pids []int
	// exit, last and left are set before done is closed: how it ended, what it had used, and what could not be removed.
	exit sandbox.Exit
	last sandbox.Usage
	left error

	// mounting holds one token. Who has it may send a request to mount and then take the answer from mounted, which has room for
	// that one.
	mounting chan struct{}
	mounted  chan string

	// freezer holds one token. Who has it may freeze, thaw and kill: a process that is killed while it freezes stays.
	freezer chan struct{}

	mu        sync.Mutex
	destroyed bool // +checklocks:mu
	exhausted bool // +checklocks:mu
	crowding  bool // +checklocks:mu
	crippled  bool // +checklocks:mu
}

var _ sandbox.Sandbox = (*box)(nil)

// newBox makes the control group of a sandbox.
func newBox(e *Engine, s sandbox.Spec) (*box, error) {
	group, err := e.tree.Create(s.ID, cgroup.Limits{
		MemoryBytes: s.Limits.MemoryBytes + allowance, CPUs: s.Limits.CPUs, Weight: cmp.Or(s.Limits.Weight, sandbox.UsualWeight), Tasks: maxTasks,
	})
	if err != nil {
		return nil, err
	}
	b := &box{
		engine: e, line: e.conn, id: s.ID, group: group,
		started: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}),
		mounting: make(chan struct{}, 1), mounted: make(chan string, 1), freezer: make(chan struct{}, 1),
	}
	b.memory.Store(s.Limits.MemoryBytes)
	if b.oom, err = group.NotifyOutOfMemory(); err != nil {
		return nil, errors.Join(err, group.Remove())
	}
	if b.gauge, err = group.PeakMemory(); err != nil {
		return nil, errors.Join(err, b.discard())
	}
	b.mounting <- struct{}{}
	b.freezer <- struct{}{}
	return b, nil
}

// discard removes the control group of a box that was never watched.
func (b *box) discard() error {
	return errors.Join(b.closeFiles(), b.group.Remove())
}

func (b *box) closeFiles() error {
	var errs []error
	if b.oom != nil {
		errs = append(errs, b.oom.Close())
	}
	b.gaugeMu.Lock()
	defer b.gaugeMu.Unlock()
	if b.gauge != nil {
		errs = append(errs, b.gauge.Close())
		b.gauge = nil
	}
	return errors.Join(errs...)
}

// tell sends a message to the launcher.
func (b *box) tell(m message, files ...*os.File) error {
	b.engine.sendMu.Lock()
	defer b.engine.sendMu.Unlock()
	return send(b.line, m, files...)
}

// begin notes what the sandbox uses before its guest does anything.
func (b *box) begin() error {
	m, err := b.group.Memory()
	b.baseline.Store(m.Current - m.Cache)
	return err
}

// end takes the launcher's word that the sandbox's processes have ended.
func (b *box) end(reason string) {
	b.reason = reason
	close(b.ended)
}

// watch follows the sandbox to its end and removes what is left then.
func (b *box) watch() {
	var memory sync.WaitGroup
	if b.oom != nil {
		memory.Go(b.watchMemory)
	}
	<-b.ended
	usage, usageErr := b.measure()
	exhausted, oomErr := b.group.OutOfMemory()
	b.last = usage
	b.left = errors.Join(usageErr, oomErr, b.closeFiles())
	memory.Wait()
	b.exit.Err = b.cause(exhausted)
	if errors.Is(b.exit.Err, sandbox.ErrKilledByMemory) {
		b.engine.exhausted.Add(1)
	}
	// The processes are gone, unless it was the launcher that ended.
	b.left = errors.Join(b.left, b.group.Kill(), b.group.Remove())
	close(b.done)
}

// watchMemory ends the whole sandbox when it has met its memory limit. The kernel may have chosen a process without which the rest
// would hang.
func (b *box) watchMemory() {
	event := make([]byte, 8)
	if _, err := b.oom.Read(event); err != nil {
		return // closed: it ended for another reason
	}
	_ = b.kill(&b.exhausted) // watch does it once more, and reports
}

// kill notes why, so that nobody freezes the sandbox any more, and kills it.
func (b *box) kill(why *bool) error {
	b.mu.Lock()
	*why = true
	b.mu.Unlock()
	<-b.freezer
	defer func() { b.freezer <- struct{}{} }()
	return b.group.Kill()
}

// doomed reports whether the sandbox has been killed.
func (b *box) doomed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.destroyed || b.exhausted || b.crowding || b.crippled
}

func (b *box) cause(exhausted bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.destroyed:
		return nil
	case exhausted || b.exhausted:
		return fmt.Errorf("%w of %d bytes", sandbox.ErrKilledByMemory, b.memory.Load())
	case b.crowding:
		return errors.New("ended because the disk was short and its /tmp held most of it")
	default:
		return fmt.Errorf("ended by itself: %s", b.reason)
	}
}

// Freeze implements sandbox.Sandbox.
func (b *box) Freeze() error {
	<-b.freezer
	defer func() { b.freezer <- struct{}{} }()
	if b.doomed() {
		return nil // it runs no more
	}
	return b.group.Freeze()
}

// Thaw implements sandbox.Sandbox.
func (b *box) Thaw() error {
	<-b.freezer
	defer func() { b.freezer <- struct{}{} }()
	if b.doomed() {
		return fmt.Errorf("thaw sandbox %s: %w", b.id, sandbox.ErrEnded)
	}
	if !slices.ContainsFunc(b.pids, isDying) {
		return b.group.Thaw()
	}
	b.mu.Lock()
	b.crippled = true
	b.mu.Unlock()
	return errors.Join(fmt.Errorf("thaw sandbox %s, of which a process was killed: %w", b.id, sandbox.ErrEnded), b.group.Kill())
}

// isDying reports whether a process, which is frozen, has been killed. In a version 1 freezer that shows in nothing else until it runs
// again, and then the others of its sandbox run for a moment as if nothing had happened.
func isDying(pid int) bool {
	// A call waits for this: as few system calls as will do.
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true // it has ended
	}
	defer unix.Close(fd)
	text := make([]byte, 4096) // it has some 1,500 bytes
	n, err := unix.Read(fd, text)
	if err != nil {
		return true // as above
	}
	_, rest, _ := bytes.Cut(text[:n], []byte("\nShdPnd:\t"))
	pending, _, _ := bytes.Cut(rest, []byte("\n"))
	signals, err := strconv.ParseUint(string(pending), 16, 64)
	return err == nil && signals&(1<<(unix.SIGKILL-1)) != 0
}

// SetCPUs implements sandbox.Sandbox.
func (b *box) SetCPUs(cpus float64, weight int) error {
	return b.group.SetCPUs(cpus, cmp.Or(weight, sandbox.UsualWeight))
}

// SetMemory implements sandbox.Sandbox.
func (b *box) SetMemory(bytes int64) error {
	if err := b.group.SetMemory(bytes + allowance); err != nil {
		return err
	}
	b.memory.Store(bytes)
	return nil
}

// mountTimeout bounds how long the launcher may take to mount a directory.
const mountTimeout = 10 * time.Second

// Mount implements sandbox.Sandbox.
func (b *box) Mount(ctx context.Context, name, source string) error {
	if !validID.MatchString(name) || !isThere(source) {
		return fmt.Errorf("mount %q as %q in sandbox %s: want the absolute path of a directory and a name of letters", source, name, b.id)
	}
	ctx, cancel := context.WithTimeout(ctx, mountTimeout)
	defer cancel()
	select {
	case <-b.mounting:
	case <-ctx.Done():
		return ctx.Err()
	}
	// An answer that nobody waited for would be taken for the next one's: after a request without an answer there is no other.
	if err := b.tell(message{Kind: mount, ID: b.id, Name: name, Source: source}); err != nil {
		return err
	}
	select {
	case reason := <-b.mounted:
		b.mounting <- struct{}{}
		if reason != "" {
			return fmt.Errorf("mount in sandbox %s: %s", b.id, reason)
		}
		return nil
	case <-b.ended:
		return fmt.Errorf("mount in sandbox %s, which has ended: %s", b.id, b.reason)
	case <-ctx.Done():
		return fmt.Errorf("mount in sandbox %s: %w", b.id, ctx.Err())
	}
}

// Usage implements sandbox.Sandbox.
func (b *box) Usage() (sandbox.Usage, error) {
	select {
	case <-b.done:
		return b.last, nil
	default:
		return b.measure()
	}
}

// PeakMemory implements sandbox.Sandbox.
func (b *box) PeakMemory() (int64, error) {
	b.gaugeMu.Lock()
	defer b.gaugeMu.Unlock()
	if b.gauge == nil {
		usage, err := b.Usage()
		return usage.PeakMemoryBytes, err
	}
	charged, err := b.gauge.Read()
	if err != nil || charged == b.charged {
		return b.peak, err
	}
	usage, err := b.measure()
	if err != nil {
		return 0, err
	}
	// What was found at an earlier peak holds, however much of the memory has become the contents of files since.
	b.charged, b.peak = charged, max(b.peak, usage.PeakMemoryBytes)
	return b.peak, nil
}

// measure reads what the sandbox has used. Contents of files that the host has in memory are left out, as they are charged to whoever
// reads a file first and are dropped when memory is short. The peak is known with them only, so it is a lower bound.
func (b *box) measure() (sandbox.Usage, error) {
	m, memoryErr := b.group.Memory()
	cpu, cpuErr := b.group.CPU()
	peak := max(m.Peak, m.Current) - m.Cache - b.baseline.Load()
	peak = min(max(peak, 0), b.memory.Load())
	return sandbox.Usage{PeakMemoryBytes: peak, CPU: cpu}, errors.Join(memoryErr, cpuErr)
}

// Done implements sandbox.Sandbox.
func (b *box) Done() <-chan struct{} { return b.done }

// Exit implements sandbox.Sandbox.
func (b *box) Exit() sandbox.Exit { return b.exit }

// Destroy implements sandbox.Sandbox.
func (b *box) Destroy() error {
	killErr := b.kill(&b.destroyed)
	limit := time.NewTimer(endTimeout)
	defer limit.Stop()
	select {
	case <-b.done:
		return b.left
	case <-limit.C:
		return errors.Join(fmt.Errorf("sandbox %s has not ended within %v", b.id, endTimeout), killErr)
	}
}
