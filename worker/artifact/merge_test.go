package artifact

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kiln"
	"kiln/blob"
	"kiln/blob/blobtest"
)

// layerOf stores a layer with the files given as "name" or "name=content"; a name that ends in a slash is a directory, and a
// content that begins with "->" a symbolic link's target.
func layerOf(t testing.TB, blobs blob.Store, a kiln.AccountID, files ...string) kiln.Layer {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, file := range files {
		name, content, _ := strings.Cut(file, "=")
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(0o755)
		if target, ok := strings.CutPrefix(content, "->"); ok {
			h.SetMode(fs.ModeSymlink | 0o777)
			content = target
		} else if strings.HasSuffix(name, "/") {
			h.SetMode(fs.ModeDir | 0o755)
		}
		f, err := w.CreateHeader(h)
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
	return kiln.Layer{Account: a, Code: put(t, blobs, a, b.Bytes())}
}

func acquireLayers(t testing.TB, c *Cache, layers ...kiln.Layer) (string, func()) {
	t.Helper()
	dir, release, err := c.AcquireLayers(t.Context(), layers)
	if err != nil {
		t.Fatalf("acquire layers: %v", err)
	}
	return dir, release
}

// listing is what is below dir, in the form that layerOf takes.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, dir+"/")
		switch {
		case err != nil || path == dir:
			return err
		case d.IsDir():
			found = append(found, name+"/")
			return nil
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			found = append(found, name+"=->"+target)
			return err
		}
		content, err := os.ReadFile(path)
		found = append(found, name+"="+string(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func inodeOf(t testing.TB, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestLaterLayersLieOverEarlierOnes(t *testing.T) {
	for name, tt := range map[string]struct{ first, second, want []string }{
		"beside one another":  {[]string{"a=1"}, []string{"b=2"}, []string{"a=1", "b=2"}},
		"the same file":       {[]string{"d/a=1", "d/b=1"}, []string{"d/a=2"}, []string{"d/", "d/a=2", "d/b=1"}},
		"an empty directory":  {[]string{"d/a=1"}, []string{"d/"}, []string{"d/", "d/a=1"}},
		"file over directory": {[]string{"d/a=1", "d/e/b=1", "da=1"}, []string{"d=2"}, []string{"d=2", "da=1"}},
		"directory over file": {[]string{"d=1"}, []string{"d/a=2"}, []string{"d/", "d/a=2"}},
		"link over directory": {[]string{"d/a=1", "e=1"}, []string{"d=->e"}, []string{"d=->e", "e=1"}},
		// Nothing is written through a link of an earlier layer.
		"directory over link": {[]string{"d=->e", "e/a=1"}, []string{"d/a=2"}, []string{"d/", "d/a=2", "e/", "e/a=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			blobs := blobtest.NewMemory()
			c := openCache(t, t.TempDir(), blobs, 1<<20)
			first, second := layerOf(t, blobs, alice, tt.first...), layerOf(t, blobs, alice, tt.second...)
			dir, release := acquireLayers(t, c, first, second)
			defer release()
			if got := listing(t, dir); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			one, release := acquireLayers(t, c, first)
			defer release()
			if got := slices.DeleteFunc(listing(t, one), func(f string) bool { return strings.HasSuffix(f, "/") }); !slices.Equal(got, slices.Sorted(slices.Values(tt.first))) {
				t.Errorf("the first layer by itself has become %v", got)
			}
		})
	}
}

func TestAFileOfALayerIsOnceOnDiskInAllListsOfLayers(t *testing.T) {
	blobs := &counting{Store: blobtest.NewMemory()}
	c := openCache(t, t.TempDir(), blobs, 1<<20)
	shared, own, other := layerOf(t, blobs, alice, "lib/big=1"), layerOf(t, blobs, bob, "bob=2"), layerOf(t, blobs, bob, "other=3")
	inodes := map[uint64]bool{}
	dirs := map[string]bool{}
	for _, layers := range [][]kiln.Layer{{shared}, {shared, own}, {own, shared}, {shared, other, own}} {
		for range 2 {
			dir, release := acquireLayers(t, c, layers...)
			defer release()
			dirs[dir] = true
			inodes[inodeOf(t, filepath.Join(dir, "lib", "big"))] = true
		}
	}
	if len(inodes) != 1 || len(dirs) != 4 || blobs.opened.Load() != 3 {
		t.Errorf("the file has the inodes %v in %d trees, and %d layers were unpacked", slices.Collect(maps.Keys(inodes)), len(dirs), blobs.opened.Load())
	}
}

func TestFunctionsWithoutLayersHaveNoDirectory(t *testing.T) {
	c := openCache(t, t.TempDir(), blobtest.NewMemory(), 1<<20)
	dir, release := acquireLayers(t, c)
	release()
	if dir != "" {
		t.Errorf("got %s", dir)
	}
}

func TestAMergedTreeKeepsItsLayersFromBeingEvicted(t *testing.T) {
	blobs := &counting{Store: blobtest.NewMemory()}
	c := openCache(t, t.TempDir(), blobs, 0)
	a, b := layerOf(t, blobs, alice, "a=1"), layerOf(t, blobs, alice, "b=1")
	dir, release := acquireLayers(t, c, a, b)
	again, releaseOne := acquireLayers(t, c, a)
	if inodeOf(t, filepath.Join(dir, "a")) != inodeOf(t, filepath.Join(again, "a")) || blobs.opened.Load() != 2 {
		t.Errorf("a layer that a merged tree is of was unpacked anew")
	}
	releaseOne()
	release()
	if err := c.Close(); err != nil { // Waits for the deletions.
		t.Fatal(err)
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) != 0 || c.bytes != 0 {
		t.Errorf("%v is left and %d bytes, error %v", left, c.bytes, err)
	}
}

func TestLayersThatCannotBeMergedLeaveNothing(t *testing.T) {
	blobs := blobtest.NewMemory()
	c := openCache(t, t.TempDir(), blobs, 0)
	good := layerOf(t, blobs, alice, "a=1")
	for name, bad := range map[string]kiln.Layer{
		"no zip":    {Account: alice, Code: put(t, blobs, alice, []byte("no zip"))},
		"no blob":   {Account: alice, Code: kiln.Code{Digest: kiln.DigestOf([]byte("x")), Size: 1}},
		"no name":   {Account: "..", Code: good.Code},
		"no digest": {Account: alice, Code: kiln.Code{Digest: "../../etc"}},
	} {
		for range 2 {
			if _, _, err := c.AcquireLayers(t.Context(), []kiln.Layer{good, bad}); err == nil {
				t.Errorf("%s: merged", name)
			} else if name == "no zip" && kiln.KindOf(err) != kiln.InvalidZipFile {
				t.Errorf("%s: got %v, want InvalidZipFile", name, err)
			}
		}
	}
	_, release := acquireLayers(t, c, good)
	release() // The last reference, if the others were given back.
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) != 0 || len(c.trees) != 0 {
		t.Errorf("%v and %d trees are left, error %v", left, len(c.trees), err)
	}
	if _, _, err := c.AcquireLayers(t.Context(), []kiln.Layer{good, good}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// TestMergedTreesAreWholeWhileOthersAreEvicted has many users of more lists of layers than there is room for.
func TestMergedTreesAreWholeWhileOthersAreEvicted(t *testing.T) {
	blobs := blobtest.NewMemory()
	c := openCache(t, t.TempDir(), blobs, 2*perFile)
	var layers []kiln.Layer
	for i := range 4 {
		layers = append(layers, layerOf(t, blobs, alice, fmt.Sprintf("d/%d=%d", i, i), fmt.Sprintf("last=%d", i)))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 60 {
				i, j := rand.IntN(len(layers)), rand.IntN(len(layers)-1)
				if j >= i {
					j++
				}
				dir, release, err := c.AcquireLayers(t.Context(), []kiln.Layer{layers[i], layers[j]})
				if err != nil {
					t.Errorf("acquire layers: %v", err)
					return
				}
				want := []string{"d/", fmt.Sprintf("d/%d=%d", min(i, j), min(i, j)), fmt.Sprintf("d/%d=%d", max(i, j), max(i, j)), fmt.Sprintf("last=%d", j)}
				if got := listing(t, dir); !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				release()
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes > c.maxBytes || c.evictions == 0 {
		t.Errorf("%d bytes, %d evictions", c.bytes, c.evictions)
	}
	for _, tree := range c.trees {
		holders := 0
		for _, other := range c.trees {
			if slices.Contains(other.parts, tree) {
				holders++
			}
		}
		if tree.refs != holders || (tree.element == nil) != (holders > 0) {
			t.Errorf("%s has %d references and is part of %d trees", tree.path, tree.refs, holders)
		}
	}
}

func BenchmarkMergeTwoLayersOf5000Files(b *testing.B) {
	blobs := blobtest.NewMemory()
	files := [2][]string{}
	for i := range 10_000 {
		files[i%2] = append(files[i%2], fmt.Sprintf("python/package%d/module%d.py=%s", i/100, i, strings.Repeat("x", 1000)))
	}
	layers := []kiln.Layer{layerOf(b, blobs, alice, files[0]...), layerOf(b, blobs, alice, files[1]...)}
	dir := b.TempDir()
	c := openCache(b, dir, blobs, 1<<30)
	var trees []string
	for _, l := range layers {
		tree, release := acquireLayers(b, c, l)
		defer release()
		trees = append(trees, tree)
	}
	for i := 0; b.Loop(); i++ {
		if _, err := link(filepath.Join(dir, fmt.Sprint(i)), trees); err != nil {
			b.Fatal(err)
		}
	}
}
