package safezip

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Extract unpacks the archive of size bytes in r to dir, which must not exist while its parent must. Directories get mode 0755,
// files 0644, or 0755 if the archive has them executable for anybody, whatever the umask. The tree appears under dir when it is
// whole; until then, and after an error, there is nothing. It is not synced. A process that dies may leave a directory beside
// dir whose name begins with TempPrefix.
func Extract(r io.ReaderAt, size int64, dir string, l Limits) (_ Summary, err error) {
	a, err := open(r, size, l)
	if err != nil {
		return Summary{}, err
	}
	switch _, err := os.Lstat(dir); {
	case err == nil:
		return Summary{}, fmt.Errorf("unpack to %s: %w", dir, fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return Summary{}, fmt.Errorf("look for unpacked tree: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), TempPrefix)
	if err != nil {
		return Summary{}, fmt.Errorf("make directory to unpack to: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := a.extractTo(temp); err != nil {
		return Summary{}, err
	}
	if err := os.Rename(temp, dir); err != nil {
		return Summary{}, fmt.Errorf("put unpacked tree in place: %w", err)
	}
	return a.summary(), nil
}

// TempPrefix is how the names of trees begin that are not whole.
const TempPrefix = ".unpacking-"

func (a *archive) extractTo(dir string) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open directory to unpack to: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := a.makeDirs(root); err != nil {
		return err
	}
	for _, e := range a.files {
		if err := a.extractFile(root, e); err != nil {
			return err
		}
	}
	// Last, so that nothing was written through one.
	for _, e := range a.links {
		if err := root.Symlink(e.target, e.name); err != nil {
			return fmt.Errorf("make symbolic link: %w", err)
		}
	}
	return nil
}

func (a *archive) makeDirs(root *os.Root) error {
	dirs := []string{"."}
	for name, n := range a.tree {
		if n.kind == fs.ModeDir {
			dirs = append(dirs, name)
		}
	}
	slices.Sort(dirs[1:]) // Parents first: a name sorts behind its own beginning.
	for _, name := range dirs {
		if name != "." {
			if err := root.Mkdir(name, 0o755); err != nil {
				return fmt.Errorf("make directory: %w", err)
			}
		}
		if err := root.Chmod(name, 0o755); err != nil {
			return fmt.Errorf("set mode of directory: %w", err)
		}
	}
	return nil
}

func (a *archive) extractFile(root *os.Root, e entry) (err error) {
	mode := fs.FileMode(0o644)
	if e.Mode()&0o111 != 0 {
		mode = 0o755
	}
	f, err := root.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(mode); err != nil {
		return fmt.Errorf("set mode of file: %w", err)
	}
	return a.inflate(f, e)
}
