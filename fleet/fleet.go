// Package fleet is the protocol between the data plane and the workers. It holds no policy: the data plane decides what runs
// where, a worker does it.
package fleet

import (
	"context"
	"errors"
	"fmt"

	"kiln"
)

// ErrGone is returned by Worker.Invoke for an environment that has ended.
var ErrGone = errors.New("environment has ended")

// ErrNoRoom is wrapped by the error of a Worker.Start that would succeed if enough other environments were stopped first.
var ErrNoRoom = errors.New("no room for another environment")

// ErrInit is wrapped by the error of a Worker.Start for no invocation when INIT failed.
var ErrInit = errors.New("INIT failed")

// EnvironmentID names one execution environment of one worker; it is never used again.
type EnvironmentID string

// Ended is how a worker tells that an environment which has served an invocation has ended by itself, so that none is given to it any
// more: Invoke would answer ErrGone. It must not block. It may be told of an environment that was asked to stop.
type Ended func(EnvironmentID)

// Worker runs execution environments. It is safe for concurrent use.
type Worker interface {
	// Start makes an environment for v and runs its INIT phase. An INIT that fails is not an error if why is OnDemand: the first Invoke
	// reports it. Errors are of kind InvalidRuntime (this worker has no such runtime), InvalidZipFile, Unavailable (no room, which
	// wraps ErrNoRoom, or draining), or Internal.
	Start(ctx context.Context, v *kiln.Version, why Initialization) (EnvironmentID, error)

	// Invoke runs one invocation in an idle environment and returns when the function answered, failed or was stopped at its
	// timeout. reusable says whether the environment can take another; if not, it is already being destroyed. ErrGone means
	// that the environment had ended before it could take the invocation, which was not started.
	Invoke(ctx context.Context, id EnvironmentID, inv kiln.Invocation) (res kiln.Result, reusable bool, err error)

	// Settle is called once after an Invoke whose result was Unsettled. It calls done when the environment is idle or, if reusable is
	// false, has ended, and does not wait for that.
	Settle(id EnvironmentID, done func(reusable bool))

	// Stop ends an environment, for the reason given. Stopping one that has ended does nothing.
	Stop(id EnvironmentID, why End)
}

// Initialization is why an environment is started.
type Initialization uint8

// The reasons to start one.
const (
	// OnDemand: an invocation waits for it.
	OnDemand Initialization = iota
	// Provisioned: it is to be there before one comes.
	Provisioned
	// Expected: one is likely to come soon.
	Expected
)

// String returns what AWS calls it, as functions read it in AWS_LAMBDA_INITIALIZATION_TYPE.
func (i Initialization) String() string {
	if i == Provisioned {
		return "provisioned-concurrency"
	}
	return "on-demand"
}

// End is why an environment ended.
type End uint8

// The reasons.
const (
	// Idle: no invocation came for long.
	Idle End = iota
	// Aged: it was as old as an environment may become.
	Aged
	// Retired: its deployment is no longer current.
	Retired
	// Evicted: its memory was needed for another.
	Evicted
	// Drained: the worker ended.
	Drained
	InitFailed
	TimedOut
	OutOfMemory
	// Crashed: the runtime or the sandbox ended by itself, or broke the protocol of invocations.
	Crashed
	// Released: as many are no longer provisioned.
	Released
	// Orphaned: the process that had it started has ended.
	Orphaned
)

var endNames = [...]string{"idle", "aged", "retired", "evicted", "drained", "init_failed", "timed_out", "out_of_memory", "crashed", "released", "orphaned"}

// String returns the reason's name in lower case.
func (e End) String() string {
	if int(e) < len(endNames) {
		return endNames[e]
	}
	return fmt.Sprintf("End(%d)", uint8(e))
}
