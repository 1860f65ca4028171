package blob

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"kiln"
)

const account kiln.AccountID = "111111111111"

func openWithFree(t *testing.T, free *uint64) (*Dir, string) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.available = func() (uint64, error) { return *free, nil }
	return s, dir
}

func TestFullDiskRefusesObjectsUntilThereIsSpace(t *testing.T) {
	free := uint64(reserveBytes + 3)
	s, dir := openWithFree(t, &free)
	if _, err := s.Put(t.Context(), account, []byte("four")); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	if _, err := os.Stat(filepath.Join(dir, string(account))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused object has left something: %v", err)
	}
	for range 2 { // What a refused or finished object had reserved is free again.
		free = reserveBytes + 4
		if _, err := s.Put(t.Context(), account, []byte("four")); err != nil {
			t.Fatalf("with enough space: %v", err)
		}
		free = 0
		if _, err := s.Put(t.Context(), account, []byte("four")); err != nil {
			t.Errorf("what is stored takes no space: %v", err)
		}
		if err := s.Delete(t.Context(), account, kiln.DigestOf([]byte("four"))); err != nil {
			t.Errorf("delete on a full disk: %v", err)
		}
	}
}

func TestObjectsThatAreWrittenTogetherDoNotShareSpace(t *testing.T) {
	free := uint64(reserveBytes + 10)
	s, _ := openWithFree(t, &free)
	if err := s.reserve(6); err != nil {
		t.Fatal(err)
	}
	if err := s.reserve(6); !errors.Is(err, ErrFull) {
		t.Errorf("12 bytes of 10: got %v, want ErrFull", err)
	}
	s.release(6)
	if err := s.reserve(10); err != nil {
		t.Errorf("all that is left: %v", err)
	}
}

func TestFreeSpaceOfADiskIsRead(t *testing.T) {
	if free, err := freeBytes(t.TempDir()); err != nil || free == 0 {
		t.Errorf("got %d, error %v", free, err)
	}
	s, dir := openWithFree(t, new(uint64))
	s.available = func() (uint64, error) { return freeBytes(filepath.Join(dir, "none")) }
	if _, err := s.Put(t.Context(), account, []byte("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unreadable free space: got %v, want ErrNotExist", err)
	}
}
