package deploy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// routingConfig is a member of what creates or updates an alias.
const routingConfig = "RoutingConfig.AdditionalVersionWeights"

// Bounds of aliases (https://docs.aws.amazon.com/lambda/latest/api/API_CreateAlias.html), in characters.
const (
	maxAliasName        = 128
	maxVersionReference = 1024
)

var (
	aliasNamePattern    = constraint.MustPattern(`[a-zA-Z0-9-_]+`)
	aliasVersionPattern = constraint.MustPattern(`(\$LATEST(\.PUBLISHED)?|[0-9]+)`)
	weightKeyPattern    = constraint.MustPattern(`[0-9]+`)
)

func (s *Service) createAlias(ctx context.Context, c api.Caller, in *api.CreateAliasRequest) (*api.AliasConfiguration, error) {
	r, err := s.readAlias(ctx, c, api.CreateAlias, in.FunctionName, in.Name, func(v *constraint.Violations) {
		if in.FunctionVersion == nil {
			v.Missing("functionVersion")
		}
		checkAlias(v, in.FunctionVersion, in.Description, in.RoutingConfig)
	})
	if err != nil {
		return nil, err
	}
	a := kiln.Alias{RevisionID: s.cfg.NewID()}
	setAlias(&a, in.FunctionVersion, in.Description, in.RoutingConfig)
	if err := checkWeights(&a); err != nil {
		return nil, err
	}
	target := r.alias.Unqualified()
	target.Qualifier = a.Version
	if _, _, err := s.find(ctx, target); err != nil {
		return nil, err
	}
	err = s.change(ctx, r.alias.Unqualified(), func(f *kiln.Function) ([]write, error) {
		if err := s.checkVersions(ctx, f, &a); err != nil {
			return nil, err
		}
		if _, ok := f.Aliases[r.name]; ok {
			return nil, kiln.Errorf(kiln.ResourceConflict, "Alias already exists: %s", r.alias.ARN(s.cfg.Region))
		}
		if len(f.Aliases) >= kiln.MaxAliases {
			return nil, kiln.Errorf(kiln.InvalidParameterValue, "The function has %d aliases, which is the maximum.", kiln.MaxAliases)
		}
		putAlias(f, r.name, a)
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	return s.aliasConfiguration(r, &a), nil
}

func (s *Service) updateAlias(ctx context.Context, c api.Caller, in *api.UpdateAliasRequest) (*api.AliasConfiguration, error) {
	r, err := s.readAlias(ctx, c, api.UpdateAlias, in.FunctionName, in.Name, func(v *constraint.Violations) {
		checkAlias(v, in.FunctionVersion, in.Description, in.RoutingConfig)
	})
	if err != nil {
		return nil, err
	}
	var updated kiln.Alias
	err = s.change(ctx, r.alias.Unqualified(), func(f *kiln.Function) ([]write, error) {
		a, ok := f.Aliases[r.name]
		if !ok {
			return nil, kiln.Errorf(kiln.ResourceNotFound, "Alias not found: %s", r.alias.ARN(s.cfg.Region))
		}
		if err := guardRevision(a.RevisionID, in.RevisionId); err != nil {
			return nil, err
		}
		setAlias(&a, in.FunctionVersion, in.Description, in.RoutingConfig)
		if err := checkWeights(&a); err != nil {
			return nil, err
		}
		if err := s.checkVersions(ctx, f, &a); err != nil {
			return nil, err
		}
		if _, ok := f.Provisioned[kiln.Qualifier(r.name)]; ok {
			if err := checkProvisionedAlias(f, r.name, &a); err != nil {
				return nil, err
			}
		}
		a.RevisionID = s.cfg.NewID()
		putAlias(f, r.name, a)
		updated = a
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	return s.aliasConfiguration(r, &updated), nil
}

func (s *Service) getAlias(ctx context.Context, c api.Caller, in *api.GetAliasRequest) (*api.AliasConfiguration, error) {
	r, err := s.readAlias(ctx, c, api.GetAlias, in.FunctionName, in.Name, nil)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r.alias.Unqualified())
	if err != nil {
		return nil, err
	}
	a, ok := f.Aliases[r.name]
	if !ok {
		return nil, kiln.Errorf(kiln.ResourceNotFound, "Cannot find alias arn: %s", r.alias.ARN(s.cfg.Region))
	}
	return s.aliasConfiguration(r, &a), nil
}

// deleteAlias deletes an alias. One that is not there is deleted, as on AWS.
func (s *Service) deleteAlias(ctx context.Context, c api.Caller, in *api.DeleteAliasRequest) (*api.Unit, error) {
	r, err := s.readAlias(ctx, c, api.DeleteAlias, in.FunctionName, in.Name, nil)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r.alias.Unqualified())
	if kiln.KindOf(err) == kiln.ResourceNotFound {
		return &api.Unit{}, nil
	}
	if err != nil {
		return nil, err
	}
	if _, ok := f.Aliases[r.name]; !ok {
		return &api.Unit{}, nil
	}
	err = s.change(ctx, r.alias.Unqualified(), func(f *kiln.Function) ([]write, error) {
		delete(f.Aliases, r.name)
		delete(f.Policies, kiln.Qualifier(r.name))
		return s.unprovision(ctx, f, kiln.Qualifier(r.name))
	})
	if kiln.KindOf(err) == kiln.ResourceNotFound {
		err = nil // the function was deleted meanwhile, and its aliases with it
	}
	return &api.Unit{}, err
}

func (s *Service) listAliases(ctx context.Context, c api.Caller, in *api.ListAliasesRequest) (*api.ListAliasesResponse, error) {
	r, size, err := s.readParts(ctx, c, api.ListAliases, in.FunctionName, in.MaxItems, func(v *constraint.Violations) {
		checkAlias(v, in.FunctionVersion, nil, nil)
	})
	if err != nil {
		return nil, err
	}
	var after aliasMarker
	if err := decodeMarker(in.Marker, &after); err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.pageOfAliases(f, after.After, size, in.FunctionVersion), nil
}

// aliasMarker is the name of the last alias of the page before.
type aliasMarker struct {
	After kiln.AliasName `json:"n"`
}

// pageOfAliases lists the aliases of f in the order of their names: those after a name, and of a version only if one is given.
func (s *Service) pageOfAliases(f *kiln.Function, after kiln.AliasName, size int, version *string) *api.ListAliasesResponse {
	out := &api.ListAliasesResponse{Aliases: []api.AliasConfiguration{}}
	for _, name := range slices.Sorted(maps.Keys(f.Aliases)) {
		a := f.Aliases[name]
		if name <= after || version != nil && !a.Names(kiln.Qualifier(*version)) {
			continue
		}
		if len(out.Aliases) == size {
			out.NextMarker = new(encodeMarker(aliasMarker{after}))
			break
		}
		r := ref.Ref{Account: f.Latest.Account, Name: f.Latest.Function, Qualifier: kiln.Qualifier(name)}
		out.Aliases = append(out.Aliases, *s.aliasConfiguration(aliasRef{r, name}, &a))
		after = name
	}
	return out
}

// aliasRef is a reference to an alias, which need not exist.
type aliasRef struct {
	// alias has the alias's name as its qualifier.
	alias ref.Ref
	name  kiln.AliasName
}

// readAlias reads which alias an operation is about, and lets check look at the other members.
func (s *Service) readAlias(ctx context.Context, c api.Caller, op *api.Operation, function, name *string, check func(*constraint.Violations)) (aliasRef, error) {
	reader := s.reader(ctx, c, op, ref.Plain)
	var v constraint.Violations
	reader.Check(&v, function, nil)
	switch {
	case name == nil:
		v.Missing("name")
	default:
		v.Length("name", *name, 1, maxAliasName)
		if !aliasNamePattern.Matches(*name) || isNumber(*name) {
			v.Add("name", *name, `Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)`)
		}
	}
	if check != nil {
		check(&v)
	}
	if err := validation(&v); err != nil {
		return aliasRef{}, err
	}
	r, err := reader.Resolve(*function, nil)
	if err != nil {
		return aliasRef{}, err
	}
	if err := wholeFunction(r); err != nil {
		return aliasRef{}, err
	}
	r.Qualifier = kiln.Qualifier(*name)
	return aliasRef{r, kiln.AliasName(*name)}, nil
}

// checkAlias adds to v what AWS's model finds wrong with the members of an alias. Nil is right.
func checkAlias(v *constraint.Violations, version, description *string, routing *api.AliasRoutingConfiguration) {
	if version != nil {
		v.Length("functionVersion", *version, 1, maxVersionReference)
		v.Pattern("functionVersion", *version, aliasVersionPattern)
	}
	if description != nil {
		v.Length("description", *description, 0, maxDescription)
	}
	if routing != nil {
		checkRouting(v, routing.AdditionalVersionWeights)
	}
}

func checkRouting(v *constraint.Violations, weights map[string]float64) {
	const member = "routingConfig.additionalVersionWeights"
	for key, w := range weights {
		if n := len(key); n < 1 || n > maxVersionReference || !weightKeyPattern.Matches(key) {
			v.Add(member, shownWeights(weights), "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, "+
				"Member must have length greater than or equal to 1, "+weightKeyPattern.Rule()+"]")
			return
		}
		if !(w >= 0 && w <= 1) {
			v.Add(member, shownWeights(weights), "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, "+
				"Member must have value greater than or equal to 0.0, Member must not be null]")
			return
		}
	}
}

// shownWeights shows weights as AWS does, {2=0.5}.
func shownWeights(weights map[string]float64) string {
	var shown []string
	for _, key := range slices.Sorted(maps.Keys(weights)) {
		w := fmt.Sprint(weights[key])
		if !strings.ContainsAny(w, ".eNI") {
			w += ".0"
		}
		shown = append(shown, key+"="+w)
	}
	return "{" + strings.Join(shown, ", ") + "}"
}

// setAlias changes what the caller gave.
func setAlias(a *kiln.Alias, version, description *string, routing *api.AliasRoutingConfiguration) {
	if version != nil {
		a.Version = kiln.Qualifier(*version)
	}
	set(&a.Description, description)
	if routing == nil {
		return
	}
	a.Weights = nil
	for key, w := range routing.AdditionalVersionWeights {
		if a.Weights == nil {
			a.Weights = make(map[kiln.Qualifier]float64)
		}
		a.Weights[kiln.Qualifier(key)] = w
	}
}

// checkWeights returns AWS's error if the weights of a make no sense.
func checkWeights(a *kiln.Alias) error {
	switch _, twice := a.Weights[a.Version]; {
	case len(a.Weights) > 1:
		return kiln.Errorf(kiln.InvalidParameterValue, "Number of items in AdditionalVersionWeights cannot be greater than 1")
	case twice:
		return kiln.Errorf(kiln.InvalidParameterValue,
			"Invalid function version %s. Function version %s is already included in routing configuration.", a.Version, a.Version)
	case len(a.Weights) > 0 && a.Version == kiln.LatestVersion:
		e := kiln.Errorf(kiln.InvalidParameterValue, "$LATEST is not supported for an alias pointing to more than 1 version")
		e.Untyped = true
		return e
	}
	return nil
}

// checkVersions returns AWS's error if a names a version that f does not have.
func (s *Service) checkVersions(ctx context.Context, f *kiln.Function, a *kiln.Alias) error {
	for _, q := range append([]kiln.Qualifier{a.Version}, slices.Collect(maps.Keys(a.Weights))...) {
		r := ref.Ref{Account: f.Latest.Account, Name: f.Latest.Function, Qualifier: q}
		if q == kiln.LatestVersion {
			continue
		}
		n, ok := ref.Number(q)
		if !ok {
			return r.NotFound(s.cfg.Region)
		}
		v, _, err := s.published(ctx, f, n)
		if err != nil {
			return err
		}
		if v == nil {
			return r.NotFound(s.cfg.Region)
		}
	}
	return nil
}

func putAlias(f *kiln.Function, name kiln.AliasName, a kiln.Alias) {
	if f.Aliases == nil {
		f.Aliases = make(map[kiln.AliasName]kiln.Alias)
	}
	f.Aliases[name] = a
}

// aliasesOf are the names of f's aliases by which version q is invoked, in order.
func aliasesOf(f *kiln.Function, q kiln.Qualifier) []string {
	var names []string
	for name, a := range f.Aliases {
		if a.Names(q) {
			names = append(names, string(name))
		}
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}

func (s *Service) aliasConfiguration(r aliasRef, a *kiln.Alias) *api.AliasConfiguration {
	out := &api.AliasConfiguration{
		AliasArn: new(r.alias.ARN(s.cfg.Region)), Name: new(string(r.name)), FunctionVersion: new(string(a.Version)),
		Description: &a.Description, RevisionId: &a.RevisionID,
	}
	if len(a.Weights) > 0 {
		out.RoutingConfig = &api.AliasRoutingConfiguration{AdditionalVersionWeights: make(map[string]float64, len(a.Weights))}
		for q, w := range a.Weights {
			out.RoutingConfig.AdditionalVersionWeights[string(q)] = w
		}
	}
	return out
}
