package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/worker/environment"
	"kiln/worker/identity"
	"kiln/worker/runtime"
	"kiln/worker/sandbox"
)

// processorMB is the memory that comes with one whole processor
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html).
const processorMB = 1769

// initCPUs is the processor share of the INIT phase, whatever the function's own: AWS does not hold INIT to it either, and an
// interpreter that starts with 7 % of a processor takes seconds.
const initCPUs = 2

// spareWeight is the weight of a sandbox that is booted ahead: nobody waits for it, and those beside it have callers.
const spareWeight = sandbox.UsualWeight / 4

// Code unpacks deployment packages and layers.
type Code interface {
	// Acquire returns the directory of the unpacked package, which stays until release is called.
	Acquire(ctx context.Context, a kiln.AccountID, c kiln.Code) (dir string, release func(), err error)
	// AcquireLayers returns the directory of the layers laid one over the other, "" if there are none, which stays until release is
	// called.
	AcquireLayers(ctx context.Context, layers []kiln.Layer) (dir string, release func(), err error)
}

// Logs takes what functions log. It must not block.
type Logs interface {
	Write(a kiln.AccountID, f kiln.FunctionName, lines []byte)
}

// Host prepares environments from what this machine has. It implements Preparer.
type Host struct {
	Region   kiln.Region
	Engine   sandbox.Engine
	Runtimes *runtime.Set
	Root     *runtime.Root
	Code     Code
	Spares   Spares
	Logs     Logs
	// Identity issues the credentials that functions have, for as long as their environments live.
	Identity *identity.Issuer
	// API takes the connections that functions open to AWS's API.
	API environment.API
	Log *slog.Logger
}

// Spares are sandboxes that were booted ahead.
type Spares interface {
	// Expect says that a function of class c may be called.
	Expect(c runtime.Class)
	// Take returns one for a function of class c, which is the caller's from then on, and the class that it is of. ok is false if
	// there is none.
	Take(c runtime.Class) (s *environment.Spare, of runtime.Class, ok bool)
	// Yield gives up one, and reports whether there was one.
	Yield() bool
}

// Prepare implements Preparer.
func (h *Host) Prepare(ctx context.Context, v *kiln.Version, why fleet.Initialization) (environment.Config, func(), error) {
	rt, ok := h.Runtimes.Lookup(v.Runtime)
	if !ok {
		return environment.Config{}, nil, kiln.Errorf(kiln.InvalidRuntime,
			"This machine has no runtime %s. It has: %s. Install the interpreter, or name it with --runtime %s=PREFIX.",
			v.Runtime, strings.Join(h.Runtimes.IDs(), ", "), v.Runtime)
	}
	if len(v.Layers) > 0 && rt.BelowLayers() {
		return environment.Config{}, nil, kiln.Errorf(kiln.InvalidRuntime,
			"This machine's interpreter of %s is below /opt, where layers would hide it. Name one elsewhere with --runtime %s=PREFIX.", v.Runtime, v.Runtime)
	}
	code, opt, release, err := h.unpack(ctx, v)
	if err != nil {
		return environment.Config{}, nil, err
	}
	credentials, revoke := h.Identity.Issue(identity.Role{Account: v.Account, ARN: v.Role}, time.Now())
	spec := rt.Sandbox(h.Root, code, opt)
	spec.ID = newID()
	spec.Limits = limits(v)
	cfg := environment.Config{
		Engine: h.Engine, Version: v, Initialization: why, InitCPUs: initCPUs, API: h.API, Until: credentials.Expires.Add(-kiln.MaxTimeout),
		Sink: func(lines []byte) { h.Logs.Write(v.Account, v.Function, lines) }, Log: h.Log,
	}
	if s, of, ok := h.takeSpare(rt, v); ok {
		spec.ID = s.ID
		cfg.Spare = s
		cfg.Handover = environment.Handover{Mounts: handed(code, opt), Adopt: rt.Adopts(v, of)}
	}
	cfg.Sandbox = spec
	cfg.Process = rt.Process(v, runtime.Launch{
		Region: h.Region, Stream: stream(spec.ID, v, time.Now()), Credentials: credentials, Initialization: why,
	})
	if hasExtensions(opt) {
		// They register before the runtime process starts, so that none that waits can be it.
		cfg.Process, cfg.Handover.Adopt = runtime.WithExtensions(cfg.Process), false
	}
	return cfg, func() { revoke(); release() }, nil
}

