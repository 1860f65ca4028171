package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// layout is what the two versions do differently. Group paths are relative to the root of the hierarchy.
type layout interface {
	// lacks is the version, with the controllers that are needed and missing.
	lacks() (version int, missing []string)
	// dirs are the directories that make up a group.
	dirs(path string) []string
	dir(controller, path string) string
	// prepare makes a group that is to hold groups.
	prepare(path string) error
	setMemory(g *Group, bytes int64) error
	// setQuota takes microseconds; a quota of 0 is none.
	setQuota(g *Group, quota, period int64) error
	// setWeight takes 1 to 10,000, 100 being what a group has that none was set of.
	setWeight(g *Group, weight int) error
	freeze(g *Group, frozen bool) error
	frozen(g *Group) (bool, error)
	memory(g *Group) (Memory, error)
	// peak is the file that holds Memory.Peak, or where the kernel lacks it, Memory.Current.
	peak(g *Group) string
	cpu(g *Group) (time.Duration, error)
	oomKills(g *Group) (int64, error)
	notifyOOM(g *Group) (*os.File, error)
}

func find() layout {
	var st unix.Statfs_t
	if err := unix.Statfs(mountpoint, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return v2{mountpoint}
	}
	return v1{mountpoint}
}

func detect() (layout, error) {
	l := find()
	if version, missing := l.lacks(); len(missing) > 0 {
		return nil, fmt.Errorf("control groups version %d lack the controllers %s", version, strings.Join(missing, ", "))
	}
	return l, nil
}

// v1 has one hierarchy per controller, all mounted below root.
type v1 struct{ root string }

func (v1) controllers() []string { return []string{"memory", "cpu", "cpuacct", "pids", "freezer"} }

func (v v1) lacks() (int, []string) {
	var missing []string
	for _, c := range v.controllers() {
		if _, err := os.Stat(filepath.Join(v.root, c, "cgroup.procs")); err != nil {
			missing = append(missing, c)
		}
	}
	return 1, missing
}

func (v v1) dir(controller, path string) string { return filepath.Join(v.root, controller, path) }

