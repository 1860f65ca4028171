package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kiln"
	"kiln/blob"
	"kiln/internal/safezip"
)

// merged takes the place of an account in the name of a list of layers. No account is called so.
const merged kiln.AccountID = "merged"

// nameOf is the name of the tree of a list of layers.
func nameOf(layers []kiln.Layer) name {
	var list strings.Builder
	for _, l := range layers {
		fmt.Fprintln(&list, l.Account, l.Code.Digest)
	}
	return name{merged, kiln.DigestOf([]byte(list.String()))}
}

// merge makes t of the trees of layers, which it unpacks where they are not there.
func (c *Cache) merge(ctx context.Context, t *tree, layers []kiln.Layer) error {
	for _, l := range layers {
		if err := blob.Validate(l.Account, l.Code.Digest); err != nil {
			return err
		}
		part, err := c.reference(ctx, name{l.Account, l.Code.Digest}, func(ctx context.Context, t *tree) error { return c.unpack(ctx, t, l.Code.Size) })
		if err != nil {
			return err
		}
		t.parts = append(t.parts, part)
	}
	var dirs []string
	for _, p := range t.parts {
		if err := p.wait(ctx); err != nil {
			return err
		}
		dirs = append(dirs, p.path)
	}
	// Only then, since the parts need their turns before this one has an end.
	c.unpacking <- struct{}{}
	defer func() { <-c.unpacking }()
	entries, err := link(t.path, dirs)
	t.bytes = perLink * int64(entries)
	return err
}

// perLink is what an entry of a merged tree takes on disk: a directory its block and inode, a link its name.
const perLink = 1 << 10

// link makes the tree dir of hard links to the files of trees, and returns how many entries it has. Of entries of one name the last
// tree's counts, but directories become one. The tree appears when it is whole; until then, and after an error, there is nothing.
func link(dir string, trees []string) (entries int, err error) {
	temp, err := os.MkdirTemp(filepath.Dir(dir), safezip.TempPrefix)
	if err != nil {
		return 0, fmt.Errorf("make directory to merge to: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := os.Chmod(temp, 0o755); err != nil {
		return 0, fmt.Errorf("set mode of directory: %w", err)
	}
	for _, t := range slices.Backward(trees) {
		n, err := lay(t, temp)
		if err != nil {
			return 0, fmt.Errorf("merge layers: %w", err)
		}
		entries += n
	}
	if err := os.Rename(temp, dir); err != nil {
		return 0, fmt.Errorf("put merged layers in place: %w", err)
	}
	return entries, nil
}

// lay links what is below from into dir where nothing has its name yet, and returns how many entries it has made. It follows no
// link: what it goes into are directories in both.
func lay(from, dir string) (made int, err error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())
		isNew, err := place(e, source, target)
		if err != nil {
			return 0, err
		}
		if isNew {
			made++
		}
		if !e.IsDir() || !isNew && !isDir(target) {
			continue
		}
		n, err := lay(source, target)
		if err != nil {
			return 0, err
		}
		made += n
	}
	return made, nil
}

// place makes a directory like source, or a link to it, which of a symbolic link is another of the same. It returns false if the
// name is taken.
func place(e fs.DirEntry, source, target string) (bool, error) {
	if !e.IsDir() {
		err := os.Link(source, target)
		if errors.Is(err, fs.ErrExist) {
			return false, nil
		}
		return true, err
	}
	err := os.Mkdir(target, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.Chmod(target, 0o755) // whatever the umask
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}
