package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir is where the kilns of a machine agree on what they change together.
const runDir = "/run/kiln"

// lockMachine holds up every other kiln of this machine that chooses addresses or changes what interfaces forward, until the file is
// closed. The file itself stays, empty: who removed it would let in somebody else beside those who wait for it.
func lockMachine() (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("lock the machine's network: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(runDir, "network.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the machine's network: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the machine's network: %w", err), f.Close())
	}
	return f, nil
}

// claim makes an interface forward for as long as any kiln of this machine holds a claim on it. A file remembers that it did not before;
// every holder has a lock on it that ends with its process, so that the last one that is left undoes it, also after others were killed.
type claim struct {
	name string
	file *os.File
}

// claimForwarding lets an interface forward. The machine must be locked. It returns nil if the interface forwards by itself.
func claimForwarding(name string) (*claim, error) {
	path := claimPath(name)
	_, err := os.Lstat(path)
	ours := err == nil
	if !ours {
		forwards, err := readForwarding(name)
		if err != nil || forwards {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim interface %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return nil, errors.Join(fmt.Errorf("claim interface %s: %w", name, err), f.Close())
	}
	c := &claim{name, f}
	if err := setForwarding(name, true); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

// release gives the claim up. The machine must be locked. If it was the last one the interface forwards no longer.
func (c *claim) release() error {
	defer c.file.Close()
	err := unix.Flock(int(c.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // another kiln needs it
	}
	if err != nil {
		return fmt.Errorf("release interface %s: %w", c.name, err)
	}
	// Who turned it on for all interfaces meanwhile, as Docker does, goes on needing it.
	everywhere, err := readForwarding("all")
	if err == nil && !everywhere {
		err = setForwarding(c.name, false)
	}
	return errors.Join(err, os.Remove(claimPath(c.name)))
}

// releaseOrphans undoes the claims that killed kilns left. The machine must be locked.
func releaseOrphans() error {
	paths, err := filepath.Glob(claimPath("*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("release what a killed kiln left: %w", err))
			continue
		}
		c := &claim{strings.TrimPrefix(filepath.Base(path), claimPrefix()), f}
		errs = append(errs, c.release())
	}
	return errors.Join(errs...)
}

// claimPrefix begins the names of the claims on interfaces of the network namespace that this process is in.
func claimPrefix() string {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "forwarding-" // it fails without /proc, and then nothing can be claimed either
	}
	return fmt.Sprintf("forwarding-%d-", st.Ino)
}

func claimPath(name string) string { return filepath.Join(runDir, claimPrefix()+name) }

func forwardingPath(name string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", name, "forwarding")
}

func readForwarding(name string) (bool, error) {
	text, err := os.ReadFile(forwardingPath(name))
	if err != nil {
		return false, fmt.Errorf("ask whether interface %s forwards: %w", name, err)
	}
	return strings.TrimSpace(string(text)) == "1", nil
}

// setForwarding says whether an interface forwards what comes in. An interface that is gone forwards nothing.
func setForwarding(name string, forwards bool) error {
	value := "0"
	if forwards {
		value = "1"
	}
	err := writeSetting(forwardingPath(name), value)
	if !forwards && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeSetting writes one of the kernel's settings of the network namespace that the thread is in.
func writeSetting(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", path, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}
