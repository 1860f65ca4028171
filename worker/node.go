// Package worker is a worker node: it starts, invokes and ends execution environments within the memory it may use.
package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/worker/environment"
)

// overheadMB is what an environment's sandbox needs beyond the function's own memory: its kernel and its file server.
const overheadMB = 32

// stopParallelism bounds how many environments are destroyed at a time while draining.
const stopParallelism = 8

// drainGrace is how long after the beginning of draining the end of environments may still begin in peace: extensions are told of it,
// and may take their time.
const drainGrace = time.Second

// Preparer turns a version into what an environment needs to start: sandbox, runtime process, code. release is called when the
// environment has ended. Errors are of the kinds that fleet.Worker.Start names.
type Preparer interface {
	Prepare(ctx context.Context, v *kiln.Version, why fleet.Initialization) (cfg environment.Config, release func(), err error)
	// Yield gives up a sandbox that was booted ahead, to have its memory back. It reports whether there was one.
	Yield() bool
}

// Config says what a Node works with.
type Config struct {
	Preparer Preparer
	// Memory is what all sandboxes together may be promised.
	Memory *Memory
	// Ended is told of environments that end by themselves; nil means nobody is.
	Ended fleet.Ended
	// Observer is told of starts and ends; nil means that nobody is.
	Observer Observer
	Log      *slog.Logger
}

// Observer counts environments. Its methods must not block, and may be called from several goroutines at once.
type Observer interface {
	// Started tells that an environment of a runtime has gone through INIT, and what that took: t its parts, total all of it with what
	// no part names.
	Started(runtime string, t kiln.Timing, total time.Duration)
	// Ended tells that nothing is left of an environment.
	Ended(why fleet.End)
}

// Node is a fleet.Worker. Run must be running.
type Node struct {
	cfg Config

	mu           sync.Mutex
	environments map[fleet.EnvironmentID]*resident // +checklocks:mu
	draining     bool                              // +checklocks:mu
	// ending counts environments that are being destroyed and still hold memory; freed is closed, and replaced, when one holds none.
	ending int           // +checklocks:mu
	freed  chan struct{} // +checklocks:mu

	// ends are environments being destroyed, which Run waits for.
	ends sync.WaitGroup
	// starting is how many environments nobody can find yet.
	starting atomic.Int64
	turns    *turns
}

// resident is an environment of this node.
type resident struct {
	*environment.Environment
	memoryMB int
	release  func()
}

var _ fleet.Worker = (*Node)(nil)

// New returns a node without environments.
func New(cfg Config) *Node {
	turns := newTurns(startsPerProcessor*runtime.NumCPU(), maxTurns, moreEvery, new(processors).idlePart)
	return &Node{cfg: cfg, turns: turns, environments: make(map[fleet.EnvironmentID]*resident), freed: make(chan struct{})}
}

// Start implements fleet.Worker.
func (n *Node) Start(ctx context.Context, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	begun := time.Now()
	memory := v.MemoryMB + overheadMB
	if err := n.reserve(ctx, memory); err != nil {
		return "", err
	}
	over, err := n.turns.take(ctx, v)
	if err != nil {
		n.cfg.Memory.Release(memory)
		return "", err
	}
	defer over()
	if n.isDraining() {
		n.cfg.Memory.Release(memory)
		return "", errDraining()
	}
	queued := time.Since(begun)
	n.starting.Add(1)
	defer n.starting.Add(-1)
	id, r, err := n.start(ctx, v, why, queued)
	if errors.Is(err, errBoot) && ctx.Err() == nil && kiln.KindOf(err) != kiln.Unavailable {
		// Nothing of the function has run, and what failed was the platform's: a sandbox or its launcher that died.
		n.cfg.Log.Warn("start environment once more", "function", v.Function, "err", err)
		id, r, err = n.start(ctx, v, why, queued)
	}
	if err != nil {
		n.cfg.Memory.Release(memory)
		return "", err
	}
	r.memoryMB = memory
	n.observeStart(v.Runtime, r.Started(), time.Since(begun))
	if !n.admit(id, r) {
		n.destroy(id, r, fleet.Drained)
		return "", errDraining()
	}
	if why != fleet.OnDemand {
		r.Watch() // there may be no invocation for long that finds out that it has ended
	}
	return id, nil
}

