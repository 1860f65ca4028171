package runtime

import (
	"slices"
	"strings"

	"kiln"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// Class says what functions a sandbox that is booted ahead of time is for: it shows that much memory, and the processors that come
// with it.
type Class struct {
	Runtime  string
	MemoryMB int
}

// classes are the sizes in MB of the sandboxes that are booted ahead for runtimes whose process does not depend on it.
var classes = []int{512, 1769, 3538, 7076, kiln.MaxMemoryMB}

// Class is the class of sandboxes for v.
func (r *Runtime) Class(v *kiln.Version) Class {
	if r.isNode() {
		return Class{r.ID, v.MemoryMB} // its heap is bounded when it starts
	}
	i, _ := slices.BinarySearch(classes, v.MemoryMB)
	return Class{r.ID, classes[i]}
}

// SpareTmpMB is the size of /tmp in sandboxes that are booted ahead. A function that wants another has one of its own booted.
const SpareTmpMB = kiln.MinEphemeralMB

// Spare describes a sandbox of a class that is booted ahead, and the process that waits in it for its function, nil if there is none.
// The caller adds ID and Limits.
func (r *Runtime) Spare(root *Root, c Class) (sandbox.Spec, *wire.Header) {
	spec := r.Sandbox(root, "", "")
	spec.Slot = slotDir
	if r.interpreter == "" {
		return spec, nil
	}
	return spec, &wire.Header{
		Args: append(r.interpret(c.MemoryMB), "wait"), Env: list(r.defaults()), Dir: "/", UID: functionUID, GID: functionGID,
		API: true, Direct: true, MaxProcesses: maxProcesses, MaxFiles: maxFiles,
	}
}

// fixed are the beginnings of the names of variables that a process, its interpreter or its C library reads only when it starts.
var fixed = []string{
	"PYTHON", "NODE_", "LD_", "LC_", "LANG", "TZ", "UV_", "SSL_", "OPENSSL_", "MALLOC_", "GLIBC_", "AWS_LAMBDA_EXEC_WRAPPER",
}

// Adopts reports whether the process that waits in a sandbox of class c can become v's. If not, another has to be started there.
func (r *Runtime) Adopts(v *kiln.Version, c Class) bool {
	if r.interpreter == "" || r.isNode() && c.MemoryMB != v.MemoryMB {
		return false
	}
	for name := range v.Environment {
		if slices.ContainsFunc(fixed, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return false
		}
	}
	return true
}

// Place is where a function's directory is mounted.
type Place struct {
	// Name tells it from others.
	Name   string
	Target string
}

// Code and Layers are the places of what a function consists of.
var (
	Code   = Place{"task", taskDir}
	Layers = Place{"opt", layerDir}
)
