// Package fleettest has a worker whose environments are simulated, for tests and benchmarks of what stands before it.
package fleettest

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"kiln"
	"kiln/fleet"
)

// Worker implements fleet.Worker. Its environments start at once and answer with the event after Duration. It has room for any number
// of them. It counts by itself, so that what the data plane counts can be compared with it. It is safe for concurrent use.
type Worker struct {
	// Duration is how long each invocation takes, of the clock of time.Sleep: 0 means that it takes no time.
	Duration time.Duration

	started, running, most, invoked atomic.Int64
}

var errCanceled = errors.New("the simulated invocation was canceled")

// Started is how many environments were started.
func (w *Worker) Started() int { return int(w.started.Load()) }

// Running is how many invocations run.
func (w *Worker) Running() int { return int(w.running.Load()) }

// Most is how many have run at a time.
func (w *Worker) Most() int { return int(w.most.Load()) }

// Invoked is how many invocations have ended.
func (w *Worker) Invoked() int { return int(w.invoked.Load()) }

// Start implements fleet.Worker.
func (w *Worker) Start(context.Context, *kiln.Version, fleet.Initialization) (fleet.EnvironmentID, error) {
	return fleet.EnvironmentID(strconv.FormatInt(w.started.Add(1), 10)), nil
}

// Invoke implements fleet.Worker.
func (w *Worker) Invoke(ctx context.Context, _ fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	w.enter()
	defer w.leave()
	if w.Duration > 0 {
		timer := time.NewTimer(w.Duration)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return kiln.Result{}, false, errCanceled
		}
	}
	return kiln.Result{Payload: inv.Payload}, true, nil
}

func (w *Worker) enter() {
	n := w.running.Add(1)
	for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
	}
}

func (w *Worker) leave() {
	w.running.Add(-1)
	w.invoked.Add(1)
}

// Settle implements fleet.Worker. No result is unsettled, so it is never called.
func (w *Worker) Settle(_ fleet.EnvironmentID, done func(bool)) { done(true) }

// Stop implements fleet.Worker.
func (w *Worker) Stop(fleet.EnvironmentID, fleet.End) {}