// start starts an environment after queued, for which it has waited for memory and a turn.
func (n *Node) start(ctx context.Context, v *kiln.Version, why fleet.Initialization, queued time.Duration) (fleet.EnvironmentID, *resident, error) {
	cfg, release, err := n.cfg.Preparer.Prepare(ctx, v, why)
	if err != nil {
		return "", nil, err
	}
	id := fleet.EnvironmentID(cfg.Sandbox.ID)
	cfg.Queued = queued
	cfg.Ended = func() { n.lose(id) }
	e, err := environment.Start(ctx, cfg)
	if errors.Is(err, fleet.ErrInit) {
		release()
		return "", nil, err
	}
	if err != nil {
		release()
		return "", nil, fmt.Errorf("%w of %s: %w", errBoot, v.Function, err)
	}
	return id, &resident{Environment: e, release: release}, nil
}

// errBoot is wrapped by the error of an environment whose sandbox did not come up.
var errBoot = errors.New("start environment")

// lose ends an environment of which the runtime or the sandbox has ended, unless it is being ended already.
func (n *Node) lose(id fleet.EnvironmentID) {
	if n.dispose(id, fleet.Crashed) && n.cfg.Ended != nil {
		n.cfg.Ended(id)
	}
}

// dispose ends an environment without waiting for that, and reports whether it was there and Run does not end it.
func (n *Node) dispose(id fleet.EnvironmentID, why fleet.End) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.draining {
		return false
	}
	r := n.remove(id)
	if r != nil {
		n.ends.Go(func() { n.end(id, r, why) }) // Run, which lets the node drain first, waits for it
	}
	return r != nil
}

// Invoke implements fleet.Worker.
func (n *Node) Invoke(ctx context.Context, id fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	n.mu.Lock()
	r := n.environments[id]
	n.mu.Unlock()
	if r == nil {
		return kiln.Result{}, false, fleet.ErrGone
	}
	res, reusable, err := r.Invoke(ctx, inv)
	if !reusable {
		n.dispose(id, endOf(res, err)) // the caller has its answer while the sandbox is destroyed
	}
	return res, reusable, err
}

// endOf is why an environment that has returned res and err, and takes no more invocations, has ended.
func endOf(res kiln.Result, err error) fleet.End {
	switch {
	case kiln.KindOf(err) == kiln.Unavailable:
		return fleet.Drained // it was killed
	case err != nil:
		return fleet.Crashed
	}
	switch res.Outcome {
	case kiln.InitFailed:
		return fleet.InitFailed
	case kiln.TimedOut:
		return fleet.TimedOut
	case kiln.OutOfMemory:
		return fleet.OutOfMemory
	default:
		return fleet.Crashed
	}
}

// Settle implements fleet.Worker.
func (n *Node) Settle(id fleet.EnvironmentID, done func(reusable bool)) {
	n.mu.Lock()
	r := n.environments[id]
	n.mu.Unlock()
	if r == nil {
		done(false)
		return
	}
	n.ends.Go(func() {
		reusable := r.Settle()
		done(reusable)
		if !reusable {
			n.Stop(id, fleet.Crashed)
		}
	})
}

// Stop implements fleet.Worker.
func (n *Node) Stop(id fleet.EnvironmentID, why fleet.End) {
	n.mu.Lock()
	r := n.remove(id)
	n.mu.Unlock()
	if r != nil {
		n.end(id, r, why)
	}
}

// remove takes an environment, if it is there, from where it can be found. Whoever does that ends it.
//
// +checklocks:n.mu
func (n *Node) remove(id fleet.EnvironmentID) *resident {
	r := n.environments[id]
	if r != nil {
		delete(n.environments, id)
		n.ending++
	}
	return r
}

// end destroys an environment that was removed, and lets those know who wait for its memory.
func (n *Node) end(id fleet.EnvironmentID, r *resident, why fleet.End) {
	n.destroy(id, r, why)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ending--
	close(n.freed)
	n.freed = make(chan struct{})
}

