package pebblestore

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is a file system that stops for good at the first failure that leaves it unknown what is stored: a failed sync, or a
// failed write to the log or the manifest. After that it changes nothing on the disk any more.
//
// Pebble has no way back from such an error: it ends the process through Logger.Fatalf, or it panics below locks that it can
// then not release. A function's invocation needs no store, so the process must live on. Therefore a goroutine that meets the
// failure never returns into Pebble; it parks until the process ends. Who depends on it waits with run. Parked goroutines hold
// at most Pebble's locks for writing, never the one that readers need, so what was durable can still be read.
type disk struct {
	vfs.FS
	once sync.Once
	// failed is closed at the first failure.
	failed chan struct{}
	// err is set before failed is closed.
	err error
}

func newDisk(fs vfs.FS) *disk { return &disk{FS: fs, failed: make(chan struct{})} }

// run returns what f returns, or the disk's failure if that comes first: f may then never end.
func (d *disk) run(f func() error) error {
	if err := d.failure(); err != nil {
		return err
	}
	done := make(chan error, 1) // One slot, so that an f that outlives run can end.
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-d.failed:
		return d.err
	}
}

// fail records the first failure.
func (d *disk) fail(err error) {
	d.once.Do(func() {
		d.err = fmt.Errorf("%w: %w", ErrFailed, err)
		close(d.failed)
	})
}

// failure returns the error of a failed disk.
func (d *disk) failure() error {
	select {
	case <-d.failed:
		return d.err
	default:
		return nil
	}
}

// begin does not return on a failed disk.
func (d *disk) begin() {
	select {
	case <-d.failed:
		select {}
	default:
	}
}

// end returns err, which came of op on the file name. If the state of the disk is unknown by it, end does not return.
func (d *disk) end(fatal bool, op, name string, err error) error {
	if err == nil || !fatal {
		return err
	}
	d.fail(fmt.Errorf("%s %s: %w", op, filepath.Base(name), err))
	select {}
}

// critical tells whether Pebble cannot do without the file.
func critical(name string) bool {
	base := filepath.Base(name)
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST-")
}

func (d *disk) wrap(name string, f vfs.File) vfs.File {
	return &diskFile{File: f, disk: d, name: name, critical: critical(name)}
}

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	d.begin()
	f, err := d.FS.Create(name, c)
	if err != nil {
		return nil, d.end(critical(name), "create", name, err)
	}
	return d.wrap(name, f), nil
}

func (d *disk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	d.begin()
	f, err := d.FS.ReuseForWrite(old, name, c)
	if err != nil {
		return nil, d.end(critical(name), "create", name, err)
	}
	return d.wrap(name, f), nil
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	d.begin()
	f, err := d.FS.OpenReadWrite(name, c, o...)
	if err != nil {
		return nil, d.end(critical(name), "open", name, err)
	}
	return d.wrap(name, f), nil
}

// OpenDir opens a directory to sync it.
func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return d.wrap(name, f), nil
}

func (d *disk) Link(old, name string) error {
	d.begin()
	return d.FS.Link(old, name)
}

func (d *disk) Rename(old, name string) error {
	d.begin()
	return d.FS.Rename(old, name)
}

// Remove does nothing on a failed disk, so that no file goes whose replacement may not be stored.
func (d *disk) Remove(name string) error {
	d.begin()
	return d.FS.Remove(name)
}

// RemoveAll is refused: Pebble calls it for its command line only.
func (d *disk) RemoveAll(string) error { return errors.ErrUnsupported }

func (d *disk) Unwrap() vfs.FS { return d.FS }

type diskFile struct {
	vfs.File
	disk     *disk
	name     string
	critical bool
}

func (f *diskFile) Write(p []byte) (int, error) {
	f.disk.begin()
	n, err := f.File.Write(p)
	return n, f.disk.end(f.critical, "write", f.name, err)
}

func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.begin()
	n, err := f.File.WriteAt(p, at)
	return n, f.disk.end(f.critical, "write", f.name, err)
}

func (f *diskFile) Sync() error {
	f.disk.begin()
	return f.disk.end(true, "sync", f.name, f.File.Sync())
}

func (f *diskFile) SyncData() error {
	f.disk.begin()
	return f.disk.end(true, "sync", f.name, f.File.SyncData())
}

func (f *diskFile) SyncTo(length int64) (bool, error) {
	f.disk.begin()
	full, err := f.File.SyncTo(length)
	return full, f.disk.end(true, "sync", f.name, err)
}
