// Package remote lets a fleet.Worker be in another process of the node: Server serves one on a unix socket, Client is one that asks a
// Server.
//
// Calls go by net/rpc, whose messages must be exported, as many at a time as there are over one connection. Environments belong to the connection over which they were
// Started: when it ends, whoever knew of them is gone, and the server ends them.
package remote

import (
	"errors"
	"time"

	"kiln"
	"kiln/fleet"
)

const service = "Worker"

// Bearer is who has temporary credentials, and what they are.
type Bearer struct {
	Account kiln.AccountID
	// Role is empty if the credentials are no longer valid.
	Role                 string
	Secret, SessionToken string
	// Known says that the worker has issued them.
	Known bool
}

// Starting is what Start is asked for.
type Starting struct {
	Version kiln.Version
	Why     fleet.Initialization
}

// Started is the answer to Start. Fault is nil if there was no error.
type Started struct {
	ID    fleet.EnvironmentID
	Free  int
	Fault *Fault
}

// Invoking is what Invoke is asked for.
type Invoking struct {
	ID         fleet.EnvironmentID
	Invocation kiln.Invocation
}

// Invoked is the answer to Invoke.
type Invoked struct {
	Result   kiln.Result
	Reusable bool
	Fault    *Fault
}

// Stopping is what Stop is asked for.
type Stopping struct {
	ID  fleet.EnvironmentID
	Why fleet.End
}

// Nothing is what is said where there is nothing to say: net/rpc has no calls without.
type Nothing struct{}

// Fault is an error on its way. Its cause becomes a text.
type Fault struct {
	Kind                   kiln.Kind
	Message, Reason, Cause string
	RetryAfter             time.Duration
	Gone, NoRoom, Init     bool
}

func faultOf(err error) *Fault {
	if err == nil {
		return nil
	}
	f := &Fault{Gone: errors.Is(err, fleet.ErrGone), NoRoom: errors.Is(err, fleet.ErrNoRoom), Init: errors.Is(err, fleet.ErrInit)}
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok {
		f.Message = err.Error()
		return f
	}
	f.Kind, f.Message, f.Reason, f.RetryAfter = e.Kind, e.Message, e.Reason, e.RetryAfter
	if e.Cause != nil {
		f.Cause = e.Cause.Error()
	}
	return f
}

func (f *Fault) err() error {
	if f == nil {
		return nil
	}
	if f.Gone {
		return fleet.ErrGone
	}
	e := &kiln.Error{Kind: f.Kind, Message: f.Message, Reason: f.Reason, RetryAfter: f.RetryAfter}
	switch {
	case f.NoRoom:
		e.Cause = fleet.ErrNoRoom
	case f.Init:
		e.Cause = fleet.ErrInit
	case f.Cause != "":
		e.Cause = errors.New(f.Cause)
	}
	return e
}
