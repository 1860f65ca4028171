package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
	"kiln/worker/sandbox/cgroup"
)

// Severity is how much a Finding matters.
type Severity int

const (
	// OK needs nothing to be done.
	OK Severity = iota
	// Warning means that sandboxes run, but fewer or slower than they could.
	Warning
	// Fatal means that no sandbox can run.
	Fatal
)

func (s Severity) String() string { return [...]string{"ok", "warning", "fatal"}[s] }

// Finding is what Check has to say about one thing.
type Finding struct {
	// Name is the thing, in a word or two.
	Name     string
	Severity Severity
	// Text is one line: how it is and, unless that is well, what to do about it.
	Text string
}

const (
	// minKernel is the first version of Linux that has file descriptors for processes.
	minKernelMajor, minKernelMinor = 5, 3
	// What a few sandboxes need, and what makes it worth starting.
	lowMemory, littleMemory = 256 << 20, 1 << 30
	lowDisk, littleDisk     = 256 << 20, 4 << 30
	// lowTasks is a few sandboxes of a thousand processes each.
	lowTasks = 32 << 10
	// checkTimeout bounds the start of the sandbox that Check starts.
	checkTimeout = time.Minute
)

// Check says whether this machine can run sandboxes with that configuration, the fatal findings too. It starts one, in a directory of
// its own, unless something fatal stands in the way.
func Check(ctx context.Context, cfg Config) []Finding {
	findings := Requirements(cfg)
	for _, f := range findings {
		if f.Severity == Fatal {
			return findings
		}
	}
	return append(findings, checkStart(ctx, cfg))
}

// Requirements is Check without the start of a sandbox.
func Requirements(cfg Config) []Finding {
	return []Finding{
		checkUser(), checkKernel(), checkGroups(), checkNamespaces(), checkChildren(), checkTasks(), checkMemory(), checkDisk(cfg.Dir),
	}
}

func checkUser() Finding {
	if uid := os.Geteuid(); uid != 0 {
		return Finding{"user", Fatal, fmt.Sprintf("user %d; run kiln as root, which it needs to make namespaces and control groups", uid)}
	}
	return Finding{"user", OK, "root"}
}

func checkKernel() Finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Finding{"kernel", Fatal, "cannot be asked for its version: " + err.Error()}
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return Finding{"kernel", Warning, "Linux " + release + ", whose age is unknown"}
	}
	if major < minKernelMajor || major == minKernelMajor && minor < minKernelMinor {
		return Finding{"kernel", Fatal, fmt.Sprintf("Linux %s; install %d.%d or newer", release, minKernelMajor, minKernelMinor)}
	}
	if runtime.GOARCH != "amd64" {
		return Finding{"kernel", Warning, fmt.Sprintf("Linux %s on %s, where sandboxes start more slowly than on amd64", release, runtime.GOARCH)}
	}
	return Finding{"kernel", OK, "Linux " + release + " on " + runtime.GOARCH}
}

func checkGroups() Finding {
	version, missing := cgroup.Version()
	if len(missing) > 0 {
		text := fmt.Sprintf("version %d without %s; mount them below /sys/fs/cgroup, or boot with control groups version 2", version, strings.Join(missing, ", "))
		return Finding{"control groups", Fatal, text}
	}
	return Finding{"control groups", OK, fmt.Sprintf("version %d with all controllers that are needed", version)}
}

func checkNamespaces() Finding {
	var missing []string
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return Finding{"namespaces", Fatal, "the kernel has none for " + strings.Join(missing, ", ") + "; use one that has"}
	}
	if n, err := readNumber("/proc/sys/user/max_user_namespaces"); err == nil && n == 0 {
		return Finding{"namespaces", Fatal, "user namespaces are turned off; set the sysctl user.max_user_namespaces to 10000 or more"}
	}
	return Finding{"namespaces", OK, "all six kinds"}
}

// checkChildren looks for the lists by which a sandbox's processes are found.
func checkChildren() Finding {
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		return Finding{"process lists", Fatal, "the kernel was built without CONFIG_PROC_CHILDREN; use one with it"}
	}
	return Finding{"process lists", OK, "present"}
}

