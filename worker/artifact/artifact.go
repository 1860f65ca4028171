// Package artifact keeps deployment packages and layers unpacked on a worker's disk for the environments that run them.
package artifact

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"kiln"
	"kiln/blob"
	"kiln/internal/safezip"
)

// ErrClosed is returned by Acquire after Close.
var ErrClosed = errors.New("artifact cache is closed")

// maxIdle bounds the number of trees that nobody has acquired. A layer's file has a link for every tree that was merged from it,
// and ext4 allows 65,000.
const maxIdle = 10_000

// openTimeout bounds the wait for the blob store. Unpacking itself is bounded by safezip's limits.
const openTimeout = 30 * time.Second

// Cache holds one tree for each account and package: accounts do not share a tree even where the content is the same, but for a
// layer, which is its owner's whoever uses it. It is safe for concurrent use.
//
// Layers that are used together have a tree of their own, merged from theirs by hard links: each file is once on disk and once in
// the page cache, however many lists of layers it is part of.
//
// A tree is whole or not there, and is not changed once it is there; who mounts it must mount it read-only. The trees of former
// processes are never used: they are not synced, so that a power cut may have left holes in them.
type Cache struct {
	blobs    blob.Store
	maxBytes int64
	maxIdle  int
	// dir belongs to this process and holds the trees.
	dir string
	// unpacking has room for as many unpackings at a time as there are processors to do them.
	unpacking chan struct{}
	// work counts unpackings and deletions under way.
	work sync.WaitGroup

	mu     sync.Mutex
	closed bool           // +checklocks:mu
	trees  map[name]*tree // +checklocks:mu
	// idle holds the trees that nobody has, the least recently used first.
	idle *list.List // +checklocks:mu
	// bytes is the size of all trees that are unpacked.
	bytes int64 // +checklocks:mu
	// evictions numbers what was evicted.
	evictions int // +checklocks:mu
	// failed is the first error of a deletion.
	failed error // +checklocks:mu
}

// name is that of a package, or of a list of layers, which has the account merged and the digest of the list.
type name struct {
	account kiln.AccountID
	digest  kiln.Digest
}

// tree is an unpacked package or several merged, or what is about to become that.
type tree struct {
	name
	path string
	// parts are the trees that this one was merged from. It holds a reference to each: a part that was evicted and unpacked anew
	// would share no file with it.
	parts []*tree
	// ready is closed when err and bytes are set.
	ready chan struct{}
	err   error
	bytes int64
	// refs and element are guarded by Cache.mu. element is the place in Cache.idle, nil while refs is not 0.
	refs    int
	element *list.Element
}

// Open makes a cache in dir, which belongs to it alone, and removes what former processes have left there, in the background.
// maxBytes bounds the trees that nobody has acquired: those in use stay, whatever their size. Close it after use.
func Open(dir string, blobs blob.Store, maxBytes int64) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make artifact cache: %w", err)
	}
	left, err := leftovers(dir)
	if err != nil {
		return nil, err
	}
	own, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return nil, fmt.Errorf("make artifact cache: %w", err)
	}
	c := &Cache{
		blobs:     blobs,
		maxBytes:  maxBytes,
		maxIdle:   maxIdle,
		dir:       own,
		unpacking: make(chan struct{}, runtime.GOMAXPROCS(0)),
		trees:     make(map[name]*tree),
		idle:      list.New(),
	}
	c.work.Go(func() {
		for _, path := range left {
			c.remove(path)
		}
	})
	return c, nil
}

// leftovers returns what is in dir. It is an error if something is mounted there: to delete it would delete what is mounted.
func leftovers(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, fmt.Errorf("find artifact cache: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	if mount := mountBelow(string(mounts), real); mount != "" {
		return nil, fmt.Errorf("sweep artifact cache: %s is a mount point, unmount it first", mount)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("sweep artifact cache: %w", err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, filepath.Join(dir, e.Name()))
	}
	return left, nil
}

// Acquire returns the directory of the unpacked package, which stays as it is until release is called; calling it again does
// nothing. The first caller for a package has it unpacked and others wait for that, each as long as its ctx lets it. A stored
// package that is damaged, or that cannot be unpacked, is a *kiln.Error of kind InvalidZipFile.
func (c *Cache) Acquire(ctx context.Context, a kiln.AccountID, code kiln.Code) (dir string, release func(), err error) {
	if err := errors.Join(ctx.Err(), blob.Validate(a, code.Digest)); err != nil {
		return "", nil, err
	}
	return c.acquire(ctx, name{a, code.Digest}, func(ctx context.Context, t *tree) error { return c.unpack(ctx, t, code.Size) })
}

// AcquireLayers returns the directory of the layers merged, later ones over earlier ones, as Acquire does of one package. Without
// layers it is "".
func (c *Cache) AcquireLayers(ctx context.Context, layers []kiln.Layer) (dir string, release func(), err error) {
	switch len(layers) {
	case 0:
		return "", func() {}, nil
	case 1:
		return c.Acquire(ctx, layers[0].Account, layers[0].Code)
	}
	return c.acquire(ctx, nameOf(layers), func(ctx context.Context, t *tree) error { return c.merge(ctx, t, layers) })
}

