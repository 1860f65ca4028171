package sandboxtest

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Counter counts what the engines of one or more processes do, which share it.
type Counter struct {
	// Started is how many sandboxes were started, and Invoked how many invocations have ended.
	Started, Invoked atomic.Int64
	// Running is how many invocations run, and Most how many have at a time.
	Running, Most atomic.Int64
}

// OpenCounter returns the counter in the file at path, which it makes if there is none. It stays mapped for as long as the process lives.
func OpenCounter(path string) (*Counter, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open counter: %w", err)
	}
	defer f.Close()
	size := int(unsafe.Sizeof(Counter{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, fmt.Errorf("open counter: %w", err)
	}
	shared, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map counter: %w", err)
	}
	return (*Counter)(unsafe.Pointer(unsafe.SliceData(shared))), nil
}

func (c *Counter) enter() {
	n := c.Running.Add(1)
	for most := c.Most.Load(); n > most && !c.Most.CompareAndSwap(most, n); most = c.Most.Load() {
	}
}

func (c *Counter) leave() {
	c.Running.Add(-1)
	c.Invoked.Add(1)
}
