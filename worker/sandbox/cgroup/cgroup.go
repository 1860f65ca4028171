// Package cgroup limits, freezes, measures and kills the processes of a sandbox by Linux control groups, version 1 or 2.
//
// Every owner has a Tree, a parent group of its own, so that what a dead owner left can be found and removed. It is written
// for one user, the sandbox engine, because gVisor's own code and opencontainers/cgroups put processes into a version 1 group by
// moving the caller there and back, which a process that starts many sandboxes at once must not do.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mountpoint is where every Linux distribution mounts control groups.
	mountpoint = "/sys/fs/cgroup"
	// parent is the group that holds the trees of all owners.
	parent = "kiln"
	// cpuPeriod is the length of one accounting period of the processor quota. It is 20 ms, as is observed of AWS, and not the
	// kernel's 100 ms: a function with 7 % of a processor that has used up its share waits 18 ms at worst, not 93.
	cpuPeriod = 20 * time.Millisecond
	// minQuota is the smallest quota that the kernel takes.
	minQuota = time.Millisecond
	// settle bounds the waits for what the kernel does in its own time: freezing, ending processes, releasing a group.
	settle = 5 * time.Second
	// freezePatience is how long the first attempt to freeze may take; it is 0.1 ms if all goes well. Every other may take twice as long as
	// the one before, and thawPause lies between them.
	freezePatience = 10 * time.Millisecond
	// lastPatience is that of the last attempt. Whoever wants to use the sandbox may have to wait for all of them, 0.3 s.
	lastPatience = 160 * time.Millisecond
	thawPause    = time.Millisecond
	// settleCheck is how often it is looked again. Version 1 tells nobody when it is done.
	settleCheck = 200 * time.Microsecond
)

// Tree is the parent of one owner's groups. Its methods are safe for concurrent use.
type Tree struct {
	layout layout
	name   string
}

// Limits bound the processes of a group together.
type Limits struct {
	// MemoryBytes is rounded up to whole pages. Swap counts as memory.
	MemoryBytes int64
	// CPUs is the share of processor time, 1 being one whole processor; 0 means no limit.
	CPUs float64
	// Weight is how much of the processors the group gets, compared with others of its tree, while they want more than there is: 1 to 10,000.
	Weight int
	// Tasks is the greatest number of threads.
	Tasks int
}

// OpenTree returns the tree of that name and creates it if need be. The error names the controllers that the machine lacks.
func OpenTree(name string) (*Tree, error) {
	l, err := detect()
	if err != nil {
		return nil, err
	}
	t := &Tree{layout: l, name: filepath.Join(parent, name)}
	if err := l.prepare(t.name); err != nil {
		return nil, fmt.Errorf("create control group %s: %w", t.name, err)
	}
	return t, nil
}

// Version is the version of control groups that this machine has, 1 or 2, with the controllers that kiln needs and it lacks.
func Version() (version int, missing []string) {
	return find().lacks()
}

// Create makes the group of that name with its limits, which are read back. The name must not be in use.
func (t *Tree) Create(name string, limits Limits) (*Group, error) {
	g := t.Group(name)
	for i, dir := range g.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			// What stands at that name is another's, and must not be removed with what was made here.
			return nil, errors.Join(fmt.Errorf("create control group: %w", err), removeDirs(g.dirs()[:i]))
		}
	}
	if err := g.limit(limits); err != nil {
		return nil, errors.Join(fmt.Errorf("limit control group %s: %w", name, err), removeDirs(g.dirs()))
	}
	return g, nil
}

// Group returns the group of that name, which must exist already.
func (t *Tree) Group(name string) *Group {
	return &Group{layout: t.layout, path: filepath.Join(t.name, name)}
}

// Sweep kills every process in every group of the tree, frozen or not, removes the groups, and returns how many there were.
func (t *Tree) Sweep(ctx context.Context) (int, error) {
	names, err := t.names()
	if err != nil {
		return 0, fmt.Errorf("list control groups: %w", err)
	}
	var errs []error
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return i, errors.Join(append(errs, err)...)
		}
		g := t.Group(name)
		errs = append(errs, g.Kill(), g.Remove())
	}
	return len(names), errors.Join(errs...)
}

