package runtime

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// askTimeout bounds how long an interpreter may take to say what it is.
const askTimeout = 5 * time.Second

// Options say where to look for interpreters.
type Options struct {
	// Path are directories to search for interpreters after /usr/bin and /usr/local/bin; those that are not absolute are left
	// out. Version managers' shims are followed to the interpreters behind them.
	Path []string
	// Prefixes adds runtimes by hand: a runtime identifier and the prefix of its interpreter, whose program is below bin. They
	// take the place of what is found.
	Prefixes map[string]string
}

// oldest are the versions before which our bootstraps do not run.
const (
	oldestPython = 8
	oldestNode   = 16
)

// Find returns the runtimes that this machine has. Custom runtimes it always has, since their functions bring their own. The error
// is about a prefix given by hand; what is found by itself and turns out not to work is left out.
func Find(ctx context.Context, o Options) (*Set, error) {
	s := &Set{runtimes: make(map[string]*Runtime)}
	for _, id := range []string{"provided.al2", "provided.al2023"} {
		s.add(&Runtime{ID: id})
	}
	for id, prefix := range o.Prefixes {
		r, err := byHand(ctx, id, prefix)
		if err != nil {
			return nil, fmt.Errorf("runtime %s at %s: %w", id, prefix, err)
		}
		s.add(r)
	}
	for _, dir := range append([]string{"/usr/bin", "/usr/local/bin"}, o.Path...) {
		for _, d := range behindShims(dir) {
			for _, r := range inDirectory(ctx, d) {
				s.add(r)
			}
		}
	}
	return s, nil
}

// behindShims returns the directories of the interpreters that a version manager's shims stand for (pyenv keeps them below
// versions, asdf and mise below installs), or dir itself if it holds no shims.
func behindShims(dir string) []string {
	if !filepath.IsAbs(dir) {
		return nil // what lies where a node happens to be started must not run as root
	}
	if filepath.Base(dir) != "shims" {
		return []string{dir}
	}
	var dirs []string
	for _, pattern := range []string{"versions/*/bin", "installs/*/*/bin"} {
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), pattern)) // the pattern is well formed
		dirs = append(dirs, found...)
	}
	return dirs
}

func byHand(ctx context.Context, id, prefix string) (*Runtime, error) {
	for _, r := range inDirectory(ctx, filepath.Join(prefix, "bin")) {
		if r.ID == id {
			return r, nil
		}
	}
	return nil, fmt.Errorf("no interpreter below %s", filepath.Join(prefix, "bin"))
}

var pythonName = regexp.MustCompile(`^python3\.(\d+)$`)

// inDirectory returns the runtimes whose interpreters are in dir, or behind a shim there.
func inDirectory(ctx context.Context, dir string) []*Runtime {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // a directory of PATH need not exist
	}
	var found []*Runtime
	for _, e := range entries {
		var r *Runtime
		switch path := filepath.Join(dir, e.Name()); {
		case pythonName.MatchString(e.Name()):
			r = pythonAt(ctx, path)
		case e.Name() == "node":
			r = nodeAt(ctx, path)
		}
		if r != nil {
			found = append(found, r)
		}
	}
	return found
}

// pythonAt returns the Python runtime whose interpreter, or a shim of it, is at path, or nil.
func pythonAt(ctx context.Context, path string) *Runtime {
	if !isExecutable(path) {
		answer, err := ask(ctx, path, "-I", "-c", "import sys; print(sys.base_prefix + '/bin/python3.%d' % sys.version_info[1])")
		if err != nil || !isExecutable(answer) {
			return nil
		}
		path = answer
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	m := pythonName.FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return nil
	}
	minor, err := strconv.Atoi(m[1])
	prefix := prefixOf(path)
	library := filepath.Join(prefix, "lib", filepath.Base(path), "os.py")
	if _, statErr := os.Stat(library); err != nil || minor < oldestPython || statErr != nil {
		return nil
	}
	return &Runtime{ID: filepath.Base(path), prefix: prefix, interpreter: path, rank: minor}
}

// nodeAt returns the Node.js runtime whose program, or a shim of it, is at path, or nil.
func nodeAt(ctx context.Context, path string) *Runtime {
	answer, err := ask(ctx, path, "-p", "process.execPath + '\\n' + process.versions.node.split('.')[0]")
	if err != nil {
		return nil
	}
	program, number, _ := strings.Cut(answer, "\n")
	major, err := strconv.Atoi(number)
	prefix := prefixOf(program)
	if err != nil || major < oldestNode || !isExecutable(program) || !holdsNode(prefix) {
		return nil
	}
	return &Runtime{ID: fmt.Sprintf("nodejs%d.x", major), prefix: prefix, interpreter: program, rank: major}
}

// holdsNode reports whether prefix is an installation of Node.js and not a directory, such as somebody's home, that has a
// program in its bin: functions can read all of a prefix.
func holdsNode(prefix string) bool {
	if prefix == "/usr" || strings.HasPrefix(prefix, "/usr/") {
		return true
	}
	_, err := os.Stat(filepath.Join(prefix, "include", "node", "node_version.h"))
	return err == nil
}

// prefixOf is the directory above bin.
func prefixOf(program string) string { return filepath.Dir(filepath.Dir(program)) }

// ask runs an interpreter and returns what it prints.
func ask(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a shim's children may keep its output open
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// isExecutable reports whether path is a program in machine code, not a script.
func isExecutable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = f.Read(magic)
	return err == nil && bytes.Equal(magic, []byte("\x7fELF"))
}

// Set is the runtimes of a machine. It does not change.
type Set struct {
	runtimes map[string]*Runtime
}

// add keeps what was there first.
func (s *Set) add(r *Runtime) {
	if _, ok := s.runtimes[r.ID]; !ok {
		s.runtimes[r.ID] = r
	}
}

// Lookup returns the runtime with that identifier.
func (s *Set) Lookup(id string) (*Runtime, bool) {
	r, ok := s.runtimes[id]
	return r, ok
}

// IDs returns the identifiers, families together and the newest of each last.
func (s *Set) IDs() []string {
	ids := make([]string, 0, len(s.runtimes))
	for id := range s.runtimes {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		if c := strings.Compare(family(a), family(b)); c != 0 {
			return c
		}
		if c := s.runtimes[a].rank - s.runtimes[b].rank; c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return ids
}

func family(id string) string { return strings.TrimRight(id, "0123456789.x") }
