// Package assignment gives each invocation an execution environment: an idle one of its deployment, newest first, or a new one. While
// there is no room for another, invocations wait, and accounts and functions share what there is.
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
	"kiln/internal/fairqueue"
	"kiln/invoke/admission"
	"kiln/invoke/forecast"
)

// Config says what an Assigner works with.
type Config struct {
	Worker fleet.Worker
	// IdleTimeout is how long an environment may stay idle before it is stopped; 0 means for as long as a call is likely enough.
	IdleTimeout time.Duration
	// MaxAge is how old an environment may be when it becomes idle or is; 0 means DefaultMaxAge. Each is given up to a tenth less, so
	// that those of one burst do not end together.
	MaxAge time.Duration
	// MaxWaiting is how many invocations may wait for room; 0 means DefaultMaxWaiting.
	MaxWaiting int
	// MaxWait is how long one may; 0 means DefaultMaxWait.
	MaxWait time.Duration
	// Observer is told of those that waited; nil means that nobody is.
	Observer Observer
	// Resolve returns the version that a function has under a qualifier now, to start an environment before it is called. Nil means that
	// none is.
	Resolve func(kiln.AccountID, kiln.FunctionName, kiln.Qualifier) (*kiln.Version, error)
	// Used is the part of the workers' memory that is promised, 0 to 1; nil means that it is all, always.
	Used func() float64
	// Lost is told when an environment that was provisioned has ended or ends; nil means that nobody is. It must not block.
	Lost func()
}

// Observer counts invocations that wait for room. It must not block, and is called from many goroutines at once.
type Observer interface {
	// Waited tells that an invocation has waited for so long, and whether it was then served.
	Waited(took time.Duration, served bool)
}

const (
	// DefaultMaxAge ends what a busy function's environments have gathered, files and leaks, some times a day.
	DefaultMaxAge = 4 * time.Hour
	// DefaultMaxWaiting is more than one account of AWS's usual limit can have waiting.
	DefaultMaxWaiting = 10_000
	// DefaultMaxWait is longer than what is short of room is given to those who had it last, and within what clients wait.
	DefaultMaxWait = 10 * time.Second
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
	// queue is who holds memory, in MB, and who waits for it.
	queue   *fairqueue.Queue[*waiter] // +checklocks:mu
	breaker *breaker                  // +checklocks:mu
	// forecast is when functions are called; unused if there is an IdleTimeout.
	forecast *forecast.Forecaster[called] // +checklocks:mu
	granted  time.Time                    // +checklocks:mu when one who waited was last given something
	// moving is how many environments are ended for others, which have not got their memory yet.
	moving int // +checklocks:mu
	// startTime is the mean of what starts take.
	startTime time.Duration // +checklocks:mu
	closed    bool          // +checklocks:mu nobody may wait any more

	// wake tells Run that some are doomed, or wait; one token is enough.
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
	Start
	why fleet.End
}

// stopParallelism bounds how many environments are stopped at a time: one that is slow to end must not hold up the others.
const stopParallelism = 4

// New returns an Assigner.
func New(cfg Config) *Assigner {
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = DefaultMaxWaiting
	}
	if cfg.Used == nil {
		cfg.Used = func() float64 { return 1 }
	}
	if cfg.Lost == nil {
		cfg.Lost = func() {}
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = DefaultMaxWait
	}
	return &Assigner{
		cfg: cfg, table: NewTable(), wake: make(chan struct{}, 1), breaker: newBreaker(), queue: newQueue(cfg.MaxWaiting),
		forecast: forecast.New[called](forecast.Config{Policy: forecast.DefaultPolicy()}),
	}
}

// startAllowance is what an invocation may take beyond its function's timeout, once it does not wait any more: a sandbox and INIT.
const startAllowance = 2 * time.Minute