// acquire returns the directory of a tree, which fill makes if it is not there. fill sets what the tree takes, in bytes.
func (c *Cache) acquire(ctx context.Context, n name, fill func(context.Context, *tree) error) (dir string, release func(), err error) {
	t, err := c.reference(ctx, n, fill)
	if err != nil {
		return "", nil, err
	}
	release = sync.OnceFunc(func() { c.release(t) })
	if err := t.wait(ctx); err != nil {
		release()
		return "", nil, err
	}
	return t.path, release, nil
}

// wait returns when t is there, or why it is not.
func (t *tree) wait(ctx context.Context) error {
	select {
	case <-t.ready:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reference returns the tree with one more reference, and starts to make it if it is not there.
func (c *Cache) reference(ctx context.Context, n name, fill func(context.Context, *tree) error) (*tree, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	t := c.trees[n]
	if t == nil {
		t = &tree{name: n, path: filepath.Join(c.dir, string(n.account)+"-"+string(n.digest)), ready: make(chan struct{})}
		c.trees[n] = t
		t.refs = 1 // The filling's own, so that no tree is idle before it is ready.
		c.work.Go(func() { c.fill(context.WithoutCancel(ctx), t, fill) })
	}
	t.refs++
	if t.element != nil {
		c.idle.Remove(t.element)
		t.element = nil
	}
	return t, nil
}

// fill makes t and tells who waits. A tree that could not be made is forgotten, so that the next caller tries again.
func (c *Cache) fill(ctx context.Context, t *tree, fill func(context.Context, *tree) error) {
	t.err = fill(ctx, t)
	c.mu.Lock()
	if t.err != nil {
		delete(c.trees, t.name)
		c.releaseParts(t)
	} else {
		c.bytes += t.bytes
	}
	c.mu.Unlock()
	c.release(t)
	close(t.ready)
}

func (c *Cache) unpack(ctx context.Context, t *tree, size int64) error {
	c.unpacking <- struct{}{}
	defer func() { <-c.unpacking }()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	r, err := c.blobs.Open(ctx, t.account, t.digest)
	if err != nil {
		return fmt.Errorf("open deployment package: %w", err)
	}
	defer r.Close()
	if r.Size() != size {
		return invalid(fmt.Errorf("%w: %s has %d bytes, want %d", blob.ErrCorrupt, t.digest, r.Size(), size))
	}
	if err := blob.Verify(r, t.digest); err != nil {
		return invalid(err)
	}
	s, err := safezip.Extract(r, size, t.path, safezip.Limits{Bytes: kiln.MaxUnzipped})
	t.bytes = s.Bytes + perFile*int64(s.Files)
	return invalid(err)
}

// perFile is what a file takes on disk beyond its content: half a block and an inode.
const perFile = 4 << 10

// invalid makes an error that is the package's fault what the caller of the function sees.
func invalid(err error) error {
	for _, fault := range []error{blob.ErrCorrupt, safezip.ErrFormat, safezip.ErrUnsafe, safezip.ErrTooLarge} {
		if errors.Is(err, fault) {
			return &kiln.Error{
				Kind:    kiln.InvalidZipFile,
				Message: "Lambda could not unzip the deployment package.",
				Cause:   err,
			}
		}
	}
	return err
}

// release gives a reference back. The last one makes the tree idle.
func (c *Cache) release(t *tree) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unreference(t)
	if !c.closed {
		c.evict()
	}
}

// +checklocks:c.mu
func (c *Cache) unreference(t *tree) {
	t.refs--
	if t.refs > 0 || c.trees[t.name] != t {
		return
	}
	t.element = c.idle.PushBack(t)
}

// releaseParts gives back what t holds, which is gone.
//
// +checklocks:c.mu
func (c *Cache) releaseParts(t *tree) {
	for _, p := range t.parts {
		c.unreference(p)
	}
	t.parts = nil
}

// evict deletes idle trees, the least recently used first, until the rest is small enough. A tree gets another name while the
// lock is held, so that its package can be unpacked anew while the old tree is being deleted.
//
// +checklocks:c.mu
func (c *Cache) evict() {
	for c.idle.Len() > 0 && (c.bytes > c.maxBytes || c.idle.Len() > c.maxIdle) {
		t := c.idle.Remove(c.idle.Front()).(*tree)
		delete(c.trees, t.name)
		c.releaseParts(t)
		c.bytes -= t.bytes
		c.evictions++
		evicted := filepath.Join(c.dir, fmt.Sprintf("evicted-%d", c.evictions))
		if err := os.Rename(t.path, evicted); err != nil {
			c.fail(err)
			continue
		}
		c.work.Go(func() { c.remove(evicted) })
	}
}

// remove deletes a tree that nobody can have.
func (c *Cache) remove(path string) {
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.fail(err)
	}
}

// +checklocks:c.mu
func (c *Cache) fail(err error) {
	if c.failed == nil {
		c.failed = fmt.Errorf("delete unpacked package: %w", err)
	}
}

// Close waits for what is under way. It returns the first error of a deletion; what is left then is swept by the next Open, as
// is every tree, since environments that still run may use theirs.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.work.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}
