// Package provision keeps as many execution environments initialised as functions have provisioned concurrency, beside all invocations.
package provision

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"kiln"
	"kiln/catalog"
)

// Environments are those of the data plane.
type Environments interface {
	// Provide starts an environment of v that stays.
	Provide(ctx context.Context, v *kiln.Version) error
	// Provided is how many environments of a deployment stay, and how many of them are too old to.
	Provided(deployment string, now time.Time) (all, aged int)
	// Withdraw ends n that stay. It does not wait for their end.
	Withdraw(deployment string, n int)
}

// Config says what a Keeper works with.
type Config struct {
	Environments Environments
	// Report tells the control plane of all configurations. An error means that it has to be told again.
	Report func(context.Context, []catalog.ProvisionStatus) error
	Log    *slog.Logger
}

// Keeper keeps environments provisioned. It is safe for concurrent use. Run must be running.
type Keeper struct {
	cfg  Config
	wake chan struct{} // one token is enough

	mu     sync.Mutex
	groups map[key]*group // +checklocks:mu
	slots  int            // +checklocks:mu how many more environments may be started at a time
}

const (
	// parallelism is how many environments are started at a time: those that invocations wait for are to have most of the machine.
	parallelism = 2
	// gather is for how long what happens is gathered before it is looked at, and reported.
	gather = 20 * time.Millisecond
	// repeat is how often it is looked for what has become too old, and the control plane told what it may have lost.
	repeat = 2 * time.Second
)

// New returns a Keeper of nothing.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, wake: make(chan struct{}, 1), groups: make(map[key]*group), slots: parallelism}
}

// Set makes all what is provisioned for a function. It does not block.
func (k *Keeper) Set(a kiln.AccountID, f kiln.FunctionName, all []catalog.Provision) {
	k.mu.Lock()
	wanted := make(map[kiln.Qualifier]bool)
	for _, p := range all {
		name := key{a, f, p.Qualifier}
		if k.groups[name] == nil {
			k.groups[name] = &group{starting: make(map[string]int)}
		}
		k.groups[name].want(p.Asked, p.Shares)
		wanted[p.Qualifier] = true
	}
	for name, g := range k.groups {
		if name.account == a && name.function == f && !wanted[name.qualifier] {
			g.want(time.Time{}, nil)
		}
	}
	k.mu.Unlock()
	k.Look()
}

// Places is how many environments of each deployment are provisioned.
func Places(all []catalog.Provision) map[string]int {
	places := make(map[string]int)
	for _, p := range all {
		for _, s := range p.Shares {
			places[s.Version.Deployment] += s.Places
		}
	}
	return places
}

// Look has it looked whether environments are missing. It does not block.
func (k *Keeper) Look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run starts and ends environments until ctx ends. Those that there are then are the worker's to end.
func (k *Keeper) Run(ctx context.Context) error {
	var starts sync.WaitGroup
	defer starts.Wait()
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	again := time.NewTicker(repeat)
	defer again.Stop()
	var told []catalog.ProvisionStatus
	for {
		repeated := false
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
			select { // for what happens at the same time
			case <-time.After(gather):
			case <-ctx.Done():
			}
		case <-again.C:
			repeated = true
		}
		begun, withdraw, statuses := k.step(time.Now())
		for d, n := range withdraw {
			k.cfg.Environments.Withdraw(d, n)
		}
		for _, s := range begun {
			starts.Go(func() { k.start(starting, s) })
		}
		if len(statuses)+len(told) == 0 || !repeated && slices.EqualFunc(statuses, told, sameStatus) {
			continue
		}
		if err := k.cfg.Report(ctx, statuses); err != nil {
			k.cfg.Log.Debug("report provisioned concurrency", "err", err) // it is told again
			continue
		}
		told = statuses
	}
}

func sameStatus(a, b catalog.ProvisionStatus) bool {
	return a.Account == b.Account && a.Function == b.Function && a.Qualifier == b.Qualifier && a.Asked.Equal(b.Asked) && maps.Equal(a.Shares, b.Shares) &&
		a.Available == b.Available && a.Missing == b.Missing && a.Failure == b.Failure
}

// start is one environment that is started for a group.
type start struct {
	key     key
	version *kiln.Version
}

// step decides what is to be done at now, and counts the starts as begun.
func (k *Keeper) step(now time.Time) (starts []start, withdraw map[string]int, statuses []catalog.ProvisionStatus) {
	provided := func(deployment string) count {
		all, aged := k.cfg.Environments.Provided(deployment, now)
		return count{all, aged}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	withdraw = make(map[string]int)
	wanted := make(map[string]bool)
	for _, g := range k.groups {
		for _, s := range g.shares {
			wanted[s.Version.Deployment] = true
		}
	}
	// What keeps failing must not take the turns of others.
	order := func(a, b key) int {
		return cmp.Or(cmp.Compare(k.groups[a].failures, k.groups[b].failures), a.compare(b))
	}
	for _, name := range slices.SortedFunc(maps.Keys(k.groups), order) {
		g := k.groups[name]
		g.forget(wanted, provided)
		s := g.next(provided, k.slots, now)
		g.begin(s.starts)
		k.slots -= len(s.starts)
		for _, v := range s.starts {
			starts = append(starts, start{name, v})
		}
		for d, n := range s.withdraw {
			withdraw[d] = max(withdraw[d], n)
		}
		if g.done() {
			delete(k.groups, name)
			continue
		}
		if len(g.shares) > 0 {
			statuses = append(statuses, status(name, g, s))
		}
	}
	return starts, withdraw, statuses
}

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.account, other.account), cmp.Compare(k.function, other.function), cmp.Compare(k.qualifier, other.qualifier))
}

func status(name key, g *group, does step) catalog.ProvisionStatus {
	s := catalog.ProvisionStatus{
		Account: name.account, Function: name.function, Qualifier: name.qualifier, Asked: g.asked, Shares: make(map[kiln.Qualifier]int),
		Available: does.available, Missing: does.missing, Failure: reason(g.failure),
	}
	for _, share := range g.shares {
		s.Shares[share.Version.Qualifier] = share.Places
	}
	return s
}

// start starts an environment.
func (k *Keeper) start(ctx context.Context, s start) {
	err := k.cfg.Environments.Provide(ctx, s.version)
	if kiln.KindOf(err) == kiln.TooManyRequests {
		err = errors.Join(errNoRoom, err)
	}
	if err != nil && ctx.Err() == nil {
		k.cfg.Log.Warn("start provisioned environment", "function", s.version.Function, "version", s.version.Qualifier, "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slots++
	if g := k.groups[s.key]; g != nil {
		g.end(s.version.Deployment, err, time.Now())
	}
	k.Look()
}
