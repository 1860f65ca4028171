package account

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
	"kiln/internal/local"
)

var day = time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)

func newAccounts(store catalog.Store) *Accounts {
	return NewAccounts(store, func() time.Time { return day })
}

// manager is what Accounts and Client have in common.
type manager interface {
	Create(context.Context, kiln.AccountID) (catalog.AccessKey, error)
	List(context.Context) ([]Account, error)
	CreateKey(context.Context, kiln.AccountID) (catalog.AccessKey, error)
	DeleteKey(context.Context, kiln.AccountID, string) error
}

func isStored(t *testing.T, store catalog.Store, k catalog.AccessKey) bool {
	t.Helper()
	r, err := store.Get(t.Context(), catalog.AccessKeyKey(k.Account, k.ID))
	if err != nil {
		t.Fatal(err)
	}
	return r.Revision != 0
}

// testManager tests accounts that are kept in store.
func testManager(t *testing.T, store catalog.Store, m manager) {
	ctx := t.Context()
	a, err := m.Create(ctx, "222222222222")
	if err != nil || a.Account != "222222222222" || !isStored(t, store, a) {
		t.Fatalf("created %+v, %v", a, err)
	}
	random, err := m.Create(ctx, "")
	if err != nil || !accountPattern.Matches(string(random.Account)) || random.Account[0] == '0' {
		t.Fatalf("created %+v, %v", random, err)
	}
	second, err := m.CreateKey(ctx, a.Account)
	if err != nil || second.ID == a.ID || !isStored(t, store, second) {
		t.Fatalf("the second key is %+v, %v", second, err)
	}
	all, err := m.List(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d accounts, %v", len(all), err)
	}
	i := slices.IndexFunc(all, func(each Account) bool { return each.ID == a.Account })
	want := []string{a.ID, second.ID}
	slices.Sort(want)
	if got := all[i]; !slices.Equal(got.Keys, want) || !got.Created.Equal(day) {
		t.Errorf("the account is %+v, want the keys %v", got, want)
	}
	if err := m.DeleteKey(ctx, a.Account, a.ID); err != nil || isStored(t, store, a) || !isStored(t, store, second) {
		t.Errorf("deletion of a key: %v", err)
	}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"an account that is there":  {errorOf(m.Create(ctx, a.Account)), ErrExists},
		"no number":                 {errorOf(m.Create(ctx, "12")), ErrInvalid},
		"a key of no account":       {errorOf(m.CreateKey(ctx, "333333333333")), ErrNotFound},
		"a key of no number":        {errorOf(m.CreateKey(ctx, "../..")), ErrInvalid},
		"a key that is gone":        {m.DeleteKey(ctx, a.Account, a.ID), ErrNotFound},
		"another account's key":     {m.DeleteKey(ctx, random.Account, second.ID), ErrNotFound},
		"a key that can be nowhere": {m.DeleteKey(ctx, a.Account, "a/b"), ErrNotFound},
	} {
		if c.err == nil || c.err.Error() != c.want.Error() {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }

func TestAccountsAreManaged(t *testing.T) {
	store := catalogtest.NewMemory()
	testManager(t, store, newAccounts(store))
}

func TestAccountsAreManagedFromAnotherProcess(t *testing.T) {
	dir, err := os.MkdirTemp("", "kiln") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "socket")
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	store := catalogtest.NewMemory()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := NewServer(l, newAccounts(store), slog.New(slog.DiscardHandler)).Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	testManager(t, store, client)
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := client.List(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone away: %v", err)
	}
}

func TestKeysAreBounded(t *testing.T) {
	store := catalogtest.NewMemory()
	a := newAccounts(store)
	if _, err := a.Create(t.Context(), "222222222222"); err != nil {
		t.Fatal(err)
	}
	for range MaxKeys - 1 {
		if _, err := a.CreateKey(t.Context(), "222222222222"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.CreateKey(t.Context(), "222222222222"); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
}

func TestTheFirstKeyStaysDeleted(t *testing.T) {
	store, dir := catalogtest.NewMemory(), t.TempDir()
	k, err := Ensure(t.Context(), store, dir, Choice{})
	if err != nil {
		t.Fatal(err)
	}
	a := newAccounts(store)
	if all, err := a.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != k.Account || !slices.Equal(all[0].Keys, []string{k.ID}) {
		t.Errorf("the accounts are %+v, %v", all, err)
	}
	if err := a.DeleteKey(t.Context(), k.Account, k.ID); err != nil {
		t.Fatal(err)
	}
	again, err := Ensure(t.Context(), store, dir, Choice{})
	if err != nil || again.Account != k.Account || isStored(t, store, k) {
		t.Errorf("the next start has %+v, %v", again, err)
	}
}
