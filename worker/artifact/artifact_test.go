package artifact

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"kiln"
	"kiln/blob"
	"kiln/blob/blobtest"
)

const alice, bob kiln.AccountID = "111111111111", "222222222222"

// archive makes a package whose file "name" says name and whose file "fill" has size bytes.
func archive(t testing.TB, name string, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for file, content := range map[string]string{"name": name, "fill": strings.Repeat("f", size)} {
		f, err := w.Create(file)
		if err == nil {
			_, err = f.Write([]byte(content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func put(t testing.TB, blobs blob.Store, a kiln.AccountID, content []byte) kiln.Code {
	t.Helper()
	d, err := blobs.Put(t.Context(), a, content)
	if err != nil {
		t.Fatal(err)
	}
	return kiln.Code{Digest: d, Size: int64(len(content))}
}

func openCache(t testing.TB, dir string, blobs blob.Store, maxBytes int64) *Cache {
	t.Helper()
	c, err := Open(dir, blobs, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func acquire(t testing.TB, c *Cache, a kiln.AccountID, code kiln.Code) (string, func()) {
	t.Helper()
	dir, release, err := c.Acquire(t.Context(), a, code)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	return dir, release
}

func wantTree(t testing.TB, dir, name string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(b) != name {
		t.Errorf("tree says %q, error %v, want %q", b, err, name)
	}
}

// counting counts what is opened, and holds it until gate is closed, if there is one.
type counting struct {
	blob.Store
	opened atomic.Int32
	gate   chan struct{}
}

func (c *counting) Open(ctx context.Context, a kiln.AccountID, d kiln.Digest) (blob.Reader, error) {
	c.opened.Add(1)
	if c.gate != nil {
		<-c.gate
	}
	return c.Store.Open(ctx, a, d)
}

func TestPackageIsUnpackedOnceForAllWhoWait(t *testing.T) {
	blobs := &counting{Store: blobtest.NewMemory(), gate: make(chan struct{})}
	code := put(t, blobs, alice, archive(t, "x", 10))
	c := openCache(t, t.TempDir(), blobs, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error)
	go func() {
		_, _, err := c.Acquire(ctx, alice, code)
		impatient <- err
	}()
	cancel()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			dir, release, err := c.Acquire(t.Context(), alice, code)
			if err != nil {
				t.Errorf("acquire: %v", err)
				return
			}
			defer release()
			wantTree(t, dir, "x")
		})
	}
	close(blobs.gate)
	wg.Wait()
	if n := blobs.opened.Load(); n != 1 {
		t.Errorf("opened %d times", n)
	}
}

func TestAccountsDoNotShareTrees(t *testing.T) {
	blobs := blobtest.NewMemory()
	content := archive(t, "x", 10)
	code := put(t, blobs, alice, content)
	c := openCache(t, t.TempDir(), blobs, 1<<20)
	mine, release := acquire(t, c, alice, code)
	defer release()
	if _, _, err := c.Acquire(t.Context(), bob, code); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("another account's package: got %v, want ErrNotFound", err)
	}
	put(t, blobs, bob, content)
	theirs, release := acquire(t, c, bob, code)
	defer release()
	if mine == theirs {
		t.Errorf("both have %s", mine)
	}
}

func TestLeastRecentlyUsedIdleTreeIsEvicted(t *testing.T) {
	blobs := &counting{Store: blobtest.NewMemory()}
	const size = 100 << 10
	c := openCache(t, t.TempDir(), blobs, 3*(size+3*perFile))
	var codes []kiln.Code
	for i := range 4 {
		codes = append(codes, put(t, blobs, alice, archive(t, fmt.Sprint(i), size)))
	}
	held, release := acquire(t, c, alice, codes[0])
	for _, i := range []int{1, 2, 1, 3} { // 2 is the least recently used then, but for 0, which is in use.
		_, release := acquire(t, c, alice, codes[i])
		release()
		release() // A second call must not count.
	}
	wantTree(t, held, "0")
	before := blobs.opened.Load()
	for _, i := range []int{0, 1, 3} {
		_, release := acquire(t, c, alice, codes[i])
		release()
	}
	if n := blobs.opened.Load() - before; n != 0 {
		t.Errorf("%d trees were evicted that should be there", n)
	}
	dir, again := acquire(t, c, alice, codes[2])
	wantTree(t, dir, "2")
	if n := blobs.opened.Load() - before; n != 1 {
		t.Errorf("the least recently used tree was unpacked %d times more", n)
	}
	again()
	release()
}

func TestTheNumberOfIdleTreesIsBounded(t *testing.T) {
	blobs := &counting{Store: blobtest.NewMemory()}
	c := openCache(t, t.TempDir(), blobs, 1<<30)
	c.maxIdle = 2
	var codes []kiln.Code
	for i := range 4 {
		codes = append(codes, put(t, blobs, alice, archive(t, fmt.Sprint(i), 1)))
	}
	for _, i := range []int{0, 1, 2, 3, 3, 2, 0} {
		_, release := acquire(t, c, alice, codes[i])
		release()
	}
	if n := blobs.opened.Load(); n != 5 {
		t.Errorf("unpacked %d times, want each of four and one that was evicted again", n)
	}
}

func TestTreesInUseStayWhateverTheirSize(t *testing.T) {
	blobs := blobtest.NewMemory()
	dir := t.TempDir()
	c := openCache(t, dir, blobs, 0)
	var held []string
	var releases []func()
	for i := range 5 {
		tree, release := acquire(t, c, alice, put(t, blobs, alice, archive(t, fmt.Sprint(i), 1000)))
		held, releases = append(held, tree), append(releases, release)
	}
	for i, tree := range held {
		wantTree(t, tree, fmt.Sprint(i))
	}
	for _, release := range releases {
		release()
	}
	if err := c.Close(); err != nil { // Waits for the deletions.
		t.Fatal(err)
	}
	for _, tree := range held {
		if _, err := os.Stat(tree); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", tree, err)
		}
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left, error %v", left, err)
	}
}

// lying returns other content than asked for.
type lying struct {
	blob.Store
	content []byte
}

func (l lying) Open(context.Context, kiln.AccountID, kiln.Digest) (blob.Reader, error) {
	return memoryReader{bytes.NewReader(l.content)}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

func TestDamagedPackageIsInvalidAndTriedAgain(t *testing.T) {
	good := archive(t, "x", 10)
	flipped := bytes.Clone(good)
	flipped[40] ^= 1
	tests := map[string]struct{ stored, read []byte }{
		"other bytes":   {good, flipped},
		"other size":    {good, good[:len(good)-1]},
		"stored no zip": {[]byte("no zip"), []byte("no zip")},
	}
	for name, tt := range tests {
		blobs := &lying{Store: blobtest.NewMemory(), content: tt.read}
		code := put(t, blobs, alice, tt.stored)
		c := openCache(t, t.TempDir(), blobs, 1<<20)
		for range 2 {
			if _, _, err := c.Acquire(t.Context(), alice, code); kiln.KindOf(err) != kiln.InvalidZipFile {
				t.Errorf("%s: got %v, want InvalidZipFile", name, err)
			}
		}
		if left, err := os.ReadDir(c.dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %v is left, error %v", name, left, err)
		}
		if blobs.content = tt.stored; name != "stored no zip" {
			_, release := acquire(t, c, alice, code)
			release()
		}
	}
}

func TestOpenSweepsWhatFormerProcessesLeft(t *testing.T) {
	dir := t.TempDir()
	blobs := blobtest.NewMemory()
	code := put(t, blobs, alice, archive(t, "x", 10))
	former := openCache(t, dir, blobs, 1<<20)
	old, _ := acquire(t, former, alice, code)
	if err := os.MkdirAll(filepath.Join(former.dir, ".unpacking-1", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir, blobs, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	tree, release := acquire(t, c, alice, code)
	defer release()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, tree, "x")
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the former tree is still there: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left, error %v", left, err)
	}
}

func TestClosedCacheRefuses(t *testing.T) {
	blobs := blobtest.NewMemory()
	code := put(t, blobs, alice, archive(t, "x", 10))
	c, err := Open(t.TempDir(), blobs, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	tree, release := acquire(t, c, alice, code)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, tree, "x")
	release()
	if _, _, err := c.Acquire(t.Context(), alice, code); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestNamesThatAreNoneAreRefused(t *testing.T) {
	c := openCache(t, t.TempDir(), blobtest.NewMemory(), 1<<20)
	good := kiln.DigestOf(nil)
	for _, n := range []name{{"..", good}, {alice, "../../etc"}, {"", good}, {alice, ""}} {
		if _, _, err := c.Acquire(t.Context(), n.account, kiln.Code{Digest: n.digest}); err == nil {
			t.Errorf("%q is not refused", n)
		}
	}
}

// TestTreesAreWholeWhileOthersAreEvicted has many users of more packages than there is room for.
func TestTreesAreWholeWhileOthersAreEvicted(t *testing.T) {
	blobs := blobtest.NewMemory()
	c := openCache(t, t.TempDir(), blobs, 3*(1000+3*perFile))
	var codes []kiln.Code
	for i := range 8 {
		codes = append(codes, put(t, blobs, alice, archive(t, fmt.Sprint(i), 1000)))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 60 {
				i := rand.IntN(len(codes))
				dir, release, err := c.Acquire(t.Context(), alice, codes[i])
				if err != nil {
					t.Errorf("acquire: %v", err)
					return
				}
				wantTree(t, dir, fmt.Sprint(i))
				release()
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes > c.maxBytes || len(c.trees) != c.idle.Len() || c.evictions == 0 {
		t.Errorf("%d bytes, %d trees, %d idle, %d evictions", c.bytes, len(c.trees), c.idle.Len(), c.evictions)
	}
}

func TestMountBelow(t *testing.T) {
	const mounts = "22 1 254:0 / / rw - ext4 /dev/vda rw\n" +
		"30 22 0:25 / /data/cache rw - tmpfs tmpfs rw\n" +
		"31 30 0:26 / /data/cache/run-1/a\\040b rw,nosuid - tmpfs tmpfs rw\n" +
		"32 30 0:26 / /data/cached rw - tmpfs tmpfs rw\n\n"
	for dir, want := range map[string]string{
		"/data/cache":          "/data/cache/run-1/a b",
		"/data/cache/run-1":    "/data/cache/run-1/a b",
		"/data/cache/run-1/a":  "",
		"/data/cached":         "",
		"/data":                "/data/cache",
		"/data/cache/run-10":   "",
		"/":                    "/",
		"/somewhere/else/here": "",
	} {
		if got := mountBelow(mounts, dir); got != want {
			t.Errorf("below %s: got %q, want %q", dir, got, want)
		}
	}
}
