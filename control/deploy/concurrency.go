package deploy

import (
	"context"
	"encoding/json"
	"fmt"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// reservations are the places that an account's functions keep for themselves together. The record is committed with each function that
// changes it, so that of two who reserve at the same time the second one begins anew.
type reservations struct {
	Places int
	at     catalog.Revision
}

func (s *Service) reservations(ctx context.Context, a kiln.AccountID) (reservations, error) {
	record, err := s.cfg.Store.Get(ctx, catalog.ReservationsKey(a))
	if err != nil {
		return reservations{}, fmt.Errorf("read reservations of %s: %w", a, err)
	}
	r := reservations{at: record.Revision}
	if record.Revision == 0 {
		return r, nil
	}
	if err := json.Unmarshal(record.Value, &r); err != nil {
		return reservations{}, fmt.Errorf("read reservations of %s: %w", a, err)
	}
	return r, nil
}

// keep returns what to write, beside the function, when a function of an account that kept from places is to keep to. If that leaves too
// few for the functions that keep none, it fails with what refuse makes of how many would be left. refuse may be nil if to is not more.
func (s *Service) keep(ctx context.Context, a kiln.AccountID, from, to int, refuse func(left int) error) ([]write, error) {
	more := to - from
	if more == 0 {
		return nil, nil
	}
	r, err := s.reservations(ctx, a)
	if err != nil {
		return nil, err
	}
	r.Places += more
	if left := s.cfg.Concurrency.Of(a) - r.Places; more > 0 && left < kiln.MinUnreserved {
		return nil, refuse(left)
	}
	return []write{{key: catalog.ReservationsKey(a), at: r.at, value: r, refers: entry{account: a}}}, nil
}

// setReserved sets what is reserved for the function that r names; nil means nothing.
func (s *Service) setReserved(ctx context.Context, r ref.Ref, to *int) error {
	return s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
		if all := f.AllProvisioned(); to != nil && *to < all {
			return nil, kiln.Errorf(kiln.InvalidParameterValue,
				" ReservedConcurrentExecutions  %d should not be lower than function's total provisioned concurrency [%d].", *to, all)
		}
		from := f.Kept()
		f.Reserved = to
		return s.keep(ctx, r.Account, from, f.Kept(), func(int) error {
			return kiln.Errorf(kiln.InvalidParameterValue, "Specified ReservedConcurrentExecutions for function decreases account's "+
				"UnreservedConcurrentExecution below its minimum value of [%d].", kiln.MinUnreserved)
		})
	})
}

func (s *Service) putFunctionConcurrency(ctx context.Context, c api.Caller, in *api.PutFunctionConcurrencyRequest) (*api.Concurrency, error) {
	r, err := s.readUpdate(ctx, c, api.PutFunctionConcurrency, in.FunctionName, func(v *constraint.Violations) {
		switch n := in.ReservedConcurrentExecutions; {
		case n == nil:
			v.Missing("reservedConcurrentExecutions")
		case *n < 0:
			v.Add("reservedConcurrentExecutions", fmt.Sprint(*n), "Member must have value greater than or equal to 0")
		}
	})
	if err != nil {
		return nil, err
	}
	r.Qualifier = kiln.LatestVersion // as AWS names a function that is not there, here and not in the operations beside this one
	if err := s.setReserved(ctx, r, new(int(*in.ReservedConcurrentExecutions))); err != nil {
		return nil, err
	}
	return &api.Concurrency{ReservedConcurrentExecutions: in.ReservedConcurrentExecutions}, nil
}

func (s *Service) getFunctionConcurrency(ctx context.Context, c api.Caller, in *api.GetFunctionConcurrencyRequest) (*api.GetFunctionConcurrencyResponse, error) {
	r, err := s.readUnqualified(ctx, c, api.GetFunctionConcurrency, ref.Plain, in.FunctionName)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	return &api.GetFunctionConcurrencyResponse{ReservedConcurrentExecutions: reservedOf(f)}, nil
}

func (s *Service) deleteFunctionConcurrency(ctx context.Context, c api.Caller, in *api.DeleteFunctionConcurrencyRequest) (*api.Unit, error) {
	r, err := s.readUnqualified(ctx, c, api.DeleteFunctionConcurrency, ref.Plain, in.FunctionName)
	if err != nil {
		return nil, err
	}
	return &api.Unit{}, s.setReserved(ctx, r, nil)
}

// reservedOf is what is reserved for f as the API has it: nil if nothing is.
func reservedOf(f *kiln.Function) *int32 {
	if f.Reserved == nil {
		return nil
	}
	return new(int32(*f.Reserved))
}

// deleteRecord deletes the record of f, which is at that revision, with what belongs to it elsewhere: what it keeps, and that it has a code
// signing configuration. It returns catalog.ErrConflict if one of these has changed.
func (s *Service) deleteRecord(ctx context.Context, r ref.Ref, f *kiln.Function, at catalog.Revision) error {
	writes, err := s.keep(ctx, r.Account, f.Kept(), 0, nil)
	if err != nil {
		return err
	}
	signed, err := s.unsign(ctx, f)
	if err != nil {
		return err
	}
	writes = append(writes, signed...)
	_, err = s.commit(ctx, append(writes, write{key: catalog.FunctionKey(r.Account, r.Name), at: at})...)
	return err
}

func (s *Service) getAccountSettings(ctx context.Context, c api.Caller, _ *api.GetAccountSettingsRequest) (*api.GetAccountSettingsResponse, error) {
	used, err := s.inventory.usage(ctx, c.Account)
	if err != nil {
		return nil, err
	}
	reserved, err := s.reservations(ctx, c.Account)
	if err != nil {
		return nil, err
	}
	limit := s.cfg.Concurrency.Of(c.Account)
	return &api.GetAccountSettingsResponse{
		AccountLimit: &api.AccountLimit{
			TotalCodeSize:        new(int64(maxTotalCode)),
			CodeSizeUnzipped:     new(int64(kiln.MaxUnzipped)),
			CodeSizeZipped:       new(int64(kiln.MaxZip)),
			ConcurrentExecutions: new(int32(limit)),
			// The node may have been started with a lower limit than when they were reserved.
			UnreservedConcurrentExecutions: new(int32(max(limit-reserved.Places, 0))),
		},
		AccountUsage: &api.AccountUsage{TotalCodeSize: new(used.bytes), FunctionCount: new(used.functions)},
	}, nil
}
