package kiln_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// planes may not import one another: they meet in catalog, fleet and blob, and in cmd/kiln.
var planes = []string{"control", "invoke", "event", "worker"}

// only says which packages may import what lies behind one package of ours. Tests may import anything.
var only = map[string][]string{
	"gvisor.dev/gvisor":              {"worker/sandbox/gvisor"},
	"github.com/cockroachdb/pebble":  {"pebblestore"},
	"github.com/opencontainers":      {"worker/sandbox/gvisor"},
	"github.com/prometheus":          {"telemetry"},
	"github.com/spf13/cobra":         {"cmd/kiln"},
	"github.com/aws/aws-sdk-go-v2":   {"frontend/sigv4", "kilntest", "examples/run", "bench"},
	"github.com/aws/smithy-go":       {"examples/run"},
	"github.com/aws/aws-lambda-go":   {"examples/go", "bench"},
	"github.com/google/uuid":         {"frontend", "cmd/kiln", "control"},
	"github.com/tink-crypto/tink-go": {"catalog/sealed"},
	"golang.org/x/time":              {"frontend"},
	"github.com/google/nftables":     {"worker/network", "kilntest"},
	"github.com/vishvananda":         {"worker/network", "kilntest"},
	"kiln/cmd":                       {},
	"kiln/frontend":                  {"cmd/kiln", "frontend"},
	"kiln/worker/sandbox/gvisor":     {"cmd/kiln", "cmd/kiln-sandbox"},
	"kiln/pebblestore":               {"cmd/kiln"},
	"kiln/kilntest":                  {},
}

// nouns are packages that import the standard library and the packages named, and nothing else.
var nouns = map[string][]string{
	".":             {},
	"fleet":         {"kiln"},
	"worker/wire":   {},
	"worker/tunnel": {},
}

type goFile struct {
	dir     string // of the package, relative to the module
	name    string
	imports []string
}

func TestImportsKeepToTheArchitecture(t *testing.T) {
	files := goFiles(t)
	if len(files) < 10 {
		t.Fatalf("found %d Go files: the walk is broken", len(files))
	}
	for _, f := range files {
		if strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		for _, imp := range f.imports {
			if why := forbidden(f.dir, imp); why != "" {
				t.Errorf("%s/%s imports %s: %s", f.dir, f.name, imp, why)
			}
		}
	}
}

func TestTheRulesFindWhatTheyForbid(t *testing.T) {
	for _, c := range []struct{ dir, imp string }{
		{"control/deploy", "kiln/invoke"},
		{"invoke", "kiln/worker/environment"},
		{"worker", "kiln/control/deploy"},
		{"catalog", "github.com/cockroachdb/pebble/v2"},
		{"worker", "gvisor.dev/gvisor/runsc/container"},
		{".", "kiln/catalog"},
		{"fleet", "kiln/invoke"},
		{"worker/wire", "golang.org/x/sys/unix"},
		{"control/deploy", "kiln/frontend/restjson"},
		{"worker", "github.com/prometheus/client_golang/prometheus"},
		{"cmd/kiln", "github.com/prometheus/client_golang/prometheus"},
	} {
		if forbidden(c.dir, c.imp) == "" {
			t.Errorf("%s may import %s", c.dir, c.imp)
		}
	}
}

// forbidden says why the package in dir must not import imp, or "".
func forbidden(dir, imp string) string {
	if from, to := plane(dir), plane(strings.TrimPrefix(imp, "kiln/")); from != "" && to != "" && from != to && strings.HasPrefix(imp, "kiln/") {
		return "plane " + from + " must not import plane " + to
	}
	if allowed, ok := nouns[dir]; ok && isExternal(imp) && !slices.Contains(allowed, imp) {
		return "only the standard library and " + strings.Join(allowed, ", ") + " are allowed here"
	}
	for prefix, users := range only {
		if within(imp, prefix) && !within(dir, strings.TrimPrefix(prefix, "kiln/")) && !slices.ContainsFunc(users, func(u string) bool { return within(dir, u) }) {
			return "only " + strings.Join(users, ", ") + " may"
		}
	}
	return ""
}

// isExternal reports whether imp is neither of the standard library nor absent: ours and others' have a dot or begin with kiln.
func isExternal(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return first == "kiln" || strings.Contains(first, ".")
}

func plane(dir string) string {
	for _, p := range planes {
		if within(dir, p) {
			return p
		}
	}
	return ""
}

func within(p, prefix string) bool {
	return p == prefix || strings.HasPrefix(p, prefix+"/")
}

func goFiles(t *testing.T) []goFile {
	var out []goFile
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		g := goFile{dir: path.Dir(filepath.ToSlash(p)), name: d.Name()}
		for _, i := range f.Imports {
			s, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			g.imports = append(g.imports, s)
		}
		out = append(out, g)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
