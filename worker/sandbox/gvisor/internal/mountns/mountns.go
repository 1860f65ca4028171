// Package mountns gives a process mounts of its own, which end with it, however it ends.
package mountns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside is the name that a process has once it is in its own namespace. It is longer than "kiln" so that no user gives it by chance.
const inside = "kiln (own mounts)"

// Enter moves the process into a mount namespace of its own. It must be called before the process has done anything else, because it
// executes the binary again with the same arguments and environment, and returns nil there. What the host mounts later still appears,
// what is mounted here does not appear on the host, but does in namespaces that are made from this one. It needs root.
func Enter() error {
	if os.Args[0] == inside {
		os.Args[0] = "kiln"
		return nil
	}
	// A namespace belongs to one thread. The process that this thread becomes has all of its threads in it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate mounts from the host's: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts with children: %w", err)
	}
	args := append([]string{inside}, os.Args[1:]...)
	return fmt.Errorf("execute again: %w", unix.Exec("/proc/self/exe", args, os.Environ()))
}