// handed are the directories that a sandbox which was booted ahead is to show; opt may be "".
func handed(code, opt string) []environment.Mount {
	mounts := []environment.Mount{{Name: runtime.Code.Name, Source: code, Target: runtime.Code.Target}}
	if opt != "" {
		mounts = append(mounts, environment.Mount{Name: runtime.Layers.Name, Source: opt, Target: runtime.Layers.Target})
	}
	return mounts
}

// hasExtensions reports whether the layers in opt, "" if there are none, have external extensions.
func hasExtensions(opt string) bool {
	if opt == "" {
		return false
	}
	files, err := os.ReadDir(filepath.Join(opt, runtime.ExtensionDir))
	return err == nil && len(files) > 0 // if it cannot be read there are none
}

// takeSpare returns a sandbox for v that was booted ahead, if there is one.
func (h *Host) takeSpare(rt *runtime.Runtime, v *kiln.Version) (*environment.Spare, runtime.Class, bool) {
	if v.EphemeralMB != runtime.SpareTmpMB {
		return nil, runtime.Class{}, false
	}
	return h.Spares.Take(rt.Class(v))
}

// Yield implements Preparer.
func (h *Host) Yield() bool { return h.Spares.Yield() }

// Expect says that v may be called.
func (h *Host) Expect(v *kiln.Version) {
	if rt, ok := h.Runtimes.Lookup(v.Runtime); ok && v.EphemeralMB == runtime.SpareTmpMB {
		h.Spares.Expect(rt.Class(v))
	}
}

// BootSpare boots a sandbox of class c ahead.
func (h *Host) BootSpare(ctx context.Context, c runtime.Class) (*environment.Spare, error) {
	rt, ok := h.Runtimes.Lookup(c.Runtime)
	if !ok {
		return nil, fmt.Errorf("boot sandbox ahead: there is no runtime %s", c.Runtime)
	}
	spec, process := rt.Spare(h.Root, c)
	spec.ID = newID()
	spec.Limits = sandbox.Limits{
		MemoryBytes: int64(c.MemoryMB) << 20, CPUs: max(1, float64(c.MemoryMB)/processorMB), Weight: spareWeight,
		TmpBytes: runtime.SpareTmpMB << 20,
	}
	return environment.Boot(ctx, environment.SpareConfig{Engine: h.Engine, Sandbox: spec, Process: process, API: h.API})
}

// unpack returns the directories of v's code and of its layers, which is "" if it has none.
func (h *Host) unpack(ctx context.Context, v *kiln.Version) (code, opt string, release func(), err error) {
	code, releaseCode, err := h.Code.Acquire(ctx, v.Account, v.Code)
	if err != nil {
		return "", "", nil, fmt.Errorf("unpack code of %s: %w", v.Function, err)
	}
	opt, releaseLayers, err := h.Code.AcquireLayers(ctx, v.Layers)
	if err != nil {
		releaseCode()
		return "", "", nil, fmt.Errorf("unpack layers of %s: %w", v.Function, err)
	}
	return code, opt, func() { releaseLayers(); releaseCode() }, nil
}

func limits(v *kiln.Version) sandbox.Limits {
	return sandbox.Limits{
		MemoryBytes: int64(v.MemoryMB) << 20, CPUs: float64(v.MemoryMB) / processorMB, TmpBytes: int64(v.EphemeralMB) << 20,
	}
}

// stream is the name of an environment's log stream, in AWS's form.
func stream(id string, v *kiln.Version, now time.Time) string {
	return fmt.Sprintf("%s/[%s]%s", now.UTC().Format("2006/01/02"), v.Qualifier, id)
}
