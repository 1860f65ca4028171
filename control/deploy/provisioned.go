package deploy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// provisionStatuses are what the data plane has told last of all configurations. The zero value is what is known before it has.
type provisionStatuses struct {
	mu  sync.Mutex
	all map[provisionKey]catalog.ProvisionStatus // +checklocks:mu
}

type provisionKey struct {
	account   kiln.AccountID
	function  kiln.FunctionName
	qualifier kiln.Qualifier
}

// Provisioned takes how far the data plane is with all provisioned concurrency. It keeps all.
func (s *Service) Provisioned(all []catalog.ProvisionStatus) {
	m := make(map[provisionKey]catalog.ProvisionStatus, len(all))
	for _, status := range all {
		m[provisionKey{status.Account, status.Function, status.Qualifier}] = status
	}
	s.provisions.mu.Lock()
	defer s.provisions.mu.Unlock()
	s.provisions.all = m
}

// The values of the API's enum ProvisionedConcurrencyStatusEnum.
const (
	provisionInProgress = "IN_PROGRESS"
	provisionReady      = "READY"
	provisionFailed     = "FAILED"
)

// provisionLayout is AWS's form of a configuration's LastModified, in UTC.
const provisionLayout = "2006-01-02T15:04:05-0700"

// provisionedItem shows the configuration of f that r names.
func (s *Service) provisionedItem(r ref.Ref, f *kiln.Function) api.ProvisionedConcurrencyConfigListItem {
	p := f.Provisioned[r.Qualifier]
	s.provisions.mu.Lock()
	told := s.provisions.all[provisionKey{r.Account, r.Name, r.Qualifier}]
	s.provisions.mu.Unlock()
	current := told.Asked.Equal(p.LastModified) && maps.Equal(told.Shares, p.Shares(r.Qualifier, f.Aliases))
	available := new(int32(min(told.Available, p.Places)))
	item := api.ProvisionedConcurrencyConfigListItem{
		FunctionArn: new(r.ARN(s.cfg.Region)), RequestedProvisionedConcurrentExecutions: new(int32(p.Places)),
		AvailableProvisionedConcurrentExecutions: available, AllocatedProvisionedConcurrentExecutions: available,
		Status: new(provisionInProgress), LastModified: new(p.LastModified.UTC().Format(provisionLayout)),
	}
	switch {
	case !current:
	case told.Missing == 0:
		item.Status = new(provisionReady)
	case told.Failure != "":
		item.Status, item.StatusReason = new(provisionFailed), &told.Failure
	}
	return item
}

func (s *Service) putProvisionedConcurrency(ctx context.Context, c api.Caller, in *api.PutProvisionedConcurrencyConfigRequest) (*api.PutProvisionedConcurrencyConfigResponse, error) {
	r, err := s.readProvisioned(ctx, c, api.PutProvisionedConcurrencyConfig, in.FunctionName, in.Qualifier, func(v *constraint.Violations) {
		switch n := in.ProvisionedConcurrentExecutions; {
		case n == nil:
			v.Missing("provisionedConcurrentExecutions")
		case *n < 1:
			v.Add("provisionedConcurrentExecutions", fmt.Sprint(*n), "Member must have value greater than or equal to 1")
		}
	})
	if err != nil {
		return nil, err
	}
	if r.Qualifier == kiln.LatestVersion {
		return nil, unpublished()
	}
	if _, err := s.findProvisionable(ctx, r); err != nil {
		return nil, err
	}
	var changed *kiln.Function
	err = s.change(ctx, r.Unqualified(), func(f *kiln.Function) ([]write, error) {
		if err := s.checkProvisionable(ctx, f, r); err != nil {
			return nil, err
		}
		changed = f
		return s.provision(ctx, f, r.Qualifier, int(*in.ProvisionedConcurrentExecutions))
	})
	if err != nil {
		return nil, err
	}
	item := s.provisionedItem(r, changed)
	return &api.PutProvisionedConcurrencyConfigResponse{
		RequestedProvisionedConcurrentExecutions: item.RequestedProvisionedConcurrentExecutions,
		AllocatedProvisionedConcurrentExecutions: item.AllocatedProvisionedConcurrentExecutions,
		AvailableProvisionedConcurrentExecutions: item.AvailableProvisionedConcurrentExecutions,
		Status:                                   item.Status, StatusReason: item.StatusReason, LastModified: item.LastModified,
	}, nil
}