// names lists the groups of the tree, those too that exist for some controllers only.
func (t *Tree) names() ([]string, error) {
	var names []string
	for _, dir := range t.layout.dirs(t.name) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Usage is what the groups of a tree have used together.
type Usage struct {
	// MemoryBytes is charged to them at the moment, without contents of files on a disk, which can be dropped.
	MemoryBytes int64
	// CPU is the processor time of all that there have been.
	CPU time.Duration
}

// Usage reads what the tree's groups use from the tree itself, whose cost does not grow with what a caller does.
func (t *Tree) Usage() (Usage, error) {
	g := &Group{layout: t.layout, path: t.name}
	m, err := g.Memory()
	if err != nil {
		return Usage{}, err
	}
	cpu, err := g.CPU()
	return Usage{MemoryBytes: max(m.Current-m.Cache, 0), CPU: cpu}, err
}

// Remove removes the tree, which must be empty, and the parent of all trees if this was the last.
func (t *Tree) Remove() error {
	if err := removeDirs(t.layout.dirs(t.name)); err != nil {
		return err
	}
	for _, dir := range t.layout.dirs(parent) {
		_ = unix.Rmdir(dir) // fails while another tree is in it, and then has to stay
	}
	return nil
}

// Group is one control group. Its methods are safe for concurrent use, save that Freeze and Thaw exclude each other.
type Group struct {
	layout layout
	path   string
}

func (g *Group) dirs() []string { return g.layout.dirs(g.path) }

func (g *Group) file(controller, name string) string {
	return filepath.Join(g.layout.dir(controller, g.path), name)
}

// Add moves a process, with all its threads, and the processes that it has started into the group. What they start from then on
// is in it from the beginning.
func (g *Group) Add(pid int) error {
	for _, dir := range g.dirs() {
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move process %d into control group: %w", pid, err)
		}
	}
	// A fork waits while its parent is moved. So a child is either born in the group or listed now.
	children, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := g.Add(child); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// childrenOf lists the processes that a process has started and that still run.
func childrenOf(pid int) ([]int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, fmt.Errorf("list children of process %d: %w", pid, err)
	}
	var pids []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended, and its children have become another thread's
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", list, err)
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

func (g *Group) limit(l Limits) error {
	if err := g.SetMemory(l.MemoryBytes); err != nil {
		return err
	}
	if err := g.SetCPUs(l.CPUs, l.Weight); err != nil {
		return err
	}
	return writeBack(g.file("pids", "pids.max"), strconv.Itoa(l.Tasks))
}

// SetMemory changes Limits.MemoryBytes. It fails if the group has more in use than it is to have and the kernel cannot take it back.
func (g *Group) SetMemory(bytes int64) error {
	page := int64(os.Getpagesize())
	return g.layout.setMemory(g, (bytes+page-1)/page*page)
}

// SetCPUs changes Limits.CPUs and Limits.Weight.
func (g *Group) SetCPUs(cpus float64, weight int) error {
	if err := g.layout.setWeight(g, weight); err != nil {
		return err
	}
	quota := max(minQuota, time.Duration(cpus*float64(cpuPeriod)))
	if cpus == 0 {
		quota = 0
	}
	return g.layout.setQuota(g, quota.Microseconds(), cpuPeriod.Microseconds())
}

// Freeze stops every process of the group. When it returns nil none runs.
func (g *Group) Freeze() error {
	for patience := freezePatience; ; patience *= 2 {
		err := g.tryFreeze(patience)
		if !errors.Is(err, errUnsettled) || patience >= lastPatience {
			return err
		}
		// A process that was stopped for its tracer, as gVisor's are while it makes them, never freezes if the tracer froze first.
		// They need a moment to get on.
		time.Sleep(thawPause)
	}
}

// tryFreeze leaves the group running if it has not frozen within that time.
func (g *Group) tryFreeze(patience time.Duration) error {
	err := g.layout.freeze(g, true)
	if err == nil {
		err = await(patience, func() (bool, error) { return g.layout.frozen(g) })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("freeze: %w", err), g.Thaw())
	}
	return nil
}

// Thaw lets the processes of the group run again.
func (g *Group) Thaw() error {
	if err := g.layout.freeze(g, false); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return nil
}

