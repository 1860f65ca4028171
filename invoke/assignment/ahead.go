package assignment

import (
	"context"
	"math"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/invoke/forecast"
)

const (
	// aheadParallelism is how many environments are started before their calls at a time: those that are waited for go before.
	aheadParallelism = 2
	// leastPrice is the least part of its price that memory has while nearly none is used. It is free then, but not for ever.
	leastPrice = 1.0 / priceSteps
	// priceSteps is how many prices there are up to the full one. For each one all forecasts are made anew.
	priceSteps = 8
	// longestTick bounds how late an environment ends or starts that is held by the minute.
	longestTick = 5 * time.Second
)

// called is what calls are learned of: a version by its qualifier, so that what is known of $LATEST outlives its changes.
type called struct {
	account   kiln.AccountID
	function  kiln.FunctionName
	qualifier kiln.Qualifier
}

func calledAs(v *kiln.Version) called { return called{v.Account, v.Function, v.Qualifier} }

// learn counts a call of v, for which Take has counted an environment.
//
// +checklocks:a.mu
func (a *Assigner) learn(v *kiln.Version) {
	if a.cfg.IdleTimeout == 0 {
		a.forecast.Called(calledAs(v), a.table.Busy(v.Deployment), v.MemoryMB, time.Now())
	}
}

// tick is how often it is looked for what is too old, idle for too long or to be started.
func (a *Assigner) tick() time.Duration {
	if a.cfg.IdleTimeout == 0 {
		return max(min(a.cfg.MaxAge/looks, longestTick), minTick)
	}
	return max(min(a.cfg.IdleTimeout, a.cfg.MaxAge)/looks, minTick)
}

// unlikely takes from the table the idle environments that are not likely enough to be called to be worth their memory: the less of that
// is left, the more it is worth.
//
// +checklocks:a.mu
func (a *Assigner) unlikely(now time.Time) []Start {
	used := math.Ceil(a.cfg.Used()*priceSteps) / priceSteps
	a.forecast.SetPrice(forecast.DefaultPolicy().Price * max(used, leastPrice))
	return a.table.Surplus(func(v *kiln.Version, n int) bool { return a.forecast.Holds(calledAs(v), n, now) })
}

// expected returns the versions that are likely to be called soon, and of which there is no environment.
func (a *Assigner) expected(now time.Time) []*kiln.Version {
	if a.cfg.IdleTimeout > 0 || a.cfg.Resolve == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queue.Waiting() > 0 {
		return nil // nothing is left for what may be
	}
	var all []*kiln.Version
	for _, c := range a.forecast.Due(now, aheadParallelism) {
		v, err := a.cfg.Resolve(c.account, c.function, c.qualifier)
		switch {
		case err != nil:
			a.forecast.Forget(c) // the version has been deleted
		case v.State == kiln.StateActive && !a.table.Has(v.Deployment):
			all = append(all, v)
		}
	}
	return all
}

// startAhead starts an environment of v, unless there is no room.
func (a *Assigner) startAhead(ctx context.Context, v *kiln.Version) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.breaker.check(v.Deployment, time.Now()) != nil {
		return
	}
	a.hold(time.Now(), v, 1)
	s, err := a.try(ctx, &waiter{version: v, why: fleet.Expected})
	if err != nil {
		a.refuse(v) // whoever calls is told why, if it is so still
		return
	}
	a.table.AddIdle(v.Deployment, s)
	if a.queue.Waiting() > 0 {
		a.pass(s.At, s)
	}
}
