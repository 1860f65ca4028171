package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kiln/kilntest"
)

// process is one process of a sandbox, as the host sees it.
type process struct {
	pid  int
	kind kind
	args []string
	// status are the lines of /proc/PID/status, by their name.
	status map[string]string
	// groups are its control groups, by controller; the one of version 2 has no name.
	groups map[string]string
}

// kind is what a process is for.
type kind string

const (
	// sentry is the guest's kernel, gofer the process that opened its files for it.
	sentry kind = "sentry"
	gofer  kind = "gofer"
	// stub runs the code of one process of the guest, under the sentry's eyes.
	stub kind = "stub"
)

// processesOf finds the processes of all sandboxes of a node.
func processesOf(t testing.TB, n *kilntest.Node) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == n.Pid() || !n.IsAncestor(pid) {
			continue
		}
		if p, ok := readProcess(pid); ok {
			found = append(found, p)
		}
	}
	return found
}

// readProcess reports false for the launcher and for a process that has ended.
func readProcess(pid int) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	p := process{pid: pid, args: strings.Split(hostFile(filepath.Join(dir, "cmdline")), "\x00"), status: map[string]string{}, groups: map[string]string{}}
	for line := range strings.Lines(hostFile(filepath.Join(dir, "status"))) {
		name, value, _ := strings.Cut(line, ":")
		p.status[name] = strings.Join(strings.Fields(value), " ")
	}
	for line := range strings.Lines(hostFile(filepath.Join(dir, "cgroup"))) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			p.groups[parts[1]] = parts[2]
		}
	}
	switch {
	case p.args[0] == "kiln-launcher" || len(p.status) == 0:
		return p, false
	case p.args[0] == "runsc-gofer":
		p.kind = gofer
	case isLeader(p):
		p.kind = sentry
	default:
		p.kind = stub
	}
	return p, true
}

// isLeader reports whether a process was executed as the guest's kernel. Those that it forks have its command line too.
func isLeader(p process) bool {
	parent, err := strconv.Atoi(p.status["PPid"])
	return err == nil && p.args[0] == "runsc-sandbox" && !strings.HasPrefix(hostFile(fmt.Sprintf("/proc/%d/cmdline", parent)), "runsc-sandbox")
}

// ofKind are the processes of one kind.
func ofKind(all []process, k kind) []process {
	return slices.DeleteFunc(slices.Clone(all), func(p process) bool { return p.kind != k })
}

// groupDirs are the directories of the control groups of processes: those that show a controller's figures, of version 1, or all, of
// version 2.
func groupDirs(all []process, controller string) []string {
	var dirs []string
	for _, p := range all {
		path, ok := p.groups[controller]
		dir := filepath.Join("/sys/fs/cgroup", controller, path)
		if !ok {
			path = p.groups[""]
			dir = filepath.Join("/sys/fs/cgroup", path)
		}
		if strings.HasPrefix(path, "/kiln/") { // what is being started is not there yet
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
