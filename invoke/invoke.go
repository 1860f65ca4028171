// Package invoke is the synchronous data plane: resolve the version, admit the invocation, assign it an environment, run it.
// It reads memory only; no store is on its way.
package invoke

import (
	"context"
	"time"

	"kiln"
	"kiln/invoke/admission"
)

// Resolver finds the version that a qualifier means. An empty qualifier means LatestVersion.
type Resolver interface {
	Resolve(a kiln.AccountID, f kiln.FunctionName, q kiln.Qualifier) (*kiln.Version, error)
	// CatchUp waits, for a second at most, until Resolve knows of every change of a function that has been acknowledged.
	CatchUp(ctx context.Context, a kiln.AccountID, f kiln.FunctionName)
}

// Runner runs an invocation of a version in an environment. One that has begun goes on when ctx ends because the caller went away, as
// on AWS.
type Runner interface {
	// Invoke releases the lease once, whatever happens, and not before the environment is free for another: extensions may go on after
	// the result.
	Invoke(ctx context.Context, v *kiln.Version, inv kiln.Invocation, lease admission.Lease) (kiln.Result, error)
}

// Observer counts invocations. It is called from many goroutines at once.
type Observer interface {
	// Invoked tells how an invocation ended, refused ones included, and how long it took in all. It must neither block nor keep res.
	Invoked(res *kiln.Result, err error, took time.Duration)
}

// Service invokes functions. It is safe for concurrent use.
type Service struct {
	Resolver Resolver
	Limiter  *admission.Limiter
	Runner   Runner
	// Observer is told of every Invoke; nil means that nobody is.
	Observer Observer
}

// Target names what to invoke.
type Target struct {
	Account   kiln.AccountID
	Function  kiln.FunctionName
	Qualifier kiln.Qualifier
}

// Invoke runs inv and returns the version that ran it.
func (s *Service) Invoke(ctx context.Context, t Target, inv kiln.Invocation) (kiln.Result, *kiln.Version, error) {
	begun := time.Now()
	res, v, err := s.invoke(ctx, t, inv)
	if s.Observer != nil {
		s.Observer.Invoked(&res, err, time.Since(begun))
	}
	return res, v, err
}

func (s *Service) invoke(ctx context.Context, t Target, inv kiln.Invocation) (kiln.Result, *kiln.Version, error) {
	v, err := s.resolve(ctx, t)
	if err != nil {
		return kiln.Result{}, nil, err
	}
	lease, err := s.Limiter.Acquire(v, time.Now())
	if err != nil {
		return kiln.Result{}, v, err
	}
	res, err := s.Runner.Invoke(ctx, v, inv, lease)
	return res, v, err
}

// Check returns the error that Invoke would return before it runs anything.
func (s *Service) Check(ctx context.Context, t Target) error {
	_, err := s.resolve(ctx, t)
	return err
}

// resolve refuses what cannot run only when nothing is known that says otherwise: who has just been told that a function is there, or
// active, is not to be told that it is not.
func (s *Service) resolve(ctx context.Context, t Target) (*kiln.Version, error) {
	v, err := s.find(t)
	if err == nil {
		return v, nil
	}
	s.Resolver.CatchUp(ctx, t.Account, t.Function)
	return s.find(t)
}

func (s *Service) find(t Target) (*kiln.Version, error) {
	v, err := s.Resolver.Resolve(t.Account, t.Function, t.Qualifier)
	if err != nil {
		return nil, err
	}
	if v.State != kiln.StateActive {
		return nil, kiln.Errorf(kiln.ResourceConflict,
			"The operation cannot be performed at this time. The function is currently in the following state: %s", v.State)
	}
	return v, nil
}
