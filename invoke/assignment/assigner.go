// Package assignment gives each invocation an execution environment: an idle one of its deployment, newest first, or a new one.
package assignment

import (
	"context"
	"errors"
	"sync"
	"time"

	"kiln"
	"kiln/fleet"
)

// Config says what an Assigner works with.
type Config struct {
	Worker fleet.Worker
	// IdleTimeout is how long an environment may stay idle before it is stopped; 0 means DefaultIdleTimeout.
	IdleTimeout time.Duration
}

// DefaultIdleTimeout keeps environments about as long as AWS is seen to keep them.
const DefaultIdleTimeout = 5 * time.Minute

// maxRetries bounds how many environments that turn out to have ended one invocation may meet.
const maxRetries = 8

// Assigner runs invocations in environments. It is safe for concurrent use. Run must be running.
type Assigner struct {
	cfg Config

	mu    sync.Mutex
	table *Table // +checklocks:mu

	// stops are environments to stop, taken by Run. The buffer lets a retirement of many return at once; when it is full, the
	// one who retires waits.
	stops chan fleet.EnvironmentID
}

// New returns an Assigner.
func New(cfg Config) *Assigner {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	return &Assigner{cfg: cfg, table: NewTable(), stops: make(chan fleet.EnvironmentID, 64)}
}

// Invoke runs inv in an environment of v. It returns an error only if the platform could not run it.
func (a *Assigner) Invoke(ctx context.Context, v *kiln.Version, inv kiln.Invocation) (kiln.Result, error) {
	for range maxRetries {
		id, err := a.acquire(ctx, v)
		if err != nil {
			return kiln.Result{}, err
		}
		res, reusable, err := a.cfg.Worker.Invoke(ctx, id, inv)
		a.release(ctx, v, id, reusable)
		if !errors.Is(err, fleet.ErrGone) {
			return res, err
		}
	}
	return kiln.Result{}, kiln.Errorf(kiln.Unavailable, "The execution environments of the function keep ending. Please try again.")
}

// acquire takes an idle environment or starts one.
func (a *Assigner) acquire(ctx context.Context, v *kiln.Version) (fleet.EnvironmentID, error) {
	a.mu.Lock()
	id, ok := a.table.Take(v.Deployment)
	a.mu.Unlock()
	if ok {
		return id, nil
	}
	id, err := a.start(ctx, v)
	if err != nil {
		a.mu.Lock()
		a.table.Drop(v.Deployment)
		a.mu.Unlock()
	}
	return id, err
}

// start starts an environment, and makes room by ending idle ones while the worker has none.
func (a *Assigner) start(ctx context.Context, v *kiln.Version) (fleet.EnvironmentID, error) {
	for {
		id, err := a.cfg.Worker.Start(ctx, v)
		if kiln.KindOf(err) != kiln.Unavailable {
			return id, err
		}
		a.mu.Lock()
		victim, ok := a.table.Evict()
		a.mu.Unlock()
		if !ok {
			return "", err
		}
		a.cfg.Worker.Stop(victim)
	}
}

// release makes an environment idle again, or forgets it.
func (a *Assigner) release(ctx context.Context, v *kiln.Version, id fleet.EnvironmentID, reusable bool) {
	a.mu.Lock()
	retired := false
	if reusable {
		retired = !a.table.Put(v.Deployment, id, time.Now())
	} else {
		a.table.Drop(v.Deployment)
	}
	a.mu.Unlock()
	if retired {
		a.stop(ctx, []fleet.EnvironmentID{id})
	}
}

// Retire ends the environments of a deployment that is no longer current: idle ones soon, busy ones when their invocation is
// done.
func (a *Assigner) Retire(ctx context.Context, deployment string) {
	a.mu.Lock()
	ids := a.table.Retire(deployment)
	a.mu.Unlock()
	a.stop(ctx, ids)
}

// stop hands environments to Run. When ctx ends they are left to the worker, which ends all it has.
func (a *Assigner) stop(ctx context.Context, ids []fleet.EnvironmentID) {
	for _, id := range ids {
		select {
		case a.stops <- id:
		case <-ctx.Done():
			return
		}
	}
}

// Run stops environments that are retired or idle for too long, until ctx ends.
func (a *Assigner) Run(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.IdleTimeout / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-a.stops:
			a.cfg.Worker.Stop(id)
		case now := <-tick.C:
			a.mu.Lock()
			ids := a.table.Expire(now.Add(-a.cfg.IdleTimeout))
			a.mu.Unlock()
			for _, id := range ids {
				a.cfg.Worker.Stop(id)
			}
		}
	}
}
