package wholefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"kiln/internal/wholefile"
)

func TestAFileIsWrittenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path+".new", []byte("half"), 0o644); err != nil { // of a process that died
		t.Fatal(err)
	}
	for _, content := range []string{"first", "second"} {
		if err := wholefile.Create(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "first" {
		t.Errorf("it has %q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("it has mode %v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("%d files are there, %v", len(files), err)
	}
	if err := wholefile.Create(filepath.Join(path, "below"), nil); err == nil || errors.Is(err, fs.ErrExist) {
		t.Errorf("a file below a file: %v", err)
	}
}
