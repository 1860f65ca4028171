package invoke

import (
	"context"
	"errors"
	"testing"
	"time"

	"kiln"
	"kiln/invoke/admission"
)

// resolver knows one version, and another once it has caught up, if there is one.
type resolver struct {
	v, newer *kiln.Version
	policy   kiln.Policy
	mayLoop  bool
}

func (r *resolver) Resolve(_ kiln.AccountID, f kiln.FunctionName, _ kiln.Qualifier) (*kiln.Version, error) {
	if f != r.v.Function {
		return nil, kiln.Errorf(kiln.ResourceNotFound, "Function not found")
	}
	return r.v, nil
}

func (r *resolver) Policy(kiln.AccountID, kiln.FunctionName, kiln.Qualifier) kiln.Policy {
	return r.policy
}

func (r *resolver) MayLoop(kiln.AccountID, kiln.FunctionName) bool { return r.mayLoop }

func (r *resolver) CatchUp(context.Context, kiln.AccountID, kiln.FunctionName) {
	if r.newer != nil {
		r.v = r.newer
	}
}

type runner func(context.Context) (kiln.Result, error)

func (r runner) Invoke(ctx context.Context, _ *kiln.Version, _ kiln.Invocation, lease admission.Lease) (kiln.Result, error) {
	defer func() { lease.Release(time.Now()) }()
	return r(ctx)
}

func service(state kiln.State, run runner) *Service {
	v := &kiln.Version{Account: target.Account, Function: "f", State: state}
	return &Service{Resolver: &resolver{v: v}, Limiter: admission.New(admission.Config{Concurrency: kiln.Concurrency{Default: 1}}), Runner: run}
}

var target = Target{Account: "111111111111", Function: "f"}

func TestWhatCannotRunIsRefusedBeforeItCostsAnything(t *testing.T) {
	never := func(context.Context) (kiln.Result, error) {
		t.Error("it ran")
		return kiln.Result{}, nil
	}
	for name, c := range map[string]struct {
		state  kiln.State
		target Target
		kind   kiln.Kind
	}{
		"missing": {kiln.StateActive, Target{Account: "111111111111", Function: "g"}, kiln.ResourceNotFound},
		"pending": {kiln.StatePending, target, kiln.ResourceConflict},
	} {
		s := service(c.state, never)
		if _, _, err := s.Invoke(t.Context(), c.target, kiln.Invocation{}); kiln.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Check(t.Context(), c.target); kiln.KindOf(err) != c.kind {
			t.Errorf("%s, dry: %v", name, err)
		}
	}
	if err := service(kiln.StateActive, never).Check(t.Context(), target); err != nil {
		t.Errorf("a function that could run: %v", err)
	}
}

func TestWhoWasToldThatAFunctionIsActiveIsNotRefused(t *testing.T) {
	s := service(kiln.StatePending, func(context.Context) (kiln.Result, error) { return kiln.Result{}, nil })
	s.Resolver.(*resolver).newer = &kiln.Version{Account: target.Account, Function: "f", State: kiln.StateActive}
	if _, _, err := s.Invoke(t.Context(), target, kiln.Invocation{}); err != nil {
		t.Error(err)
	}
}

func TestWhatRunsHasALease(t *testing.T) {
	outcomes := []error{nil, errors.New("broken"), kiln.Errorf(kiln.Unavailable, "no room"), nil}
	s := service(kiln.StateActive, nil)
	for i, want := range outcomes {
		s.Runner = runner(func(context.Context) (kiln.Result, error) {
			if _, err := s.Limiter.Acquire(&kiln.Version{Account: target.Account, Function: target.Function}, time.Now()); kiln.KindOf(err) != kiln.TooManyRequests {
				t.Errorf("call %d runs without a lease: %v", i, err)
			}
			return kiln.Result{}, want
		})
		if _, _, err := s.Invoke(t.Context(), target, kiln.Invocation{}); !errors.Is(err, want) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// observer remembers what it was told.
type observer struct {
	outcomes []kiln.Outcome
	errs     []error
}

func (o *observer) Invoked(res *kiln.Result, err error, _ time.Duration) {
	o.outcomes, o.errs = append(o.outcomes, res.Outcome), append(o.errs, err)
}

func TestTheObserverIsToldOfEveryInvocation(t *testing.T) {
	o := &observer{}
	s := service(kiln.StateActive, func(context.Context) (kiln.Result, error) { return kiln.Result{Outcome: kiln.TimedOut}, nil })
	s.Observer = o
	for _, name := range []kiln.FunctionName{"f", "missing"} {
		_, _, err := s.Invoke(t.Context(), Target{Account: target.Account, Function: name}, kiln.Invocation{})
		if len(o.errs) == 0 || !errors.Is(o.errs[len(o.errs)-1], err) {
			t.Errorf("%s: told %v, want %v", name, o.errs, err)
		}
	}
	if len(o.outcomes) != 2 || o.outcomes[0] != kiln.TimedOut || kiln.KindOf(o.errs[1]) != kiln.ResourceNotFound {
		t.Errorf("told %v, %v", o.outcomes, o.errs)
	}
}
