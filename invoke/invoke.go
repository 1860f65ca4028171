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
	// Policy is that of what a qualifier names, and MayLoop whether a function may be invoked by itself for ever.
	Policy(a kiln.AccountID, f kiln.FunctionName, q kiln.Qualifier) kiln.Policy
	MayLoop(a kiln.AccountID, f kiln.FunctionName) bool
	// CatchUp waits, for a second at most, until every change of a function that has been acknowledged is known.
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
	if err := s.descend(&inv, v); err != nil {
		return kiln.Result{}, v, err
	}
	lease, err := s.Limiter.Acquire(v, time.Now())
	if err != nil {
		return kiln.Result{}, v, err
	}
	res, err := s.Runner.Invoke(ctx, v, inv, lease)
	return res, v, err
}

// descend adds an invocation of v to the lineage of inv. It fails with AWS's error when it is a loop.
func (s *Service) descend(inv *kiln.Invocation, v *kiln.Version) error {
	lineage, times := inv.Lineage.Add(string(v.Account) + ":" + string(v.Function))
	if times > kiln.MaxLoop && !s.Resolver.MayLoop(v.Account, v.Function) {
		return kiln.Errorf(kiln.RecursiveInvocation,
			"Lambda has detected your function being invoked in a recursive loop with other AWS resources and stopped your function's invocation.")
	}
	inv.Lineage = lineage
	inv.TraceID += ";Lineage=" + string(lineage)
	return nil
}

// Allows reports whether the policy of what t names allows a.
func (s *Service) Allows(ctx context.Context, t Target, a kiln.Access) bool {
	p := s.Resolver.Policy(t.Account, t.Function, t.Qualifier)
	if !p.Allows(a) {
		s.Resolver.CatchUp(ctx, t.Account, t.Function)
		p = s.Resolver.Policy(t.Account, t.Function, t.Qualifier)
	}
	return p.Allows(a)
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
