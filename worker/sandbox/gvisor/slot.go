package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount carries out a request of that kind and returns what went wrong, "" if nothing did.
func (l *launcher) mount(m message) string {
	l.mu.Lock()
	defer l.mu.Unlock() // so that a sandbox that ends is not cleared away meanwhile
	life := l.lives[m.ID]
	if life == nil || life.slot == "" {
		return "there is no such sandbox"
	}
	target := filepath.Join(life.slot, m.Name)
	if err := os.Mkdir(target, 0o755); err != nil {
		return err.Error()
	}
	if err := bindReadOnly(m.Source, target); err != nil {
		return fmt.Sprintf("mount %s at %s: %v", m.Source, target, err)
	}
	return ""
}

// bindReadOnly mounts a directory at another. The mount is read-only before it can be seen, so that nothing can ever be deleted
// through it.
func bindReadOnly(source, target string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		return fmt.Errorf("make read-only: %w", err)
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// clearAway removes the files of a sandbox that has ended. Mounts go first: what lies below them is not its own.
func clearAway(place layout) error {
	names, err := os.ReadDir(place.slot)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, name := range names {
		target := filepath.Join(place.slot, name.Name())
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
			return fmt.Errorf("unmount %s: %w", target, err) // EINVAL: nothing is mounted there
		}
	}
	return errors.Join(os.RemoveAll(place.tmp), os.RemoveAll(place.state))
}
