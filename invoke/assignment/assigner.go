// Package assignment gives each invocation an execution environment: an idle one of its deployment, newest first, or a new one.
package assignment

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln"
	"kiln/fleet"
	"kiln/invoke/admission"
)

// Config says what an Assigner works with.
type Config struct {
	Worker fleet.Worker
	// IdleTimeout is how long an environment may stay idle before it is stopped; 0 means DefaultIdleTimeout.
	IdleTimeout time.Duration
	// MaxAge is how old an environment may be when it becomes idle or is; 0 means DefaultMaxAge. Each is given up to a tenth less, so
	// that those of one burst do not end together.
	MaxAge time.Duration
}

const (
	// DefaultIdleTimeout keeps environments about as long as AWS is seen to keep them.
	DefaultIdleTimeout = 5 * time.Minute
	// DefaultMaxAge ends what a busy function's environments have gathered, files and leaks, some times a day.
	DefaultMaxAge = 4 * time.Hour
)

// maxRetries bounds how many environments that turn out to have ended one invocation may meet.
const maxRetries = 8

// Assigner runs invocations in environments. It is safe for concurrent use. Run must be running.
type Assigner struct {
	cfg Config

	mu    sync.Mutex
	table *Table // +checklocks:mu
	// doomed are environments that Run has yet to stop: at most as many as the worker has.
	doomed []doomed // +checklocks:mu

	// wake tells Run that there are doomed ones; one token is enough.
	wake chan struct{}
}

const (
	// looks is how often within the shorter of the two times it is looked for what is idle too long or too old: several times within the
	// tenth of an age by which those of one burst differ.
	looks = 60
	// minTick bounds that.
	minTick = 10 * time.Millisecond
)

// doomed is an environment that is to be stopped.
type doomed struct {
	id  fleet.EnvironmentID
	why fleet.End
}

// stopParallelism bounds how many environments are stopped at a time: one that is slow to end must not hold up the others.
const stopParallelism = 4

// New returns an Assigner.
func New(cfg Config) *Assigner {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	return &Assigner{cfg: cfg, table: NewTable(), wake: make(chan struct{}, 1)}
}

// Invoke runs inv in an environment of v. It returns an error only if the platform could not run it, or v's function may not grow so
// fast. It releases the lease after the environment, so that who takes the place finds one that is idle.
func (a *Assigner) Invoke(ctx context.Context, v *kiln.Version, inv kiln.Invocation, lease admission.Lease) (kiln.Result, error) {
	release := true
	defer func() {
		if release {
			lease.Release(time.Now())
		}
	}()
	for range maxRetries {
		id, err := a.acquire(ctx, v, lease)
		if err != nil {
			return kiln.Result{}, err
		}
		res, reusable, err := a.cfg.Worker.Invoke(ctx, id, inv)
		if res.Unsettled {
			release = false
			a.settle(id, lease)
			return res, err
		}
		a.release(id, reusable)
		if !errors.Is(err, fleet.ErrGone) {
			return res, err
		}
	}
	return kiln.Result{}, kiln.Errorf(kiln.Unavailable, "The execution environments of the function keep ending. Please try again.")
}

// settle releases the environment and then the lease when extensions are done with the invocation.
func (a *Assigner) settle(id fleet.EnvironmentID, lease admission.Lease) {
	a.cfg.Worker.Settle(id, func(reusable bool) {
		a.release(id, reusable)
		lease.Release(time.Now())
	})
}

// acquire takes an idle environment or starts one, if the lease allows it.
func (a *Assigner) acquire(ctx context.Context, v *kiln.Version, lease admission.Lease) (fleet.EnvironmentID, error) {
	a.mu.Lock()
	id, ok := a.table.Take(v.Deployment)
	a.mu.Unlock()
	if ok {
		return id, nil
	}
	begun := time.Now()
	err := lease.Start(begun)
	if err == nil {
		id, err = a.start(ctx, v)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.table.Cancel(v.Deployment)
		return "", err
	}
	now := time.Now()
	until := now.Add(a.cfg.MaxAge - rand.N(a.cfg.MaxAge/10+1))
	a.table.Add(v.Deployment, Start{ID: id, Took: now.Sub(begun), MemoryMB: v.MemoryMB, Until: until})
	return id, nil
}

// start starts an environment, and makes room by ending idle ones while the worker has none.
func (a *Assigner) start(ctx context.Context, v *kiln.Version) (fleet.EnvironmentID, error) {
	for {
		id, err := a.cfg.Worker.Start(ctx, v)
		if !errors.Is(err, fleet.ErrNoRoom) {
			return id, err
		}
		a.mu.Lock()
		victim, ok := a.table.Evict()
		a.mu.Unlock()
		if !ok {
			return "", err
		}
		a.cfg.Worker.Stop(victim, fleet.Evicted)
	}
}

// release makes an environment idle again, or forgets it.
func (a *Assigner) release(id fleet.EnvironmentID, reusable bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !reusable {
		a.table.Drop(id)
		return
	}
	if why, ok := a.table.Put(id, time.Now()); !ok {
		a.doom(why, id)
	}
}

// Retire ends the environments of a deployment that is no longer current: idle ones soon, busy ones when their invocation is
// done. It does not wait for their end.
func (a *Assigner) Retire(deployment string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doom(fleet.Retired, a.table.Retire(deployment)...)
}

// Ended is fleet.Ended: no invocation is given to the environment any more.
func (a *Assigner) Ended(id fleet.EnvironmentID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.table.Ended(id)
}

// doom hands environments to Run.
//
// +checklocks:a.mu
func (a *Assigner) doom(why fleet.End, ids ...fleet.EnvironmentID) {
	for _, id := range ids {
		a.doomed = append(a.doomed, doomed{id, why})
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run stops environments that are retired, too old or idle for too long, until ctx ends. What it leaves then is the worker's to end.
func (a *Assigner) Run(ctx context.Context) error {
	var stops errgroup.Group
	stops.SetLimit(stopParallelism)
	defer stops.Wait() // its functions return no error
	tick := time.NewTicker(max(min(a.cfg.IdleTimeout, a.cfg.MaxAge)/looks, minTick))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case now := <-tick.C:
			a.expire(now)
		}
		for _, d := range a.takeDoomed() {
			stops.Go(func() error { a.cfg.Worker.Stop(d.id, d.why); return nil })
		}
	}
}

func (a *Assigner) expire(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doom(fleet.Idle, a.table.Expire(now.Add(-a.cfg.IdleTimeout))...)
	a.doom(fleet.Aged, a.table.Age(now)...)
}

func (a *Assigner) takeDoomed() []doomed {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.doomed
	a.doomed = nil
	return taken
}
