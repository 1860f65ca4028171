package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

// held is what a node holds of its machine.
type held struct {
	Processes, Groups, Namespaces, Mounts, Descriptors, Threads, Goroutines int
	// MemoryMB is what the node and its launcher have for themselves; DiskKB what lies in the directories of sandboxes and code.
	MemoryMB, DiskKB int
}

// tracing has nodes that are started from then on tell of their goroutines every second.
func tracing(t *testing.T) { t.Setenv("GODEBUG", "schedtrace=1000,scheddetail=1") }

// live is a goroutine in such a trace that has not ended: status 6 is that of one that has.
var live = regexp.MustCompile(`(?m)^  G\d+: status=[^6]`)

// goroutinesOf counts those of the last whole trace that a node has printed.
func goroutinesOf(n *kilntest.Node) int {
	traces := strings.Split(n.Output(), "SCHED ")
	if len(traces) < 3 {
		return 0
	}
	return len(live.FindAllString(traces[len(traces)-2], -1))
}

// holds looks at what a node and its sandboxes hold.
func holds(t *testing.T, n *kilntest.Node) held {
	t.Helper()
	h := held{Goroutines: goroutinesOf(n)}
	namespaces := map[string]bool{}
	groups := map[string]bool{}
	for _, name := range []string{"runsc-sandbox", "runsc-gofer"} {
		pids := processesOf(t, n, name)
		h.Processes += len(pids)
		for _, pid := range pids {
			links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/ns/*", pid)) // the pattern is well formed
			for _, l := range links {
				if to, err := os.Readlink(l); err == nil {
					namespaces[to] = true
				}
			}
			for line := range strings.Lines(procFile(pid, "cgroup")) {
				if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 && strings.HasPrefix(parts[2], "/kiln/") {
					groups[filepath.Join("/sys/fs/cgroup", parts[1], filepath.Dir(parts[2]))] = true
				}
			}
		}
	}
	h.Namespaces = len(namespaces)
	for tree := range groups { // of all the node's sandboxes
		dirs, err := filepath.Glob(filepath.Join(tree, "*", "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		h.Groups += len(dirs)
	}
	for _, pid := range []int{n.Pid(), launcherOf(t, n)} {
		h.Mounts += strings.Count(procFile(pid, "mountinfo"), "\n")
		h.Descriptors += descriptorsOf(pid)
		h.Threads += statusOf(pid, "Threads")
		h.MemoryMB += statusOf(pid, "RssAnon") >> 10
	}
	for _, dir := range []string{"sandboxes", "code", "root"} {
		h.DiskKB += diskOf(t, filepath.Join(n.Dir, dir))
	}
	return h
}

// procFile is what a file of a process says, "" if the process has ended.
func procFile(pid int, name string) string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return ""
	}
	return string(text)
}

// statusOf is a number in the status of a process.
func statusOf(pid int, name string) int {
	_, rest, _ := strings.Cut(procFile(pid, "status"), "\n"+name+":")
	if fields := strings.Fields(rest); len(fields) > 0 {
		n, _ := strconv.Atoi(fields[0]) // 0 of one that has ended
		return n
	}
	return 0
}

// descriptorsOf counts the open files of a process, but not those of processes: Go leaves some of them to the garbage collector.
func descriptorsOf(pid int) int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well formed
	return len(slices.DeleteFunc(files, func(f string) bool {
		to, err := os.Readlink(f)
		return err != nil || to == "anon_inode:[pidfd]"
	}))
}

// diskOf is the size of all files below a directory in KB.
func diskOf(t *testing.T, dir string) int {
	t.Helper()
	bytes := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreAbsent(err)
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return ignoreAbsent(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return int(bytes >> 10)
}

func ignoreAbsent(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// settled waits until a node has that many sandbox processes, its traces are newer than that, and returns what it holds.
func settled(t *testing.T, n *kilntest.Node, processes int) held {
	t.Helper()
	limit := time.After(time.Minute)
	since := time.Now()
	for {
		select {
		case <-limit:
			return holds(t, n)
		case <-time.After(200 * time.Millisecond): // there is no event of the last process that goes
		}
		h := holds(t, n)
		if h.Processes != processes {
			since = time.Now()
		}
		if time.Since(since) > 4*time.Second {
			return h
		}
	}
}

// brief answers with its environment's name, or ends its process if it is told to.
const brief = `
import os, uuid
me = str(uuid.uuid4())
def handler(event, context):
    if event == "end":
        os._exit(0)
    return me
`

// TestEnvironmentsThatComeAndGoLeaveNothing has a node make and destroy environments: by evicting one for the other, and by their
// own end.
func TestEnvironmentsThatComeAndGoLeaveNothing(t *testing.T) {
	tracing(t)
	// There is memory for one environment and one sandbox that waits.
	n := kilntest.Start(t, "--memory", "520", "--idle-timeout", "2s")
	for _, f := range []string{"f", "g"} {
		n.Deploy(t.Context(), kilntest.Function{Name: f, MemoryMB: 256, Zip: python(t, brief)})
	}
	seen := map[string]bool{}
	client := n.Client() // one for all calls, whose connections would count
	invoke := func(f, payload string, fails bool) string {
		out, err := client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &f, Payload: []byte(payload)})
		if err != nil || (out.FunctionError != nil) != fails {
			t.Fatalf("%s: %+v, %v", f, out, err)
		}
		return string(out.Payload)
	}
	cycles := func(count int) {
		for i := range count / 2 {
			seen[invoke([]string{"f", "g"}[i%2], `1`, false)] = true
		}
		for range count / 2 {
			invoke("f", `"end"`, true)
		}
	}
	cycles(10)
	<-time.After(5 * time.Second) // idle environments end, and another sandbox waits
	before := settled(t, n, holds(t, n).Processes)
	clear(seen)
	count := rounds(40, 2000)
	begun := time.Now()
	cycles(count)
	took := time.Since(begun)
	after := settled(t, n, before.Processes)
	t.Logf("%d environments in %v\nbefore %+v\nafter  %+v", count, took.Round(time.Second), before, after)
	if len(seen) != count/2 {
		t.Errorf("%d calls of two functions for which there is memory in turn met %d environments", count/2, len(seen))
	}
	for what, c := range map[string]struct{ before, after, more int }{
		"processes":      {before.Processes, after.Processes, 0},
		"control groups": {before.Groups, after.Groups, 0},
		"namespaces":     {before.Namespaces, after.Namespaces, 0},
		"mounts":         {before.Mounts, after.Mounts, 0},
		"KB of disk":     {before.DiskKB, after.DiskKB, 4},
		// What is kept for reuse: connections of clients, workers of the garbage collector, memory that is free.
		"descriptors":  {before.Descriptors, after.Descriptors, 8},
		"goroutines":   {before.Goroutines, after.Goroutines, 10},
		"threads":      {before.Threads, after.Threads, 12},
		"MB of memory": {before.MemoryMB, after.MemoryMB, 40},
	} {
		if c.after > c.before+c.more {
			t.Errorf("%d %s, before there were %d", c.after, what, c.before)
		}
	}
	if before.Goroutines == 0 || before.Groups == 0 || before.Mounts == 0 {
		t.Error("the test looks in the wrong place")
	}
}

// TestManyEnvironmentsLive has environments of many functions live at the same time, and calls each again.
func TestManyEnvironmentsLive(t *testing.T) {
	count := rounds(10, 300)
	n := kilntest.Start(t, "--memory", strconv.Itoa(count*200+1000), "--idle-timeout", "1h")
	free := availableMB(t)
	names := make([]string, count)
	first := make([]string, count)
	for i := range count {
		names[i] = fmt.Sprint("f", i)
		n.Deploy(t.Context(), kilntest.Function{Name: names[i], MemoryMB: 128, Zip: python(t, brief)})
		first[i] = value[string](t, n, names[i], `1`)
	}
	used := free - availableMB(t)
	var worst time.Duration
	for i, name := range names {
		begun := time.Now()
		if again := value[string](t, n, name, `2`); again != first[i] {
			t.Errorf("the environment of %s did not live", name)
		}
		worst = max(worst, time.Since(begun))
	}
	t.Logf("%d environments took %d MB, %.1f MB each; the slowest answered in %v", count, used, float64(used)/float64(count), worst)
}

// availableMB is the memory that this machine could give to programs.
func availableMB(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb >> 10
}
