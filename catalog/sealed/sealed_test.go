package sealed_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/catalog"
	"kiln/catalog/catalogtest"
	"kiln/catalog/sealed"
)

const secret = "correct horse battery staple"

func masterKey(t *testing.T, path string) *sealed.MasterKey {
	t.Helper()
	k, err := sealed.OpenMasterKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestASealedStoreIsAStore(t *testing.T) {
	catalogtest.Run(t, func(t *testing.T) catalog.Store {
		return sealed.New(catalogtest.NewMemory(), masterKey(t, filepath.Join(t.TempDir(), "key")))
	})
}

func commit(t *testing.T, s catalog.Store, c catalog.Change) {
	t.Helper()
	if _, err := s.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func value(s string) []byte {
	text, _ := json.Marshal(s)
	return text
}

func TestNothingIsStoredInPlain(t *testing.T) {
	inner := catalogtest.NewMemory()
	s := sealed.New(inner, masterKey(t, filepath.Join(t.TempDir(), "key")))
	f := catalog.FunctionKey("111111111111", "f")
	commit(t, s, catalog.Change{Key: f, Value: value(secret)})
	commit(t, s, catalog.Change{Key: catalog.FunctionKey("222222222222", "f"), Value: value(secret)})
	all, err := inner.List(t.Context(), "", "", 100)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d records, %v", len(all), err)
	}
	for _, r := range all {
		if bytes.Contains(r.Value, []byte("horse")) {
			t.Errorf("%s is stored as %q", r.Key, r.Value)
		}
	}
	if r, err := s.Get(t.Context(), f); err != nil || !strings.Contains(string(r.Value), secret) {
		t.Errorf("read %q, %v", r.Value, err)
	}
}

func TestAValueIsGoodUnderItsKeyOnly(t *testing.T) {
	inner := catalogtest.NewMemory()
	s := sealed.New(inner, masterKey(t, filepath.Join(t.TempDir(), "key")))
	f, g := catalog.FunctionKey("111111111111", "f"), catalog.FunctionKey("111111111111", "g")
	commit(t, s, catalog.Change{Key: f, Value: value(secret)})
	r, err := inner.Get(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, inner, catalog.Change{Key: g, Value: r.Value})
	if r, err := s.Get(t.Context(), g); err == nil {
		t.Errorf("the value of another record is read as %q", r.Value)
	}
	flipped := append([]byte(nil), r.Value...)
	flipped[len(flipped)-1] ^= 1
	commit(t, inner, catalog.Change{Key: f, If: r.Revision, Value: flipped})
	if r, err := s.Get(t.Context(), f); err == nil {
		t.Errorf("a value that was changed is read as %q", r.Value)
	}
}

func TestABrokenValueDoesNotCostAWatcherTheOthers(t *testing.T) {
	inner := catalogtest.NewMemory()
	s := sealed.New(inner, masterKey(t, filepath.Join(t.TempDir(), "key")))
	commit(t, inner, catalog.Change{Key: catalog.FunctionKey("111111111111", "broken"), Value: []byte{1, 2, 3}})
	commit(t, s, catalog.Change{Key: catalog.FunctionKey("111111111111", "f"), Value: value(secret)})
	var seen []string
	enough := errors.New("enough")
	err := s.Watch(t.Context(), "", func(e catalog.Event) error {
		if e.Synced {
			return enough
		}
		seen = append(seen, string(e.Value))
		return nil
	})
	if !errors.Is(err, enough) || len(seen) != 2 || seen[0] != "\x01\x02\x03" || seen[1] != string(value(secret)) {
		t.Errorf("it sees %q, %v", seen, err)
	}
}

func TestItTakesTheMasterKey(t *testing.T) {
	inner, dir := catalogtest.NewMemory(), t.TempDir()
	open := func(name string) (*sealed.Store, error) {
		return sealed.Open(t.Context(), inner, filepath.Join(dir, name))
	}
	f := catalog.FunctionKey("111111111111", "f")
	first, err := open("key")
	if err != nil {
		t.Fatal(err)
	}
	commit(t, first, catalog.Change{Key: f, Value: value(secret)})
	again, err := open("key")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := again.Get(t.Context(), f); err != nil || !strings.Contains(string(r.Value), secret) {
		t.Errorf("with the same master key: %q, %v", r.Value, err)
	}
	if _, err := open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without one: %v", err)
	}
	masterKey(t, filepath.Join(dir, "other"))
	if _, err := open("other"); !errors.Is(err, sealed.ErrOtherKey) {
		t.Errorf("with another: %v", err)
	}
	if r, err := sealed.New(inner, masterKey(t, filepath.Join(dir, "other"))).Get(t.Context(), f); err == nil {
		t.Errorf("with another it is read as %q", r.Value)
	}
}

func TestWhatWasStoredWithoutKeysIsRead(t *testing.T) {
	inner := catalogtest.NewMemory()
	f := catalog.FunctionKey("111111111111", "f")
	commit(t, inner, catalog.Change{Key: f, Value: value("plain")})
	s := sealed.New(inner, masterKey(t, filepath.Join(t.TempDir(), "key")))
	if r, err := s.Get(t.Context(), f); err != nil || string(r.Value) != `"plain"` {
		t.Errorf("read %q, %v", r.Value, err)
	}
}

func TestTheMasterKeyIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	masterKey(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("it has mode %v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("%d files beside it, %v", len(files), err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sealed.OpenMasterKey(path); err == nil {
		t.Error("a file without a key is taken for one")
	}
}
