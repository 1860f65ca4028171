package mountns_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox/gvisor/internal/mountns"
)

func TestMain(m *testing.M) {
	if os.Getuid() == 0 {
		if err := mountns.Enter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func TestMountsAreNotTheHosts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(dir, "here"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The parent process stayed where it was.
	outside := filepath.Join(fmt.Sprintf("/proc/%d/root", os.Getppid()), dir)
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Fatalf("outside there are %v (%v), want nothing", entries, err)
	}
	mine, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	// Every thread is inside, so it does not matter which one works.
	threads, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads found: %v", err)
	}
	for _, thread := range threads {
		if ns, err := os.Readlink(thread); err == nil && ns != mine {
			t.Errorf("%s is %s, want %s", thread, ns, mine)
		}
	}
}
