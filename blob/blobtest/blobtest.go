// Package blobtest holds what every blob.Store must do, as tests, with a store in memory that does it.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"kiln"
	"kiln/blob"
)

const alice, bob kiln.AccountID = "111111111111", "222222222222"

// Run tests the stores that newStore returns. Each call must return an empty one.
func Run(t *testing.T, newStore func(t *testing.T) blob.Store) {
	tests := []struct {
		name string
		test func(*testing.T, blob.Store)
	}{
		{"WhatWasPutCanBeRead", testPut},
		{"PutTwiceIsPutOnce", testPutTwice},
		{"WhatIsNotThereIsNotFound", testNotFound},
		{"AccountsSeeOnlyWhatIsTheirs", testAccounts},
		{"DeletedIsGone", testDelete},
		{"NamesThatAreNoneAreRefused", testInvalidNames},
		{"ListHasEverything", testList},
		{"EndedContextStopsEverything", testEndedContext},
		{"ConcurrentUse", testConcurrentUse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, newStore(t)) })
	}
}

func put(t *testing.T, s blob.Store, a kiln.AccountID, content string) kiln.Digest {
	t.Helper()
	d, err := s.Put(t.Context(), a, []byte(content))
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	if want := kiln.DigestOf([]byte(content)); d != want {
		t.Fatalf("put: got digest %s, want %s", d, want)
	}
	return d
}

func wantContent(t *testing.T, s blob.Store, a kiln.AccountID, d kiln.Digest, content string) {
	t.Helper()
	r, err := s.Open(t.Context(), a, d)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer r.Close()
	if r.Size() != int64(len(content)) {
		t.Errorf("size is %d, want %d", r.Size(), len(content))
	}
	if err := blob.Verify(r, d); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		t.Errorf("read %d bytes, error %v, want %d", len(got), err, len(content))
	}
	half := make([]byte, len(content)-len(content)/2)
	if _, err := r.ReadAt(half, int64(len(content)/2)); err != nil && err != io.EOF || string(half) != content[len(content)/2:] {
		t.Errorf("read at %d: %.40q, error %v", len(content)/2, half, err)
	}
}

func testPut(t *testing.T, s blob.Store) {
	for _, content := range []string{"", "x", strings.Repeat("content", 1<<20)} {
		wantContent(t, s, alice, put(t, s, alice, content), content)
	}
	buffer := []byte("mine")
	d, err := s.Put(t.Context(), alice, buffer)
	if err != nil {
		t.Fatal(err)
	}
	copy(buffer, "back")
	wantContent(t, s, alice, d, "mine")
}

func testPutTwice(t *testing.T, s blob.Store) {
	d := put(t, s, alice, "x")
	put(t, s, alice, "x")
	wantContent(t, s, alice, d, "x")
	if got := list(t, s); !slices.Equal(got, []string{string(alice) + " " + string(d)}) {
		t.Errorf("got %v", got)
	}
}

func wantNotFound(t *testing.T, s blob.Store, a kiln.AccountID, d kiln.Digest) {
	t.Helper()
	if r, err := s.Open(t.Context(), a, d); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("got %v, error %v, want ErrNotFound", r, err)
	}
}

func testNotFound(t *testing.T, s blob.Store) {
	d := kiln.DigestOf([]byte("x"))
	wantNotFound(t, s, alice, d)
	if err := s.Delete(t.Context(), alice, d); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func testAccounts(t *testing.T, s blob.Store) {
	d := put(t, s, alice, "x")
	wantNotFound(t, s, bob, d)
	put(t, s, bob, "x")
	if err := s.Delete(t.Context(), alice, d); err != nil {
		t.Fatal(err)
	}
	wantNotFound(t, s, alice, d)
	wantContent(t, s, bob, d, "x")
}

func testDelete(t *testing.T, s blob.Store) {
	d, other := put(t, s, alice, "x"), put(t, s, alice, "y")
	if err := s.Delete(t.Context(), alice, d); err != nil {
		t.Fatal(err)
	}
	wantNotFound(t, s, alice, d)
	wantContent(t, s, alice, other, "y")
	put(t, s, alice, "x")
	wantContent(t, s, alice, d, "x")
}

func testInvalidNames(t *testing.T, s blob.Store) {
	good := put(t, s, alice, "x")
	accounts := []kiln.AccountID{"", ".", "..", "tmp", "11111111111", "1111111111111", "../111111111", "11111111111\x00", "١١١١١١"}
	for _, a := range accounts {
		_, putErr := s.Put(t.Context(), a, []byte("x"))
		_, openErr := s.Open(t.Context(), a, good)
		if putErr == nil || openErr == nil || s.Delete(t.Context(), a, good) == nil {
			t.Errorf("account %q is not refused", a)
		}
	}
	digests := []kiln.Digest{"", "..", good[1:], good + "0", kiln.Digest(strings.ToUpper(string(good))), "../" + good[3:], good[:63] + "\x00"}
	for _, d := range digests {
		if _, err := s.Open(t.Context(), alice, d); err == nil || s.Delete(t.Context(), alice, d) == nil {
			t.Errorf("digest %q is not refused", d)
		}
	}
	wantContent(t, s, alice, good, "x")
}

func list(t *testing.T, s blob.Store) (all []string) {
	t.Helper()
	err := s.List(t.Context(), func(a kiln.AccountID, d kiln.Digest) error {
		all = append(all, string(a)+" "+string(d))
		return nil
	})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	slices.Sort(all)
	return all
}

func testList(t *testing.T, s blob.Store) {
	if got := list(t, s); len(got) != 0 {
		t.Fatalf("a new store has %v", got)
	}
	var want []string
	for _, a := range []kiln.AccountID{alice, bob} {
		for _, content := range []string{"x", "y", "z"} {
			want = append(want, string(a)+" "+string(put(t, s, a, content)))
		}
	}
	slices.Sort(want)
	if got := list(t, s); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	enough := errors.New("enough")
	calls := 0
	err := s.List(t.Context(), func(kiln.AccountID, kiln.Digest) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
	err = s.List(t.Context(), func(a kiln.AccountID, d kiln.Digest) error { return s.Delete(t.Context(), a, d) })
	if err != nil || len(list(t, s)) != 0 {
		t.Errorf("deleting what is listed: error %v, left %v", err, list(t, s))
	}
}

func testEndedContext(t *testing.T, s blob.Store) {
	d := put(t, s, alice, "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, putErr := s.Put(ctx, alice, []byte("y"))
	_, openErr := s.Open(ctx, alice, d)
	listErr := s.List(ctx, func(kiln.AccountID, kiln.Digest) error { return nil })
	for op, err := range map[string]error{"put": putErr, "open": openErr, "delete": s.Delete(ctx, alice, d), "list": listErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", op, err)
		}
	}
	wantContent(t, s, alice, d, "x")
	wantNotFound(t, s, alice, kiln.DigestOf([]byte("y")))
}

func testConcurrentUse(t *testing.T, s blob.Store) {
	content := bytes.Repeat([]byte("content"), 10_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				d, err := s.Put(t.Context(), alice, content)
				if err != nil {
					t.Errorf("put: %v", err)
					return
				}
				r, err := s.Open(t.Context(), alice, d)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				if err := errors.Join(blob.Verify(r, d), r.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