// Invoke runs inv in an environment of v. It returns an error only if the platform could not run it: of kind TooManyRequests if there
// was no room for long, if v's function may not grow so fast, or if the INIT of v keeps failing. An invocation that need not wait, or has
// waited, goes on when ctx ends because its caller went away, as on AWS. The lease is released after the environment, so that who takes
// the place finds one that is idle.
func (a *Assigner) Invoke(ctx context.Context, v *kiln.Version, inv kiln.Invocation, lease admission.Lease) (kiln.Result, error) {
	for range maxRetries {
		res, err := a.invoke(ctx, v, inv, lease)
		if errors.Is(err, fleet.ErrGone) {
			continue
		}
		if !res.Unsettled {
			lease.Release(time.Now())
		}
		return res, err
	}
	lease.Release(time.Now())
	return kiln.Result{}, kiln.Errorf(kiln.Unavailable, "The execution environments of the function keep ending. Please try again.")
}

// invoke runs inv once. If the result is Unsettled it releases the lease, when the environment is free.
func (a *Assigner) invoke(ctx context.Context, v *kiln.Version, inv kiln.Invocation, lease admission.Lease) (kiln.Result, error) {
	id, waited, err := a.acquire(ctx, v, lease)
	if err != nil {
		return kiln.Result{}, err
	}
	work, cancel := working(ctx, v)
	defer cancel()
	res, reusable, err := a.cfg.Worker.Invoke(work, id, inv)
	res.Timing.Queue += waited
	done := func(reusable bool) { a.release(v, id, reusable, err == nil && res.Outcome == kiln.InitFailed) }
	if res.Unsettled {
		a.cfg.Worker.Settle(id, func(reusable bool) { done(reusable); lease.Release(time.Now()) })
	} else {
		done(reusable)
	}
	return res, err
}

// working is the context of work that goes on when the caller goes away.
func working(ctx context.Context, v *kiln.Version) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), v.Timeout+startAllowance)
}

// acquire takes an idle environment or starts one, if the lease allows it. waited is how long it waited for room.
func (a *Assigner) acquire(ctx context.Context, v *kiln.Version, lease admission.Lease) (id fleet.EnvironmentID, waited time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, ok := a.table.Take(v.Deployment)
	a.learn(v)
	if ok {
		return id, 0, nil
	}
	w := &waiter{version: v, grants: make(chan grant, 1)}
	if id, err = a.obtain(ctx, w, lease); err != nil {
		a.table.Cancel(v.Deployment)
	}
	return id, w.waited, err
}

// obtain starts an environment for w, of whose version the table has none that is idle, or is passed one while w waits for room.
//
// +checklocks:a.mu
func (a *Assigner) obtain(ctx context.Context, w *waiter, lease admission.Lease) (fleet.EnvironmentID, error) {
	v := w.version
	if err := a.breaker.check(v.Deployment, time.Now()); err != nil {
		return "", err
	}
	if a.queue.Waiting() > 0 {
		if err := a.wait(ctx, w); err != nil || w.got.passed {
			return w.got.id, err
		}
	} else {
		a.hold(time.Now(), v, 1)
	}
	if err := lease.Start(time.Now()); err != nil {
		a.decline(w)
		return "", err
	}
	for {
		id, err := a.start(ctx, w)
		if !errors.Is(err, fleet.ErrNoRoom) {
			return id, err
		}
		if err := a.wait(ctx, w); err != nil || w.got.passed {
			return w.got.id, err
		}
	}
}

// start starts an environment for w, which holds the memory for it, and makes room by ending idle ones. If one of its own has become
// idle meanwhile it takes that. When it returns no new one the memory is not held any more.
//
// +checklocks:a.mu
func (a *Assigner) start(ctx context.Context, w *waiter) (fleet.EnvironmentID, error) {
	v := w.version
	for {
		s, err := a.try(ctx, w)
		if err == nil {
			a.pace(s.Took)
			a.add(w, s)
			return s.ID, nil
		}
		if !errors.Is(err, fleet.ErrNoRoom) {
			a.refuse(v)
			return "", err
		}
		now := time.Now()
		a.hold(now, v, -1)
		if id, ok := a.claim(w); ok {
			return id, nil
		}
		if !a.evict(now, w) {
			return "", err
		}
	}
}

// refuse counts memory that was held for an environment of v, which does not come, as held no more. Who waits may have it.
//
// +checklocks:a.mu
func (a *Assigner) refuse(v *kiln.Version) {
	now := time.Now()
	a.hold(now, v, -1)
	a.grantNext(now)
}

