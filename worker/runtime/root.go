package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kiln/worker/network"
	"kiln/worker/sandbox"
)

// hostDirs are what sandboxes show of the host, read-only: programs and libraries. Where the host has a link (usr-merged
// distributions link /bin to usr/bin), the sandbox has the same link.
var hostDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// hostEtc are the parts of /etc that programs from hostDirs need. Nothing else of /etc is shown.
var hostEtc = []string{"/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl/certs", "/etc/pki", "/etc/ca-certificates"}

// etc are the files of /etc that are the same on every machine.
var etc = map[string]string{
	"passwd":        fmt.Sprintf("root:x:0:0:root:/root:/sbin/nologin\nsbx_user1051:x:%d:%d::/home/sbx_user1051:/sbin/nologin\n", functionUID, functionGID),
	"group":         fmt.Sprintf("root:x:0:\nsbx_user1051:x:%d:\n", functionGID),
	"hosts":         "127.0.0.1 localhost sandbox.localdomain sandbox\n::1 localhost\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	// The resolver of those sandboxes that have a network.
	"resolv.conf": "nameserver " + network.ResolverAddr.String() + "\n",
	"hostname":    "sandbox\n",
}

// emptyDirs are mount targets and places that programs expect. The dynamic linker never again looks for the directories of
// LD_LIBRARY_PATH that it does not find at the start of a process: so they are there before a function's are mounted over them.
var emptyDirs = []string{
	"proc", "dev", "tmp", "sys", "var/task/lib", "var/lib", "opt/lib", "root", "home/sbx_user1051", "run", "mnt/slot",
}

// Root is a directory that sandboxes show as their root: mount targets, a few files of /etc, the guest and the bootstraps.
type Root struct {
	dir    string
	shared []sandbox.Mount
}

// BuildRoot makes a root in dir for the runtimes of s, in place of what an earlier start left there. guest is the guest's
// program, bootstraps the files of /var/runtime.
func BuildRoot(dir string, s *Set, guest []byte, bootstraps fs.FS) (*Root, error) {
	r := &Root{dir: dir}
	// Nothing is ever mounted below dir itself: sandboxes mount in their own view of it.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear root: %w", err)
	}
	steps := []func() error{
		r.addDirs,
		func() error { return r.addFiles(guest) },
		func() error { return os.CopyFS(filepath.Join(dir, runtimeDir), bootstraps) },
		r.addHost,
		func() error { return r.addPrefixes(s) },
		r.makeReadable,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("build root: %w", err)
		}
	}
	return r, nil
}

func (r *Root) addDirs() error {
	for _, d := range append(emptyDirs, "etc", runtimeDir) {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (r *Root) addFiles(guest []byte) error {
	for name, content := range etc {
		if err := os.WriteFile(filepath.Join(r.dir, "etc", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(r.dir, guestPath), guest, 0o755)
}

func (r *Root) addHost() error {
	for _, path := range append(hostDirs, hostEtc...) {
		err := r.show(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// show makes a path of the host appear at the same place.
func (r *Root) show(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	target := filepath.Join(r.dir, path)
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(link, target)
	case st.IsDir():
		err = os.MkdirAll(target, 0o755)
	default:
		err = os.WriteFile(target, nil, 0o644)
	}
	r.shared = append(r.shared, sandbox.Mount{Source: path, Target: path})
	return err
}

func (r *Root) addPrefixes(s *Set) error {
	for _, rt := range s.runtimes {
		if rt.prefix == "" || r.shows(rt.prefix) {
			continue
		}
		if err := os.MkdirAll(filepath.Join(r.dir, rt.prefix), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// makeReadable undoes what the umask took: functions' processes are other users than the one who builds.
func (r *Root) makeReadable() error {
	return filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o755)
		case !d.Type().IsRegular():
			return nil
		case path == filepath.Join(r.dir, guestPath):
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}

// shows reports whether path of the host is visible in every sandbox of this root.
func (r *Root) shows(path string) bool {
	for _, m := range r.shared {
		if path == m.Source || strings.HasPrefix(path, m.Source+"/") {
			return true
		}
	}
	return false
}
