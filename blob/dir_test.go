package blob_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"kiln"
	"kiln/blob"
	"kiln/blob/blobtest"
)

const account kiln.AccountID = "111111111111"

func openDir(t *testing.T, dir string) *blob.Dir {
	t.Helper()
	s, err := blob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s blob.Store, content string) kiln.Digest {
	t.Helper()
	d, err := s.Put(t.Context(), account, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// verify returns what Verify says of a stored object.
func verify(t *testing.T, s blob.Store, d kiln.Digest) error {
	t.Helper()
	r, err := s.Open(t.Context(), account, d)
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(blob.Verify(r, d), r.Close())
}

func TestDirIsAStore(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return openDir(t, filepath.Join(t.TempDir(), "blobs")) })
}

func TestReopenedDirHasItsObjectsAndNoLeftovers(t *testing.T) {
	dir := t.TempDir()
	d := put(t, openDir(t, dir), "x")
	left := filepath.Join(dir, "tmp", "12345")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, openDir(t, dir), d); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("leftover is still there: %v", err)
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "blobs")
	put(t, openDir(t, dir), "x")
	files := 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.ModeDir | 0o700
		if !d.IsDir() {
			want = 0o600
			files++
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
		return nil
	})
	if err != nil || files != 1 {
		t.Errorf("%d files, error %v", files, err)
	}
}

func TestDamageIsFoundByVerifyAndMendedByPut(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	for _, damaged := range []string{"y", "", "xx"} {
		d := put(t, s, "x")
		name := filepath.Join(dir, string(account), string(d[:2]), string(d))
		if err := os.WriteFile(name, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := verify(t, s, d); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("damaged to %q: got %v, want ErrCorrupt", damaged, err)
		}
		put(t, s, "x")
		if err := verify(t, s, d); err != nil {
			t.Errorf("after a second put: %v", err)
		}
	}
}

func TestFailedPutLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	d := kiln.DigestOf([]byte("x"))
	// A directory in the object's place: it can be neither read nor replaced.
	name := filepath.Join(dir, string(account), string(d[:2]), string(d))
	if err := os.MkdirAll(filepath.Join(name, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(context.Background(), account, []byte("x")); err == nil {
		t.Fatal("put succeeded")
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("%v is left, error %v", left, err)
	}
}