// Kill sends every process of the group to its end, frozen or not, and does not wait for it. A group that is gone is no error.
func (g *Group) Kill() error {
	pids, err := g.Processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	// A frozen process of a version 1 group takes its signal when it runs again.
	if err := g.Thaw(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// Processes lists the processes of the group. A group that is gone has none.
func (g *Group) Processes() ([]int, error) {
	var pids []int
	for _, dir := range g.dirs() {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("list processes: %w", err)
			}
			// 0 is a process that this one's process namespace does not show.
			if pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// Remove removes the group once its processes have ended, for which it waits some seconds at most. A group that is gone is no error.
func (g *Group) Remove() error {
	var busy error
	err := await(settle, func() (bool, error) {
		busy = removeDirs(g.dirs())
		if errors.Is(busy, unix.EBUSY) {
			return false, nil
		}
		return true, busy
	})
	if err != nil {
		return errors.Join(fmt.Errorf("remove control group %s: %w", g.path, err), busy)
	}
	return nil
}

// Memory is how many bytes are charged to a group.
type Memory struct {
	Current int64
	// Peak is the most that was charged at one time.
	Peak int64
	// Cache is the part of Current that holds contents of files on a disk and can be dropped.
	Cache int64
}

// Memory reads what is charged to the group.
func (g *Group) Memory() (Memory, error) {
	m, err := g.layout.memory(g)
	if err != nil {
		return Memory{}, fmt.Errorf("read memory use: %w", err)
	}
	return m, nil
}

// Gauge tells the most memory that was charged to a group, by one system call. It is not safe for concurrent use.
type Gauge struct {
	file *os.File
	text [24]byte
}

// PeakMemory returns a gauge of Memory.Peak. Close it after use.
func (g *Group) PeakMemory() (*Gauge, error) {
	f, err := os.Open(g.layout.peak(g))
	if err != nil {
		return nil, fmt.Errorf("open memory gauge: %w", err)
	}
	return &Gauge{file: f}, nil
}

// Read returns the bytes.
func (g *Gauge) Read() (int64, error) {
	n, err := g.file.ReadAt(g.text[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read memory gauge: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(g.text[:n])), 10, 64)
}

// Close lets go of the file.
func (g *Gauge) Close() error { return g.file.Close() }

// CPU is the processor time used by the group.
func (g *Group) CPU() (time.Duration, error) {
	d, err := g.layout.cpu(g)
	if err != nil {
		return 0, fmt.Errorf("read processor use: %w", err)
	}
	return d, nil
}

// OutOfMemory reports whether the kernel has killed a process of the group for the group's memory limit.
func (g *Group) OutOfMemory() (bool, error) {
	n, err := g.layout.oomKills(g)
	if err != nil {
		return false, fmt.Errorf("read memory events: %w", err)
	}
	return n > 0, nil
}

// NotifyOutOfMemory returns a file on which a read returns when the group has met its memory limit, or is gone. Version 2 needs none,
// because its kernel kills the whole group: there it is nil. The caller closes it, which ends a read.
func (g *Group) NotifyOutOfMemory() (*os.File, error) {
	f, err := g.layout.notifyOOM(g)
	if err != nil {
		return nil, fmt.Errorf("watch memory limit: %w", err)
	}
	return f, nil
}

var errUnsettled = errors.New("not done in time")

// await calls done until it says true or fails, or until that time has passed.
func await(within time.Duration, done func() (bool, error)) error {
	limit := time.NewTimer(within)
	defer limit.Stop()
	again := time.NewTicker(settleCheck)
	defer again.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-limit.C:
			return errUnsettled
		case <-again.C:
		}
	}
}

func removeDirs(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			errs = append(errs, &fs.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	return errors.Join(errs...)
}

func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// writeBack writes a limit and fails if the kernel then has another.
func writeBack(file, value string) error {
	if err := write(file, value); err != nil {
		return err
	}
	got, err := read(file)
	if err != nil {
		return err
	}
	if got != value {
		return fmt.Errorf("%s is %s after %s was written", file, got, value)
	}
	return nil
}

func read(file string) (string, error) {
	text, err := os.ReadFile(file)
	return strings.TrimSpace(string(text)), err
}

func readInt(file string) (int64, error) {
	text, err := read(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// readKey reads the number that stands behind a key in a file of "key number" lines.
func readKey(file, key string) (int64, error) {
	text, err := read(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, key)
}