// provision gives q of f so many places, and returns what to write with f. It fails with AWS's error if they are more than what is reserved
// for f, or leave too few to the account's other functions.
func (s *Service) provision(ctx context.Context, f *kiln.Function, q kiln.Qualifier, places int) ([]write, error) {
	kept := f.Kept()
	if f.Provisioned == nil {
		f.Provisioned = make(map[kiln.Qualifier]kiln.Provisioned)
	}
	f.Provisioned[q] = kiln.Provisioned{Places: places, LastModified: s.cfg.Now().UTC()}
	if f.Reserved != nil && f.AllProvisioned() > *f.Reserved {
		return nil, kiln.Errorf(kiln.InvalidParameterValue,
			"Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function")
	}
	return s.keep(ctx, f.Latest.Account, kept, f.Kept(), func(left int) error {
		// The words of AWS's answers have no type.
		var e *kiln.Error
		if before := left + f.Kept() - kept; left < 0 {
			e = kiln.Errorf(kiln.InvalidParameterValue,
				"Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [%d].", before)
		} else {
			e = kiln.Errorf(kiln.InvalidParameterValue, "Specified ConcurrentExecutions for function decreases account's "+
				"UnreservedConcurrentExecution below its minimum value of [%d].", kiln.MinUnreserved)
		}
		e.Untyped = true
		return e
	})
}

// unprovision ends the configuration of q of f, if there is one, and returns what to write with f.
func (s *Service) unprovision(ctx context.Context, f *kiln.Function, q kiln.Qualifier) ([]write, error) {
	kept := f.Kept()
	delete(f.Provisioned, q)
	return s.keep(ctx, f.Latest.Account, kept, f.Kept(), nil)
}

func (s *Service) getProvisionedConcurrency(ctx context.Context, c api.Caller, in *api.GetProvisionedConcurrencyConfigRequest) (*api.GetProvisionedConcurrencyConfigResponse, error) {
	r, err := s.readProvisioned(ctx, c, api.GetProvisionedConcurrencyConfig, in.FunctionName, in.Qualifier, nil)
	if err != nil {
		return nil, err
	}
	if r.Qualifier == kiln.LatestVersion {
		return nil, notPublished()
	}
	f, err := s.findProvisionable(ctx, r)
	if err != nil {
		return nil, err
	}
	if _, ok := f.Provisioned[r.Qualifier]; !ok {
		return nil, kiln.Errorf(kiln.ProvisionedNotFound, "No Provisioned Concurrency Config found for this function")
	}
	item := s.provisionedItem(r, f)
	return &api.GetProvisionedConcurrencyConfigResponse{
		RequestedProvisionedConcurrentExecutions: item.RequestedProvisionedConcurrentExecutions,
		AllocatedProvisionedConcurrentExecutions: item.AllocatedProvisionedConcurrentExecutions,
		AvailableProvisionedConcurrentExecutions: item.AvailableProvisionedConcurrentExecutions,
		Status:                                   item.Status, StatusReason: item.StatusReason, LastModified: item.LastModified,
	}, nil
}

// deleteProvisionedConcurrency ends a configuration. One that is not there has ended, as on AWS.
func (s *Service) deleteProvisionedConcurrency(ctx context.Context, c api.Caller, in *api.DeleteProvisionedConcurrencyConfigRequest) (*api.Unit, error) {
	r, err := s.readProvisioned(ctx, c, api.DeleteProvisionedConcurrencyConfig, in.FunctionName, in.Qualifier, nil)
	if err != nil {
		return nil, err
	}
	if r.Qualifier == kiln.LatestVersion {
		return nil, notPublished()
	}
	f, err := s.findProvisionable(ctx, r)
	if err != nil {
		return nil, err
	}
	if _, ok := f.Provisioned[r.Qualifier]; !ok {
		return &api.Unit{}, nil
	}
	return &api.Unit{}, s.change(ctx, r.Unqualified(), func(f *kiln.Function) ([]write, error) {
		return s.unprovision(ctx, f, r.Qualifier)
	})
}

// provisionedMarker is the qualifier of the last configuration of the page before.
type provisionedMarker struct {
	After kiln.Qualifier `json:"p"`
}