// dirs leaves out controllers that are mounted together with another under both names.
func (v v1) dirs(path string) []string {
	var dirs []string
	for _, c := range v.controllers() {
		root, err := filepath.EvalSymlinks(filepath.Join(v.root, c))
		if err != nil {
			root = filepath.Join(v.root, c)
		}
		if dir := filepath.Join(root, path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (v v1) prepare(path string) error {
	for _, dir := range v.dirs(path) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (v1) setMemory(g *Group, bytes int64) error {
	memory, withSwap := g.file("memory", "memory.limit_in_bytes"), g.file("memory", "memory.memsw.limit_in_bytes")
	current, err := readInt(memory)
	if err != nil {
		return err
	}
	order := []string{memory, withSwap}
	if bytes > current {
		order = []string{withSwap, memory} // the first must never be above the second
	}
	for _, file := range order {
		err := writeBack(file, fmt.Sprint(bytes))
		if file == withSwap && errors.Is(err, fs.ErrNotExist) {
			continue // the kernel does not account swap, and the machine has to do without
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v1) setQuota(g *Group, quota, period int64) error {
	if err := writeBack(g.file("cpu", "cpu.cfs_period_us"), fmt.Sprint(period)); err != nil {
		return err
	}
	if quota == 0 {
		quota = -1
	}
	return writeBack(g.file("cpu", "cpu.cfs_quota_us"), fmt.Sprint(quota))
}

// setWeight sets what version 1 has as shares, of which a group has 1,024 that none were set of, and not fewer than 2.
func (v1) setWeight(g *Group, weight int) error {
	return writeBack(g.file("cpu", "cpu.shares"), fmt.Sprint(max(2, weight*1024/100)))
}

func (v1) freeze(g *Group, frozen bool) error {
	state := "THAWED"
	if frozen {
		state = "FROZEN"
	}
	return write(g.file("freezer", "freezer.state"), state)
}

func (v1) frozen(g *Group) (bool, error) {
	state, err := read(g.file("freezer", "freezer.state"))
	return state == "FROZEN", err
}

func (v1) memory(g *Group) (m Memory, err error) {
	if m.Current, err = readInt(g.file("memory", "memory.usage_in_bytes")); err != nil {
		return m, err
	}
	if m.Peak, err = readInt(g.file("memory", "memory.max_usage_in_bytes")); err != nil {
		return m, err
	}
	m.Cache, err = fileCache(g.file("memory", "memory.stat"), "total_") // version 1 has those of the group without its children too
	return m, err
}

func (v1) peak(g *Group) string { return g.file("memory", "memory.max_usage_in_bytes") }

func (v1) cpu(g *Group) (time.Duration, error) {
	n, err := readInt(g.file("cpuacct", "cpuacct.usage"))
	return time.Duration(n), err
}

func (v1) oomKills(g *Group) (int64, error) {
	return readKey(g.file("memory", "memory.oom_control"), "oom_kill")
}

// notifyOOM asks for an event, because version 1 kills one process only and the rest would stay as it is.
func (v1) notifyOOM(g *Group) (*os.File, error) {
	control, err := os.Open(g.file("memory", "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close() // the kernel keeps what it needs
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open event: %w", err)
	}
	event := os.NewFile(uintptr(fd), "out of memory")
	if err := write(g.file("memory", "cgroup.event_control"), fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		return nil, errors.Join(err, event.Close())
	}
	return event, nil
}

// v2 has one hierarchy, mounted at root.
type v2 struct{ root string }

func (v2) controllers() []string { return []string{"memory", "cpu", "pids"} }

func (v v2) lacks() (int, []string) {
	text, err := read(filepath.Join(v.root, "cgroup.controllers"))
	if err != nil {
		return 2, v.controllers()
	}
	have := strings.Fields(text)
	return 2, slices.DeleteFunc(v.controllers(), func(c string) bool { return slices.Contains(have, c) })
}

func (v v2) dir(_, path string) string { return filepath.Join(v.root, path) }

func (v v2) dirs(path string) []string { return []string{v.dir("", path)} }

// prepare hands the controllers down, from the root to the group itself.
func (v v2) prepare(path string) error {
	if err := os.MkdirAll(v.dir("", path), 0o755); err != nil {
		return err
	}
	enable := "+" + strings.Join(v.controllers(), " +")
	dir := v.root
	for _, part := range append([]string{""}, strings.Split(path, "/")...) {
		dir = filepath.Join(dir, part)
		if err := write(filepath.Join(dir, "cgroup.subtree_control"), enable); err != nil {
			return err
		}
	}
	return nil
}

func (v2) setMemory(g *Group, bytes int64) error {
	if err := writeBack(g.file("", "memory.max"), fmt.Sprint(bytes)); err != nil {
		return err
	}
	if err := writeBack(g.file("", "memory.oom.group"), "1"); err != nil {
		return err
	}
	err := writeBack(g.file("", "memory.swap.max"), "0")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the kernel does not account swap, and the machine has to do without
	}
	return err
}

func (v2) setQuota(g *Group, quota, period int64) error {
	limit := "max"
	if quota > 0 {
		limit = fmt.Sprint(quota)
	}
	return writeBack(g.file("", "cpu.max"), fmt.Sprintf("%s %d", limit, period))
}

func (v2) setWeight(g *Group, weight int) error {
	return writeBack(g.file("", "cpu.weight"), fmt.Sprint(weight))
}

func (v2) freeze(g *Group, frozen bool) error {
	state := "0"
	if frozen {
		state = "1"
	}
	return write(g.file("", "cgroup.freeze"), state)
}

func (v2) frozen(g *Group) (bool, error) {
	n, err := readKey(g.file("", "cgroup.events"), "frozen")
	return n == 1, err
}

func (v2) memory(g *Group) (m Memory, err error) {
	if m.Current, err = readInt(g.file("", "memory.current")); err != nil {
		return m, err
	}
	m.Peak, err = readInt(g.file("", "memory.peak"))
	if errors.Is(err, fs.ErrNotExist) {
		m.Peak, err = m.Current, nil // before Linux 5.19
	}
	if err != nil {
		return m, err
	}
	m.Cache, err = fileCache(g.file("", "memory.stat"), "")
	return m, err
}

func (v2) peak(g *Group) string {
	if file := g.file("", "memory.peak"); exists(file) {
		return file
	}
	return g.file("", "memory.current") // before Linux 5.19
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func (v2) cpu(g *Group) (time.Duration, error) {
	n, err := readKey(g.file("", "cpu.stat"), "usage_usec")
	return time.Duration(n) * time.Microsecond, err
}

func (v2) oomKills(g *Group) (int64, error) {
	return readKey(g.file("", "memory.events"), "oom_kill")
}

func (v2) notifyOOM(*Group) (*os.File, error) { return nil, nil }

// fileCache is the memory on the two lists of file pages: contents of files on disk, but not of files in memory. The
// prefix is that of the lists' names.
func fileCache(stat, prefix string) (int64, error) {
	active, err := readKey(stat, prefix+"active_file")
	if err != nil {
		return 0, err
	}
	inactive, err := readKey(stat, prefix+"inactive_file")
	return active + inactive, err
}
