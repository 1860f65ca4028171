package environment

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"kiln"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// waitTimeout bounds how long a runtime process may take until it waits for its function. It is long because a busy machine is no
// fault of its own.
const waitTimeout = 20 * time.Second

// SpareConfig says what to boot ahead.
type SpareConfig struct {
	Engine  sandbox.Engine
	Sandbox sandbox.Spec
	// Process is the runtime process to start ahead, nil if a function brings its own.
	Process *wire.Header
	// API is as in Config.
	API API
}

// Spare is a sandbox that was booted before anybody needed it, with its runtime process started. It belongs to nobody until an
// environment is started in it, and to that one for good.
type Spare struct {
	// ID is the sandbox's.
	ID string

	box  *box
	slot string
}

// Boot returns a sandbox whose guest runs and whose runtime process, if it has one, waits for its function.
func Boot(ctx context.Context, cfg SpareConfig) (*Spare, error) {
	b, err := newBox(ctx, cfg.Engine, cfg.Sandbox, cfg.API)
	if err != nil {
		return nil, err
	}
	if cfg.Process != nil {
		if err := b.prepare(ctx, *cfg.Process); err != nil {
			return nil, errors.Join(fmt.Errorf("prepare runtime process: %w", err), b.destroy())
		}
	}
	return &Spare{ID: cfg.Sandbox.ID, box: b, slot: cfg.Sandbox.Slot}, nil
}

// prepare starts the runtime process ahead and returns when it waits for its function.
func (b *box) prepare(ctx context.Context, process wire.Header) error {
	process.Type = wire.Prepare
	h, err := b.order(ctx, process, wire.Prepared)
	if err != nil {
		return err
	}
	if h.Failure != "" {
		return errors.New(h.Failure)
	}
	defer context.AfterFunc(ctx, func() { b.invocations.SetReadDeadline(time.Unix(1, 0)) })()
	h, _, err = b.receive(time.Now().Add(waitTimeout))
	if err != nil {
		return errors.Join(fmt.Errorf("wait for it: %w", err), ctx.Err())
	}
	if h.Type != wire.Waiting {
		return fmt.Errorf("it said %q where %q was due", h.Type, wire.Waiting)
	}
	return nil
}

// Ended is closed when the guest or the runtime process has ended. Whoever owns the spare then has to destroy it.
func (s *Spare) Ended() <-chan struct{} { return s.box.exited }

// Destroy ends the sandbox. When it returns nil nothing is left of it.
func (s *Spare) Destroy() error {
	if err := s.box.destroy(); err != nil {
		return fmt.Errorf("destroy spare sandbox %s: %w", s.ID, err)
	}
	return nil
}

// Handover is how a spare sandbox becomes a function's.
type Handover struct {
	Mounts []Mount
	// Adopt says that the process which waits in the spare becomes the function's. If it is false another is started.
	Adopt bool
}

// Mount is a directory of the host that a running sandbox is to show.
type Mount struct {
	// Name is unique among an environment's mounts.
	Name           string
	Source, Target string
}

// occupySpare starts the runtime process in a spare sandbox, or lets the one that waits there begin. If it fails nothing is left.
func (e *Environment) occupySpare(ctx context.Context, s *Spare, limits sandbox.Limits) (failed *failure, err error) {
	begun := time.Now()
	if !e.expose(s.box) {
		return nil, errors.Join(errKilled, s.box.destroy())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.box.destroy())
		}
	}()
	if err := s.furnish(ctx, e.cfg.Handover.Mounts, limits); err != nil {
		return nil, err
	}
	furnished := time.Now()
	process := e.cfg.Process
	for _, m := range e.cfg.Handover.Mounts {
		process.Binds = append(process.Binds, wire.Bind{Source: path.Join(s.slot, m.Name), Target: m.Target})
	}
	process.Adopt = e.cfg.Handover.Adopt
	e.telemetryInitStart(s.box)
	if failed, err = s.box.launch(ctx, process, e.cfg.Sink); err != nil {
		return nil, err
	}
	if process.Adopt && failed == nil {
		begin := wire.Header{Type: wire.Begin, Env: process.Env, Dir: process.Dir}
		s.box.invocations.SetWriteDeadline(time.Now().Add(guestTimeout))
		if err := wire.Write(s.box.invocations, begin, nil); err != nil {
			return nil, fmt.Errorf("begin: %w", err)
		}
	}
	e.box = s.box
	start := kiln.Restarted
	if process.Adopt {
		start = kiln.Adopted
	}
	e.cold = coldStart{timing: kiln.Timing{Start: start, Queue: e.queued(0), Mount: furnished.Sub(begun), Guest: time.Since(furnished)}}
	return failed, nil
}

// furnish gives the sandbox the limits and directories of its function.
func (s *Spare) furnish(ctx context.Context, mounts []Mount, limits sandbox.Limits) error {
	if err := s.box.SetMemory(limits.MemoryBytes); err != nil {
		return fmt.Errorf("limit memory: %w", err)
	}
	if err := s.box.SetCPUs(limits.CPUs, limits.Weight); err != nil {
		return fmt.Errorf("limit processor share: %w", err)
	}
	for _, m := range mounts {
		if err := s.box.Mount(ctx, m.Name, m.Source); err != nil {
			return err
		}
	}
	return nil
}