func (s *Service) listProvisionedConcurrency(ctx context.Context, c api.Caller, in *api.ListProvisionedConcurrencyConfigsRequest) (*api.ListProvisionedConcurrencyConfigsResponse, error) {
	r, size, err := s.readParts(ctx, c, api.ListProvisionedConcurrencyConfigs, in.FunctionName, in.MaxItems, nil)
	if err != nil {
		return nil, err
	}
	var mark provisionedMarker
	if err := decodeMarker(in.Marker, &mark); err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &api.ListProvisionedConcurrencyConfigsResponse{ProvisionedConcurrencyConfigs: []api.ProvisionedConcurrencyConfigListItem{}}
	for _, q := range slices.Sorted(maps.Keys(f.Provisioned)) {
		if q <= mark.After {
			continue
		}
		if len(out.ProvisionedConcurrencyConfigs) == size {
			out.NextMarker = new(encodeMarker(mark))
			break
		}
		r.Qualifier = q
		out.ProvisionedConcurrencyConfigs = append(out.ProvisionedConcurrencyConfigs, s.provisionedItem(r, f))
		mark.After = q
	}
	return out, nil
}

// readProvisioned reads which version or alias an operation is about, and lets check look at the other members.
func (s *Service) readProvisioned(ctx context.Context, c api.Caller, op *api.Operation, function, qualifier *string, check func(*constraint.Violations)) (ref.Ref, error) {
	return s.readQualified(ctx, c, op, ref.Plain, function, qualifier, func(v *constraint.Violations) {
		if qualifier == nil {
			v.Missing("qualifier")
		}
		if check != nil {
			check(v)
		}
	})
}

// findProvisionable reads the function of which r names a version or an alias. It fails with AWS's error if there is none of that name.
func (s *Service) findProvisionable(ctx context.Context, r ref.Ref) (*kiln.Function, error) {
	f, _, err := s.find(ctx, r)
	if kiln.KindOf(err) == kiln.ResourceNotFound {
		return nil, s.noQualifier(r)
	}
	if err != nil {
		return nil, err
	}
	return f, s.checkQualifier(ctx, f, r)
}

// checkQualifier returns AWS's error if f has neither a published version nor an alias that r names.
func (s *Service) checkQualifier(ctx context.Context, f *kiln.Function, r ref.Ref) error {
	n, ok := ref.Number(r.Qualifier)
	if !ok {
		if _, ok := f.Aliases[kiln.AliasName(r.Qualifier)]; !ok {
			return s.noQualifier(r)
		}
		return nil
	}
	v, _, err := s.published(ctx, f, n)
	if err == nil && v == nil {
		err = s.noQualifier(r)
	}
	return err
}

// noQualifier is AWS's error that there is no version or alias that r names.
func (s *Service) noQualifier(r ref.Ref) error {
	if isNumber(string(r.Qualifier)) {
		return r.NotFound(s.cfg.Region)
	}
	return kiln.Errorf(kiln.ResourceNotFound, "Cannot find alias arn: %s", r.ARN(s.cfg.Region))
}

// checkProvisionable returns AWS's error if f must not have the configuration that r names.
func (s *Service) checkProvisionable(ctx context.Context, f *kiln.Function, r ref.Ref) error {
	if err := s.checkQualifier(ctx, f, r); err != nil {
		return err
	}
	if a, ok := f.Aliases[kiln.AliasName(r.Qualifier)]; ok {
		return checkProvisionedAlias(f, kiln.AliasName(r.Qualifier), &a)
	}
	for name, a := range f.Aliases {
		if _, ok := f.Provisioned[kiln.Qualifier(name)]; ok && a.Names(r.Qualifier) {
			return kiln.Errorf(kiln.InvalidParameterValue, "Version is pointed by a Provisioned Concurrency alias")
		}
	}
	return nil
}

// checkProvisionedAlias returns AWS's error if a of f, which has or is to have that name, must not have provisioned concurrency.
func checkProvisionedAlias(f *kiln.Function, name kiln.AliasName, a *kiln.Alias) error {
	if a.Version == kiln.LatestVersion {
		return unpublished()
	}
	for q := range f.Provisioned {
		other, alias := f.Aliases[kiln.AliasName(q)]
		switch {
		case q == kiln.Qualifier(name):
		case !alias && a.Names(q), alias && sharesVersion(&other, a):
			return kiln.Errorf(kiln.InvalidParameterValue,
				"Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version")
		}
	}
	return nil
}

func sharesVersion(a, b *kiln.Alias) bool {
	if b.Names(a.Version) {
		return true
	}
	for q := range a.Weights {
		if b.Names(q) {
			return true
		}
	}
	return false
}

func unpublished() error {
	return kiln.Errorf(kiln.InvalidParameterValue, "Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
}

func notPublished() error {
	return kiln.Errorf(kiln.InvalidParameterValue, "The function resource provided must be an alias or a published version.")
}
