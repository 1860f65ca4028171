package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"kiln"
	"kiln/worker/identity"
	"kiln/worker/sandbox"
)

func python() *Runtime {
	return &Runtime{ID: "python3.99", interpreter: "/opt/py/bin/python3.99", prefix: "/opt/py", rank: 99}
}

func version(env map[string]string) *kiln.Version {
	return &kiln.Version{Function: "f", Qualifier: "7", Config: kiln.Config{Handler: "index.handler", MemoryMB: 1000, Environment: env}}
}

func TestAFunctionsVariablesStandOverTheDefaults(t *testing.T) {
	h := python().Process(version(map[string]string{"TZ": "Europe/Berlin", "MINE": "1"}), Launch{Region: "eu-west-1", Stream: "stream", Credentials: identity.Credentials{AccessKeyID: "ASIAX", Secret: "s", SessionToken: "t"}})
	for _, want := range []string{
		"TZ=Europe/Berlin", "MINE=1", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_VERSION=7", "_HANDLER=index.handler",
		"AWS_ACCESS_KEY_ID=ASIAX", "AWS_SECRET_ACCESS_KEY=s", "AWS_SESSION_TOKEN=t", "AWS_ENDPOINT_URL=http://127.0.0.1:9002",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=1000", "AWS_EXECUTION_ENV=AWS_Lambda_python3.99", "AWS_LAMBDA_LOG_STREAM_NAME=stream",
	} {
		if !slices.Contains(h.Env, want) {
			t.Errorf("%s is missing from %v", want, h.Env)
		}
	}
	if slices.Contains(h.Env, "TZ=:UTC") || h.UID == 0 || h.GID == 0 || !h.Direct {
		t.Errorf("%+v", h)
	}
}

func TestCustomRuntimesStartTheirOwnBootstrap(t *testing.T) {
	h := (&Runtime{ID: "provided.al2023"}).Process(version(map[string]string{"AWS_LAMBDA_EXEC_WRAPPER": "/opt/w"}), Launch{Region: "us-east-1", Stream: "s"})
	if !slices.Equal(h.Args, []string{"/var/task/bootstrap"}) || h.Fallback != "/opt/bootstrap" || h.Direct {
		t.Errorf("%+v", h)
	}
}

func TestAWrapperIsPutBeforeTheInterpreter(t *testing.T) {
	h := python().Process(version(map[string]string{"AWS_LAMBDA_EXEC_WRAPPER": "/opt/w"}), Launch{Region: "us-east-1", Stream: "s"})
	if !slices.Equal(h.Args, []string{"/opt/w", "/opt/py/bin/python3.99", "/var/runtime/bootstrap.py"}) {
		t.Errorf("%v", h.Args)
	}
}

func TestTheHeapOfNodeFollowsFromMemory(t *testing.T) {
	r := &Runtime{ID: "nodejs20.x", interpreter: "/usr/bin/node", prefix: "/usr"}
	if args := r.Process(version(nil), Launch{Region: "us-east-1", Stream: "s"}).Args; !slices.Contains(args, "--max-old-space-size=900") {
		t.Errorf("%v", args)
	}
}

func TestTheRootIsReadableWhateverTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := filepath.Join(t.TempDir(), "root")
	s := &Set{runtimes: map[string]*Runtime{}}
	s.add(python())
	if _, err := BuildRoot(dir, s, []byte("guest"), fstest.MapFS{"bootstrap.py": {Data: []byte("pass")}}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{
		"": 0o755, "var/task": 0o755, "opt/py": 0o755, "etc/passwd": 0o644, "var/runtime/bootstrap.py": 0o644, "kiln-guest": 0o755,
	} {
		st, err := os.Stat(filepath.Join(dir, path))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, st, err, want)
		}
	}
}

func TestTheRootHasATargetForEveryMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	s := &Set{runtimes: map[string]*Runtime{}}
	s.add(python())
	for range 2 { // the second start finds the first one's root
		root, err := BuildRoot(dir, s, []byte("guest"), fstest.MapFS{"bootstrap.py": {Data: []byte("pass")}})
		if err != nil {
			t.Fatal(err)
		}
		spec := python().Sandbox(root, "/some/code", "/some/layers")
		for _, m := range spec.Mounts {
			if _, err := os.Lstat(filepath.Join(dir, m.Target)); err != nil {
				t.Errorf("no target: %v", err)
			}
			if m.Writable {
				t.Errorf("%s can be written", m.Target)
			}
			if strings.HasPrefix(m.Source, "/root") || strings.HasPrefix(m.Source, "/home") || m.Source == "/etc" || m.Source == "/" {
				t.Errorf("%s of the host is shown", m.Source)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, "var/runtime/bootstrap.py")); err != nil || string(b) != "pass" {
			t.Errorf("bootstrap: %q, %v", b, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "kiln-guest")); err != nil || string(b) != "guest" {
		t.Errorf("guest: %q, %v", b, err)
	}
}

func TestLayersAppearWhereTheyDoNotHideTheInterpreter(t *testing.T) {
	root := &Root{dir: "/r"}
	for opt, want := range map[string]bool{"/some/layers": true, "": false} {
		mounts := (&Runtime{ID: "provided.al2023"}).Sandbox(root, "/some/code", opt).Mounts
		if got := slices.Contains(mounts, sandbox.Mount{Source: "/some/layers", Target: "/opt"}); got != want || len(mounts) > 2 {
			t.Errorf("with %q: %v", opt, mounts)
		}
	}
	for prefix, want := range map[string]bool{"/opt": true, "/opt/py": true, "/optional": false, "/usr": false, "": false} {
		if got := (&Runtime{prefix: prefix}).BelowLayers(); got != want {
			t.Errorf("%q is below /opt: %v", prefix, got)
		}
	}
}
