package account

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

func TestTheFirstStartMakesAnAccountAndItsKey(t *testing.T) {
	store, dir := catalogtest.NewMemory(), t.TempDir()
	k, err := Ensure(t.Context(), store, dir, Choice{})
	if err != nil {
		t.Fatal(err)
	}
	if k.Account != DefaultAccount || len(k.ID) != 20 || len(k.Secret) != 40 {
		t.Errorf("made %+v", k)
	}
	wantKeyStored(t, store, k)
	wantCredentials(t, dir, "[default]\naws_access_key_id = "+k.ID+"\naws_secret_access_key = "+k.Secret+"\n")

	again, err := Ensure(t.Context(), store, dir, Choice{})
	if err != nil || again != k {
		t.Errorf("the second start has %+v, %v, want %+v", again, err, k)
	}
}

func wantKeyStored(t *testing.T, store catalog.Store, want catalog.AccessKey) {
	t.Helper()
	r, err := store.Get(t.Context(), catalog.AccessKeyKey(want.Account, want.ID))
	if err != nil {
		t.Fatal(err)
	}
	var got catalog.AccessKey
	if err := json.Unmarshal(r.Value, &got); err != nil || got != want {
		t.Errorf("stored %+v, %v, want %+v", got, err, want)
	}
}

func wantCredentials(t *testing.T, dir, want string) {
	t.Helper()
	path := filepath.Join(dir, CredentialsFile)
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("credentials are %q, %v, want %q", got, err, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("credentials have mode %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%d files in the data directory, %v", len(files), err)
	}
}

func TestTheFirstStartTakesWhatIsChosen(t *testing.T) {
	store, dir := catalogtest.NewMemory(), t.TempDir()
	choice := Choice{Account: "123456789012", AccessKeyID: "test", Secret: "test"}
	k, err := Ensure(t.Context(), store, dir, choice)
	if want := (catalog.AccessKey{ID: "test", Secret: "test", Account: "123456789012"}); err != nil || k != want {
		t.Fatalf("made %+v, %v, want %+v", k, err, want)
	}
	for _, same := range []Choice{{}, choice, {Account: "123456789012"}} {
		if again, err := Ensure(t.Context(), store, dir, same); err != nil || again != k {
			t.Errorf("a start with %+v has %+v, %v", same, again, err)
		}
	}
	if _, err := Ensure(t.Context(), store, dir, Choice{Account: "999999999999"}); err == nil {
		t.Error("another account was chosen at a later start, and ignored")
	}
}

func TestMissingCredentialsAreWrittenAnewAndOthersKept(t *testing.T) {
	store, dir := catalogtest.NewMemory(), t.TempDir()
	if _, err := Ensure(t.Context(), store, dir, Choice{AccessKeyID: "a", Secret: "b"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, CredentialsFile)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// A process that died while writing has left this.
	if err := os.WriteFile(path+".new", []byte("[defau"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(t.Context(), store, dir, Choice{}); err != nil {
		t.Fatal(err)
	}
	wantCredentials(t, dir, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n")

	if err := os.WriteFile(path, []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(t.Context(), store, dir, Choice{}); err != nil {
		t.Fatal(err)
	}
	wantCredentials(t, dir, "# mine\n")
}

func TestACrashBeforeTheKeyIsStoredIsMended(t *testing.T) {
	store, dir := catalogtest.NewMemory(), t.TempDir()
	k, err := first(t.Context(), store, Choice{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Ensure(t.Context(), store, dir, Choice{})
	if err != nil || got != k.AccessKey {
		t.Fatalf("got %+v, %v, want %+v", got, err, k)
	}
	wantKeyStored(t, store, k.AccessKey)
}

func TestAChoiceIsValidatedWhole(t *testing.T) {
	err := Choice{Account: "12", AccessKeyID: "a b", Secret: "a\nb"}.Validate()
	if err == nil || strings.Count(err.Error(), "want") != 3 {
		t.Errorf("got %v, want three faults", err)
	}
	if strings.Contains(err.Error(), "a\nb") {
		t.Error("the secret is shown")
	}
}
