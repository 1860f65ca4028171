// Package pebblestore keeps what must be durable on one machine in an embedded Pebble database.
//
// # What a commit promises
//
// A change is seen by no reader and no watcher before it is on disk, and it is seen by all of them before its Commit returns.
// One goroutine, the committer, decides every commit: it takes whatever is waiting, checks each request against what is stored
// and against the requests before it in the group, hides the records that it is about to write behind what they were, writes one
// batch with one synced write, and only then, in one step, shows them to readers and puts them on the feed that watchers follow.
// So the order of revisions, of the log on disk, and of what watchers see is the order of the committer; and writers that come
// while the disk is busy share the next sync.
//
// # When the disk fails
//
// After a failed sync nobody knows what is on the disk, and a second try that succeeds proves nothing. The first failure
// therefore closes the database to writing until the process starts anew: see disk.
package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"kiln/catalog"
)

// Errors of a database that callers can tell apart.
var (
	// ErrLocked is returned by Open when another process, or another DB of this one, has the directory open.
	ErrLocked = errors.New("data directory is in use by another process")
	// ErrCorrupt is returned when stored bytes are not what was written.
	ErrCorrupt = errors.New("stored data is corrupt")
	// ErrFull is returned by commits while the disk has less space left than Options.ReserveBytes, with catalog.ErrRefused.
	ErrFull = errors.New("disk is full")
	// ErrFailed is returned by commits once a write to the disk has failed. Reads go on; writing needs a restart.
	ErrFailed = errors.New("disk failed, restart to recover")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("database is closed")
)

// Options tune a DB. The zero value suits a node with some ten thousand functions.
type Options struct {
	// Logger gets Pebble's own messages; nil discards them.
	Logger *slog.Logger
	// CacheBytes is the size of the cache of blocks read from disk, 8 MiB if 0.
	CacheBytes int64
	// MemTableBytes is how much is kept in memory before it is written out as a sorted file, 4 MiB if 0. Up to two of them
	// exist at a time.
	MemTableBytes uint64
	// ReserveBytes is the free space on the disk below which commits are refused, 64 MiB if 0. It is what flushes and
	// compactions of what has been committed run on. Commits that only delete are refused below half of it.
	ReserveBytes uint64

	// fs is the file system below the database, the machine's if nil.
	fs vfs.FS
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 8 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 4 << 20
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 64 << 20
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	return o
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	pebble  *pebble.DB
	disk    *disk
	lock    dirLock
	catalog *records
	// committer is the goroutine that decides the catalog's commits.
	committer sync.WaitGroup
}

// Open opens the database in dir and makes it if there is none. It returns an error that wraps ErrLocked or ErrCorrupt in those
// cases. Close it after use.
func Open(dir string, o Options) (_ *DB, err error) {
	o = o.withDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	d := &DB{lock: lock, disk: newDisk(o.fs)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.abandon())
		}
	}()
	var db *pebble.DB // Not d.pebble: when the disk fails, the function may go on behind run's back.
	err = d.disk.run(func() (err error) {
		db, err = pebble.Open(dir, pebbleOptions(o, d.disk))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", dir, asCorrupt(err))
	}
	d.pebble = db
	if err := d.checkFormat(); err != nil {
		return nil, err
	}
	space := func() (uint64, error) {
		u, err := o.fs.GetDiskUsage(dir)
		return u.AvailBytes, err
	}
	if d.catalog, err = openRecords(d.pebble, d.disk, reserve{bytes: o.ReserveBytes, available: space}); err != nil {
		return nil, err
	}
	d.committer.Go(d.catalog.run)
	return d, nil
}

func pebbleOptions(o Options, d *disk) *pebble.Options {
	l := &pebbleLog{log: o.Logger, disk: d}
	return &pebble.Options{
		FS:                 d,
		CacheSize:          o.CacheBytes,
		MemTableSize:       o.MemTableBytes,
		FormatMajorVersion: pebble.FormatNewest, // With sync offsets in the log, by which damage is told from a torn end.
		Logger:             l,
		EventListener:      &pebble.EventListener{BackgroundError: l.backgroundError, DataCorruption: l.corruption},
	}
}

// Catalog returns the catalog's records. They can be used until Close.
func (d *DB) Catalog() catalog.Store { return d.catalog }

// Failed is closed when the disk has failed and commits are refused with ErrFailed.
func (d *DB) Failed() <-chan struct{} { return d.disk.failed }

// Close waits for running calls, which end with ErrClosed if they wait for something, and closes the database. A database whose
// disk failed returns that error; it stays locked until the process ends, since Pebble cannot be ended in that state.
// Close must be called once.
func (d *DB) Close() error {
	close(d.catalog.quit)
	d.committer.Wait()
	d.catalog.close()
	return d.abandon()
}

// abandon closes what is open of the database itself. What a failed disk has left unfinished keeps the lock.
func (d *DB) abandon() error {
	if err := d.disk.failure(); err != nil {
		return err
	}
	if d.pebble != nil {
		if err := d.disk.run(d.pebble.Close); err != nil {
			return fmt.Errorf("close database: %w", err)
		}
	}
	return d.lock.Close()
}

// The format of the whole database, under formatKey.
const (
	formatKey     = "format"
	formatVersion = "1"
)

// checkFormat refuses a database that another version of kiln wrote, and marks a new one.
func (d *DB) checkFormat() error {
	value, err := getBytes(d.pebble, []byte(formatKey))
	if err != nil {
		return fmt.Errorf("read format of database: %w", err)
	}
	switch string(value) {
	case formatVersion:
		return nil
	case "":
		set := func() error { return d.pebble.Set([]byte(formatKey), []byte(formatVersion), pebble.Sync) }
		return d.disk.run(set)
	default:
		return fmt.Errorf("database has format %.20q, this version of kiln reads format %s only", value, formatVersion)
	}
}

// dirLock is the file descriptor that holds the lock of a directory. It is no *os.File, whose finalizer would give the lock of
// a forgotten database back.
type dirLock int

func (l dirLock) Close() error { return syscall.Close(int(l)) }

// lockDir takes the lock of dir, which the kernel gives back when the process ends in whatever way.
func lockDir(dir string) (dirLock, error) {
	const mode = syscall.O_RDWR | syscall.O_CREAT | syscall.O_CLOEXEC
	fd, err := syscall.Open(filepath.Join(dir, "lock"), mode, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open lock of data directory %s: %w", dir, err)
	}
	err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("lock data directory %s: %w", dir, err), syscall.Close(fd))
	}
	return dirLock(fd), nil
}

// getBytes returns a copy of the value under key, nil if there is none.
func getBytes(r pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, asCorrupt(err)
	}
	own := append([]byte{}, value...)
	return own, closer.Close()
}

// asCorrupt makes Pebble's corruption errors ErrCorrupt.
func asCorrupt(err error) error {
	if err != nil && pebble.IsCorruptionError(err) && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}
