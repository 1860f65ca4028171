package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"kiln"
)

// ErrCorrupt is returned by Verify for an object that is not what was stored.
var ErrCorrupt = errors.New("object is corrupt")

// ErrFull is returned by Dir's Put when the object would not leave enough of the disk free.
var ErrFull = errors.New("disk is full")

// Verify reads all of r and returns an error that wraps ErrCorrupt unless its digest is d. Stores do not verify what they open.
func Verify(r Reader, d kiln.Digest) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, r.Size())); err != nil {
		return fmt.Errorf("read object %s: %w", d, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != string(d) {
		return fmt.Errorf("%w: %s has digest %s", ErrCorrupt, d, got)
	}
	return nil
}

// Validate returns an error unless a and d have the form of an account and of a digest, which is safe as part of a path.
func Validate(a kiln.AccountID, d kiln.Digest) error {
	if err := validateAccount(a); err != nil {
		return err
	}
	if len(d) != 2*sha256.Size || !consistsOf(string(d), "0123456789abcdef") {
		return fmt.Errorf("%.80q is no digest", d)
	}
	return nil
}

func validateAccount(a kiln.AccountID) error {
	if len(a) != 12 || !consistsOf(string(a), "0123456789") {
		return fmt.Errorf("%.80q is no account", a)
	}
	return nil
}

func consistsOf(s, set string) bool {
	return strings.Trim(s, set) == ""
}

// Dir is a Store of files: ACCOUNT/XX/DIGEST, where XX are the first two digits of the digest. A file appears under its name
// when it is whole and on disk.
type Dir struct {
	path string
	// available returns how many bytes of the disk are free.
	available func() (uint64, error)

	mu sync.Mutex
	// writing is the size of all objects that are being written.
	writing uint64 // +checklocks:mu
}

// reserveBytes of the disk stay free of objects. It is as much as the catalog keeps free for itself, so that code does not take
// what deletions need.
const reserveBytes = 64 << 20

// tempDir holds files that are being written. It is no account, so nothing in it is taken for an object.
const tempDir = "tmp"

// Open opens the store under dir, makes it if there is none, and removes what a process that died has left half written.
// Only one process may have a directory open.
func Open(dir string) (*Dir, error) {
	temp := filepath.Join(dir, tempDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make object store: %w", err)
	}
	if err := os.RemoveAll(temp); err != nil {
		return nil, fmt.Errorf("sweep object store: %w", err)
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		return nil, fmt.Errorf("make object store: %w", err)
	}
	return &Dir{path: dir, available: func() (uint64, error) { return freeBytes(dir) }}, nil
}

// Attach returns the store under dir for reading, while another process has it open.
func Attach(dir string) *Dir {
	return &Dir{path: dir, available: func() (uint64, error) { return 0, nil }} // nothing may be put
}

// freeBytes returns what an unprivileged process may still write to the disk below dir.
func freeBytes(dir string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}

func (s *Dir) account(a kiln.AccountID) string { return filepath.Join(s.path, string(a)) }

func (s *Dir) shard(a kiln.AccountID, d kiln.Digest) string {
	return filepath.Join(s.account(a), string(d[:2]))
}

func (s *Dir) file(a kiln.AccountID, d kiln.Digest) string {
	return filepath.Join(s.shard(a, d), string(d))
}

// Put implements Store. An object that is there but damaged is replaced. One that is not there is refused with an error that
// wraps ErrFull if it would leave less than 64 MiB of the disk free.
func (s *Dir) Put(ctx context.Context, a kiln.AccountID, content []byte) (kiln.Digest, error) {
	if err := errors.Join(ctx.Err(), validateAccount(a)); err != nil {
		return "", err
	}
	d := kiln.DigestOf(content)
	same, err := s.holds(a, d, content)
	if err == nil && !same {
		err = s.write(s.file(a, d), content)
	}
	if err != nil {
		return "", fmt.Errorf("store object %s: %w", d, err)
	}
	// Also for what was there: whoever put it may not have come to this yet.
	for _, dir := range []string{s.shard(a, d), s.account(a), s.path} {
		if err := syncDir(dir); err != nil {
			// Whether the name is on disk is unknown, and a second sync would not tell: the next Put starts anew.
			return "", errors.Join(fmt.Errorf("store object %s: %w", d, err), os.Remove(s.file(a, d)))
		}
	}
	return d, nil
}

// holds tells whether the object is stored with this content.
func (s *Dir) holds(a kiln.AccountID, d kiln.Digest, content []byte) (bool, error) {
	f, err := os.Open(s.file(a, d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.Read(buffer)
		if !bytes.HasPrefix(content, buffer[:n]) {
			return false, nil
		}
		content = content[n:]
		if err != nil {
			return err == io.EOF && len(content) == 0, nil // What cannot be read is replaced.
		}
	}
}

// reserve takes size bytes of what is free on the disk, until release.
func (s *Dir) reserve(size uint64) error {
	writing := s.take(size)
	// Read after size was taken, so that nobody's bytes are missing in both. Those that are on the disk already are in both, which
	// errs on the safe side.
	free, err := s.available()
	switch {
	case err != nil:
		err = fmt.Errorf("read free space of disk: %w", err)
	case free < reserveBytes+writing:
		err = fmt.Errorf("%w: %d MB left, %d MB are kept free", ErrFull, free>>20, reserveBytes>>20)
	default:
		return nil
	}
	s.release(size)
	return err
}

// take returns the size of all that is being written, with size.
func (s *Dir) take(size uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing += size
	return s.writing
}

func (s *Dir) release(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing -= size
}

// write makes the file with content, so that it is whole and on disk before it has its name.
func (s *Dir) write(name string, content []byte) (err error) {
	size := uint64(len(content))
	if err := s.reserve(size); err != nil {
		return err
	}
	defer s.release(size)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.path, tempDir), "") // With mode 0600.
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open implements Store.
func (s *Dir) Open(ctx context.Context, a kiln.AccountID, d kiln.Digest) (Reader, error) {
	if err := errors.Join(ctx.Err(), Validate(a, d)); err != nil {
		return nil, err
	}
	f, err := os.Open(s.file(a, d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open object %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open object: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open object: %w", err), f.Close())
	}
	return object{f, info.Size()}, nil
}

type object struct {
	*os.File
	size int64
}

func (o object) Size() int64 { return o.size }

// Delete implements Store. It does not wait until the deletion is on disk.
func (s *Dir) Delete(ctx context.Context, a kiln.AccountID, d kiln.Digest) error {
	if err := errors.Join(ctx.Err(), Validate(a, d)); err != nil {
		return err
	}
	if err := os.Remove(s.file(a, d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete object: %w", err)
	}
	return nil
}

// List implements Store, in the order of accounts and digests. Files that are no objects are passed over.
func (s *Dir) List(ctx context.Context, fn func(kiln.AccountID, kiln.Digest) error) error {
	accounts, err := os.ReadDir(s.path)
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	for _, entry := range accounts {
		a := kiln.AccountID(entry.Name())
		if validateAccount(a) != nil {
			continue
		}
		if err := s.listAccount(ctx, a, fn); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *Dir) listAccount(ctx context.Context, a kiln.AccountID, fn func(kiln.AccountID, kiln.Digest) error) error {
	shards, err := os.ReadDir(s.account(a))
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	for _, shard := range shards {
		files, err := os.ReadDir(filepath.Join(s.account(a), shard.Name()))
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			d := kiln.Digest(f.Name())
			if Validate(a, d) != nil {
				continue
			}
			if err := fn(a, d); err != nil {
				return err
			}
		}
	}
	return nil
}
