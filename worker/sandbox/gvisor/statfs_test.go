package gvisor_test

import (
	"testing"

	"kiln/worker/sandbox"
)

func TestASandboxDoesNotShowTheSizeOfTheHostsDisk(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	r := root(t)
	mounts := []sandbox.Mount{{Source: t.TempDir(), Target: "/mnt/a"}, {Source: t.TempDir(), Target: "/mnt/b", Writable: true}}
	g := start(t, e, sandbox.Spec{ID: "sizes", Root: r, Mounts: mounts, Limits: limits()})
	for _, path := range []string{"/", "/guest", "/mnt/a", "/mnt/b", "/mnt/../guest"} {
		if got := g.mustDo(t, "statfs", path); got != "536870912 0 0 0\n" {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := g.mustDo(t, "statfs", "/tmp"); got == "536870912 0 0 0\n" {
		t.Errorf("/tmp, which is the guest's own: %s", got)
	}
	if got := g.mustDo(t, "statfs", "/nowhere"); got != "error: open /nowhere: no such file or directory" {
		t.Errorf("what is not there: %s", got)
	}
}
