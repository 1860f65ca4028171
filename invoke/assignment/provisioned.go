package assignment

import (
	"context"
	"errors"
	"time"

	"kiln"
	"kiln/fleet"
)

// Provide starts an environment of v that stays, whether it is used or not, until Withdraw or its deployment's end. It waits for room as
// an invocation does. Errors are those of fleet.Worker.Start, or of kind TooManyRequests if there was no room.
func (a *Assigner) Provide(ctx context.Context, v *kiln.Version) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := &waiter{version: v, why: fleet.Provisioned, grants: make(chan grant, 1)}
	if a.queue.Waiting() > 0 {
		if err := a.wait(ctx, w); err != nil {
			return err
		}
	} else {
		a.hold(time.Now(), v, 1)
	}
	for {
		_, err := a.start(ctx, w)
		if !errors.Is(err, fleet.ErrNoRoom) {
			return err
		}
		if err := a.wait(ctx, w); err != nil {
			return err
		}
	}
}

// Provided is how many environments of a deployment are provisioned, and how many of them are too old to be that for long.
func (a *Assigner) Provided(deployment string, now time.Time) (all, aged int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.table.Provided(deployment, now)
}

// Withdraw ends the provisioning of n environments of a deployment: idle ones end soon, busy ones when their invocation is done.
func (a *Assigner) Withdraw(deployment string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doom(fleet.Released, a.table.Withdraw(deployment, n)...)
}

// add gives the table an environment that was started for w.
//
// +checklocks:a.mu
func (a *Assigner) add(w *waiter, s Start) {
	if w.why == fleet.OnDemand {
		a.table.Add(w.version.Deployment, s)
		return
	}
	a.table.Provide(w.version.Deployment, s)
	a.passProvisioned(s.At, a.table.Get(s.ID))
}

// claim takes an environment that has become idle since there was none for w, which may be an invocation.
//
// +checklocks:a.mu
func (a *Assigner) claim(w *waiter) (fleet.EnvironmentID, bool) {
	if w.why == fleet.Provisioned {
		return "", false
	}
	return a.table.Claim(w.version.Deployment)
}

// passProvisioned gives an idle environment that is provisioned to an invocation of its deployment, if one waits. Its room is nobody
// else's.
//
// +checklocks:a.mu
func (a *Assigner) passProvisioned(now time.Time, s Start) {
	next := a.queue.Take(now, s.Flow, func(w *waiter) bool {
		return w.why == fleet.OnDemand && a.table.Serves(s.ID, w.version.Deployment)
	})
	if next != nil {
		a.table.Pass(s.ID)
		next.Item.grants <- grant{id: s.ID, passed: true}
	}
}

// lose tells of the end of an environment if it was provisioned.
//
// +checklocks:a.mu
func (a *Assigner) lose(s Start) {
	if s.Provisioned {
		a.cfg.Lost()
	}
}