// try asks the worker for an environment, after that has been ended which makes room for it.
//
// +checklocks:a.mu
func (a *Assigner) try(ctx context.Context, w *waiter) (Start, error) {
	defer a.moved(w)
	a.mu.Unlock()
	defer a.mu.Lock()
	if w.got.surrendered != "" {
		a.cfg.Worker.Stop(w.got.surrendered, fleet.Evicted)
	}
	begun := time.Now()
	work, cancel := ctx, context.CancelFunc(func() {})
	if w.why == fleet.OnDemand {
		work, cancel = working(ctx, w.version)
	}
	defer cancel()
	id, err := a.cfg.Worker.Start(work, w.version, w.why)
	now := time.Now()
	return Start{
		ID: id, Version: w.version, Flow: flow(w.version), At: now, Took: now.Sub(begun), MemoryMB: w.version.MemoryMB,
		Until: now.Add(a.cfg.MaxAge - rand.N(a.cfg.MaxAge/10+1)),
	}, err
}

// release makes an environment of v idle again, passes it on to one who waits, or forgets it.
func (a *Assigner) release(v *kiln.Version, id fleet.EnvironmentID, reusable, initFailed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.breaker.observe(v.Deployment, reusable, initFailed, now)
	s := a.table.Get(id)
	if !reusable {
		a.table.Drop(id)
		a.letGo(now, s)
		a.lose(s)
		return
	}
	why, ok := a.table.Put(id, now)
	switch {
	case !ok:
		a.doom(why, s)
		a.lose(s)
	case a.queue.Waiting() > 0:
		a.pass(now, s)
	}
}

// Retire ends the environments of a deployment that is no longer current: idle ones soon, busy ones when their invocation is
// done. It does not wait for their end.
func (a *Assigner) Retire(deployment string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.forget(deployment)
	a.doom(fleet.Retired, a.table.Retire(deployment)...)
}

// Ended is fleet.Ended: no invocation is given to the environment any more.
func (a *Assigner) Ended(id fleet.EnvironmentID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, idle := a.table.Ended(id); idle {
		a.letGo(time.Now(), s)
		a.lose(s)
	}
}

// doom hands environments to Run.
//
// +checklocks:a.mu
func (a *Assigner) doom(why fleet.End, all ...Start) {
	for _, s := range all {
		a.doomed = append(a.doomed, doomed{s, why})
	}
	a.awake()
}

func (a *Assigner) awake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run stops environments that are retired, too old or idle for too long, and lets those who wait for room look for it, until ctx ends.
// What it leaves then is the worker's to end.
func (a *Assigner) Run(ctx context.Context) error {
	var stops, ahead errgroup.Group
	stops.SetLimit(stopParallelism)
	ahead.SetLimit(aheadParallelism)
	defer stops.Wait() // its functions return no error
	defer ahead.Wait() // nor do these
	defer a.refuseAll()
	tick := time.NewTicker(a.tick())
	defer tick.Stop()
	var look <-chan time.Time // while some wait
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case now := <-tick.C:
			a.expire(now)
			for _, v := range a.expected(now) {
				if !ahead.TryGo(func() error { a.startAhead(ctx, v); return nil }) {
					break // there will be one when it is called
				}
			}
		case now := <-look:
			a.offer(now)
			look = nil
		}
		if look == nil && a.Waiting() > 0 {
			look = time.After(lookForRoom)
		}
		for _, d := range a.takeDoomed() {
			stops.Go(func() error { a.stop(d); return nil })
		}
	}
}

// stop ends an environment, whose memory is then for those who wait.
func (a *Assigner) stop(d doomed) {
	a.cfg.Worker.Stop(d.ID, d.why)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.letGo(time.Now(), d.Start)
}

func (a *Assigner) expire(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.IdleTimeout > 0 {
		a.doom(fleet.Idle, a.table.Expire(now.Add(-a.cfg.IdleTimeout))...)
	} else {
		a.doom(fleet.Idle, a.unlikely(now)...)
	}
	a.doom(fleet.Aged, a.table.Age(now)...)
}

func (a *Assigner) takeDoomed() []doomed {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.doomed
	a.doomed = nil
	return taken
}
