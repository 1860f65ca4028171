package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInterpretersOfThisMachineAreRealPrograms(t *testing.T) {
	s, err := Find(t.Context(), Options{Path: filepath.SplitList(os.Getenv("PATH"))})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.IDs(), "provided.al2023") {
		t.Errorf("custom runtimes are missing from %v", s.IDs())
	}
	for _, id := range s.IDs() {
		r, _ := s.Lookup(id)
		if r.interpreter == "" {
			continue
		}
		if strings.Contains(r.interpreter, "shims") || !isExecutable(r.interpreter) || !strings.HasPrefix(r.interpreter, r.prefix) {
			t.Errorf("%s is %s below %s", id, r.interpreter, r.prefix)
		}
		if out, err := exec.Command(r.interpreter, "--version").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", id, err, out)
		}
	}
	t.Log(s.IDs())
}

// shim is a script that stands for the interpreter of a version manager.
func shim(t *testing.T, dir, name, answer string) {
	t.Helper()
	script := "#!/bin/sh\nprintf '%s\\n' '" + answer + "'\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// install makes a prefix that looks like an interpreter's.
func install(t *testing.T, python string) string {
	t.Helper()
	prefix := t.TempDir()
	for _, d := range []string{"bin", "lib/" + python} {
		if err := os.MkdirAll(filepath.Join(prefix, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{"bin/" + python: "\x7fELF....", "lib/" + python + "/os.py": ""} {
		if err := os.WriteFile(filepath.Join(prefix, path), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return prefix
}

func TestShimsAreFollowed(t *testing.T) {
	prefix, shims := install(t, "python3.99"), t.TempDir()
	shim(t, shims, "python3.99", prefix+"/bin/python3.99")
	shim(t, shims, "python3.98", "/nowhere/bin/python3.98")
	shim(t, shims, "python3.6", prefix+"/bin/python3.99")
	s, err := Find(t.Context(), Options{Path: []string{shims, "/no/such/directory"}})
	if err != nil {
		t.Fatal(err)
	}
	r, ok := s.Lookup("python3.99")
	if !ok || r.interpreter != prefix+"/bin/python3.99" || r.prefix != prefix {
		t.Errorf("found %+v", r)
	}
	for _, id := range []string{"python3.98", "python3.6"} {
		if _, ok := s.Lookup(id); ok {
			t.Errorf("%s was found", id)
		}
	}
}

func TestVersionManagersAreLookedBehind(t *testing.T) {
	root, prefix := t.TempDir(), install(t, "python3.99")
	for _, d := range []string{"shims", "versions"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(prefix, filepath.Join(root, "versions", "3.99.0")); err != nil {
		t.Fatal(err)
	}
	shim(t, filepath.Join(root, "shims"), "python3.99", "/nowhere")
	s, err := Find(t.Context(), Options{Path: []string{filepath.Join(root, "shims")}})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := s.Lookup("python3.99"); !ok || r.interpreter != filepath.Join(root, "versions/3.99.0/bin/python3.99") {
		t.Errorf("found %+v", r)
	}
}

func TestAHomeDirectoryIsNoInstallation(t *testing.T) {
	home, real := t.TempDir(), t.TempDir()
	for _, dir := range []string{home, real} {
		if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", "program"), []byte("\x7fELF...."), 0o755); err != nil {
			t.Fatal(err)
		}
		shim(t, filepath.Join(dir, "bin"), "node", filepath.Join(dir, "bin", "program")+"\n99")
	}
	header := filepath.Join(real, "include/node/node_version.h")
	if err := os.MkdirAll(filepath.Dir(header), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(header, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Find(t.Context(), Options{Path: []string{filepath.Join(home, "bin"), filepath.Join(real, "bin")}})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := s.Lookup("nodejs99.x"); !ok || r.prefix != real {
		t.Errorf("found %+v", r)
	}
}

func TestRelativeDirectoriesAreNotSearched(t *testing.T) {
	t.Chdir(install(t, "python3.99"))
	s, err := Find(t.Context(), Options{Path: []string{"bin", ""}})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := s.Lookup("python3.99"); ok {
		t.Errorf("found %+v", r)
	}
}

func TestARuntimeByHandComesFirst(t *testing.T) {
	prefix, other := install(t, "python3.99"), install(t, "python3.99")
	s, err := Find(t.Context(), Options{Path: []string{other + "/bin"}, Prefixes: map[string]string{"python3.99": prefix}})
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := s.Lookup("python3.99"); r == nil || r.prefix != prefix {
		t.Errorf("found %+v", r)
	}
	if _, err := Find(t.Context(), Options{Prefixes: map[string]string{"python3.97": prefix}}); err == nil {
		t.Error("a prefix without the interpreter was taken")
	}
}

func TestIdentifiersAreListedNewestLast(t *testing.T) {
	s := &Set{runtimes: map[string]*Runtime{}}
	for _, r := range []*Runtime{{ID: "python3.9", rank: 9}, {ID: "python3.13", rank: 13}, {ID: "nodejs20.x", rank: 20}, {ID: "python3.10", rank: 10}} {
		s.add(r)
	}
	if want := []string{"nodejs20.x", "python3.9", "python3.10", "python3.13"}; !slices.Equal(s.IDs(), want) {
		t.Errorf("got %v", s.IDs())
	}
}