func checkTasks() Finding {
	for _, name := range []string{"kernel/pid_max", "kernel/threads-max"} {
		n, err := readNumber("/proc/sys/" + name)
		sysctl := strings.ReplaceAll(name, "/", ".")
		if err != nil {
			return Finding{"processes", Warning, "cannot read the sysctl " + sysctl + ": " + err.Error()}
		}
		if n <= lowTasks {
			return Finding{"processes", Warning, fmt.Sprintf("the machine may run %d; set the sysctl %s to 4194304 for more than a few sandboxes", n, sysctl)}
		}
	}
	return Finding{"processes", OK, "enough for hundreds of sandboxes"}
}

func checkMemory() Finding {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Finding{"memory", Warning, err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kilobytes); n == 1 {
			return amount("memory", kilobytes<<10, lowMemory, littleMemory)
		}
	}
	return Finding{"memory", Warning, "the kernel does not say how much is available"}
}

func checkDisk(dir string) Finding {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			break
		}
		if up := filepath.Dir(dir); !errors.Is(err, unix.ENOENT) || up == dir {
			return Finding{"disk", Fatal, fmt.Sprintf("%s: %v", dir, err)}
		}
		dir = filepath.Dir(dir) // it will be made
	}
	if st.Type == unix.TMPFS_MAGIC {
		return Finding{"disk", Warning, dir + " is in memory, and what functions keep in /tmp with it; choose a directory on a disk"}
	}
	return amount("disk", int64(st.Bavail)*st.Bsize, lowDisk, littleDisk)
}

func amount(name string, available, low, little int64) Finding {
	text := fmt.Sprintf("%d MB available", available>>20)
	switch {
	case available < low:
		return Finding{name, Fatal, text + fmt.Sprintf("; make room for at least %d MB", low>>20)}
	case available < little:
		return Finding{name, Warning, text + fmt.Sprintf("; %d MB or more are better", little>>20)}
	default:
		return Finding{name, OK, text}
	}
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

func checkStart(ctx context.Context, cfg Config) Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	took, err := startOnce(ctx, cfg)
	if err != nil {
		return Finding{"sandbox", Fatal, "cannot be started: " + strings.ReplaceAll(err.Error(), "\n", ": ")}
	}
	return Finding{"sandbox", OK, fmt.Sprintf("started, and its program answered, in %v", took.Round(time.Millisecond))}
}

// startOnce starts a sandbox, with an engine of its own, and returns how long its program took to answer.
func startOnce(ctx context.Context, cfg Config) (took time.Duration, err error) {
	dir, err := os.MkdirTemp("", "kiln-check")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cfg.Dir = filepath.Join(dir, "sandboxes")
	e, err := New(cfg)
	if err != nil {
		return 0, err
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(runCtx) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	return e.probe(ctx, filepath.Join(dir, "root"))
}

// probe starts a sandbox whose program is the engine's own.
func (e *Engine) probe(ctx context.Context, root string) (time.Duration, error) {
	// Until a launcher runs the program may not be there.
	if err := e.enter(ctx); err != nil {
		return 0, err
	}
	e.starts.Done()
	exe, err := filepath.EvalSymlinks(e.cfg.Exe)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(filepath.Join(root, "tmp"), 0o700); err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	defer w.Close()
	begun := time.Now()
	s, err := e.Start(ctx, sandbox.Spec{
		ID: "check", Root: root, Args: []string{probeName},
		Mounts: []sandbox.Mount{{Source: exe, Target: probeName}},
		Files:  map[int]*os.File{probeFile: w},
		Limits: sandbox.Limits{MemoryBytes: 128 << 20, TmpBytes: 1 << 20},
	})
	if err != nil {
		return 0, err
	}
	_ = w.Close() // so that the end of the program is seen; the deferred one is for errors
	defer context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })()
	_, err = io.ReadFull(r, make([]byte, 1))
	return time.Since(begun), errors.Join(err, s.Destroy())
}

// probeFile is the descriptor on which the program of Check's sandbox answers.
const probeFile = 3

// probe is the main function of the program of Check's sandbox.
func probe() int {
	if _, err := os.NewFile(probeFile, "answer").Write([]byte{1}); err != nil {
		return 1
	}
	return 0
}
