// Package sandbox is the isolation under an execution environment: what a worker asks of an engine such as gVisor.
package sandbox

import (
	"context"
	"errors"
	"os"
	"time"
)

// ErrKilledByMemory is wrapped by Exit.Err when the kernel ended the sandbox for exceeding its memory limit.
var ErrKilledByMemory = errors.New("killed by the memory limit")

// ErrEnded is wrapped by the error of Sandbox.Thaw for a sandbox that has ended, or does so as soon as it runs.
var ErrEnded = errors.New("sandbox has ended")

// Mount is a host directory or file shown in the sandbox.
type Mount struct {
	Source, Target string
	// Writable mounts may be written by the guest. All others are read-only.
	Writable bool
}

// Limits bound what a sandbox may use of the host.
type Limits struct {
	// MemoryBytes is what the guest's own processes and files in memory may use; the engine adds what it needs itself.
	MemoryBytes int64
	// CPUs is the share of processor time, 1 being one whole processor. 0 means no limit.
	CPUs float64
	// Weight is how much of the processors it gets, compared with other sandboxes, while all together want more than there is: 1 to 10,000.
	// 0 means UsualWeight.
	Weight int
	// TmpBytes is the size of /tmp.
	TmpBytes int64
}

// UsualWeight is Limits.Weight of sandboxes that are neither more nor less urgent than others.
const UsualWeight = 100

// Spec describes a sandbox to make.
type Spec struct {
	// ID is unique on this machine and over time; it names the sandbox's cgroup and files.
	ID string
	// Root is a host directory, shown read-only as the root of the sandbox. It must contain every mount's target.
	Root   string
	Mounts []Mount
	// Slot is a directory of the sandbox below which Sandbox.Mount makes directories of the host appear; "" means nowhere.
	Slot string
	// Args and Env start the first process, as root of the sandbox.
	Args, Env []string
	// Files are handed to the first process as the descriptors that are their keys, from 3 on. The engine does not close them.
	Files  map[int]*os.File
	Limits Limits
	// Network is open on the network namespace that the sandbox's interfaces are taken from; nil means that it has loopback only. The
	// engine does not close it, and no other sandbox may have it until this one has ended. The addresses that its interfaces had are
	// gone then.
	Network *os.File
	// Begin is called once by Start, when no other start has to be waited for any more, before it returns; nil means nobody wants to know.
	// It must not block.
	Begin func()
}

// Usage is what a sandbox has used so far.
type Usage struct {
	// PeakMemoryBytes is the most memory that the guest's own processes had at one time: the engine's own share is taken off.
	PeakMemoryBytes int64
	CPU             time.Duration
}

// Exit is how a sandbox ended.
type Exit struct {
	// Err is nil if it was stopped with Destroy.
	Err error
}

// Sandbox is one running isolation. Its methods are safe for concurrent use.
type Sandbox interface {
	// Freeze stops every process of the sandbox from running until Thaw. Freezing what is frozen does nothing.
	Freeze() error
	// Thaw undoes Freeze. The error for a sandbox that ended while it was frozen wraps ErrEnded.
	Thaw() error
	// SetCPUs changes Limits.CPUs and Limits.Weight.
	SetCPUs(cpus float64, weight int) error
	// SetMemory changes Limits.MemoryBytes.
	SetMemory(bytes int64) error
	// Mount makes a directory of the host appear, read-only, in the running sandbox, as name below Spec.Slot. A name may be used
	// once.
	Mount(ctx context.Context, name, source string) error
	Usage() (Usage, error)
	// PeakMemory is what Usage says of memory, at little cost, so that it can be asked for after every invocation.
	PeakMemory() (bytes int64, err error)
	// Done is closed when the sandbox ended by itself or was destroyed.
	Done() <-chan struct{}
	// Exit says how it ended. It may be called only after Done is closed.
	Exit() Exit
	// Destroy kills every process of the sandbox, frozen or not, and removes all that is left of it: cgroups, mounts, files.
	// When it returns nil nothing is left. It may be called more than once.
	Destroy() error
}

// Engine makes sandboxes.
type Engine interface {
	// Start returns a sandbox whose first process has been started. If it fails, nothing is left behind.
	Start(ctx context.Context, s Spec) (Sandbox, error)
}