// destroy destroys an environment that nobody can find, and gives back what it held.
func (n *Node) destroy(id fleet.EnvironmentID, r *resident, why fleet.End) {
	if err := r.Environment.Stop(); err != nil {
		n.cfg.Log.Error("stop environment", "environment", id, "err", err)
	}
	r.release()
	n.cfg.Memory.Release(r.memoryMB)
	if n.cfg.Observer != nil {
		n.cfg.Observer.Ended(why)
	}
}

func (n *Node) observeStart(runtime string, t kiln.Timing, total time.Duration) {
	if n.cfg.Observer != nil {
		n.cfg.Observer.Started(runtime, t, total)
	}
}

// Abandon ends every environment at once, and lets none come any more. Invocations that run fail as Unavailable.
func (n *Node) Abandon() {
	for id, r := range n.drain() {
		if err := r.Kill(); err != nil {
			n.cfg.Log.Error("kill environment", "environment", id, "err", err)
		}
	}
}

// Run waits until ctx ends and then ends every environment. Whoever invokes must have drained before: invocations that still run
// fail.
func (n *Node) Run(ctx context.Context) error {
	n.turns.run(ctx)
	residents := n.drain()
	queue := make(chan fleet.EnvironmentID, len(residents)) // filled here, before anybody reads
	for id := range residents {
		queue <- id
	}
	close(queue)
	until := time.Now().Add(drainGrace)
	for range stopParallelism {
		n.ends.Go(func() {
			for id := range queue {
				n.quit(residents[id], until)
				n.Stop(id, fleet.Drained)
			}
		})
	}
	n.ends.Wait()
	return nil
}

// quit ends an environment: in peace, if nothing runs in it by then.
func (n *Node) quit(r *resident, until time.Time) {
	stopped, err := r.StopBy(until)
	if !stopped {
		err = r.Kill()
	}
	if err != nil {
		n.cfg.Log.Error("end environment", "err", err)
	}
}

// drain lets no environment come any more and returns those that are there.
func (n *Node) drain() map[fleet.EnvironmentID]*resident {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.draining = true
	return maps.Clone(n.environments)
}

// Environments is how many environments there are.
func (n *Node) Environments() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.environments)
}

// States is how many environments are in each state that there is one in. One that starts is in Starting until INIT has ended.
func (n *Node) States() map[environment.State]int {
	n.mu.Lock()
	residents := slices.Collect(maps.Values(n.environments))
	states := map[environment.State]int{environment.Starting: int(n.starting.Load()), environment.Stopping: n.ending}
	n.mu.Unlock()
	for _, r := range residents {
		states[r.State()]++
	}
	return states
}

// endPatience is how long a start waits for the memory of environments that are being destroyed, which takes some 30 ms, before it makes
// do without.
const endPatience = time.Second

func (n *Node) reserve(ctx context.Context, mb int) error {
	if n.isDraining() {
		return errDraining()
	}
	if mb > n.cfg.Memory.total {
		return kiln.Errorf(kiln.Unavailable, "The function needs more memory than the node has for execution environments.")
	}
	patience, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	for {
		ending, freed := n.endings()
		if n.cfg.Memory.Reserve(mb) {
			return nil
		}
		// What waits for functions to come is worth less than one that is there.
		if n.cfg.Preparer.Yield() {
			continue
		}
		if ending > 0 && patience.Err() == nil {
			select {
			case <-freed:
			case <-patience.Done():
			}
			continue
		}
		return &kiln.Error{
			Kind: kiln.Unavailable, Message: "The node has no memory left for another execution environment.",
			Cause: fmt.Errorf("%w: %d of %d MB are promised", fleet.ErrNoRoom, n.cfg.Memory.Reserved(), n.cfg.Memory.total),
		}
	}
}

// endings is how many environments are being destroyed, and what is closed when one has been.
func (n *Node) endings() (int, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ending, n.freed
}

func (n *Node) isDraining() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.draining
}

// admit makes an environment known, unless the node has begun to drain.
func (n *Node) admit(id fleet.EnvironmentID, r *resident) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.draining {
		return false
	}
	n.environments[id] = r
	return true
}

func errDraining() error {
	return &kiln.Error{Kind: kiln.Unavailable, Message: "The node is shutting down.", Cause: errors.New("worker drains")}
}

// newID returns a name that no sandbox had before: 128 random bits.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}
