package deploy

import (
	"context"
	"errors"
	"slices"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// maxLayerAction is a bound of AWS's model.
const maxLayerAction = 22

var (
	layerActionPattern    = constraint.MustPattern(`lambda:GetLayerVersion`)
	layerPrincipalPattern = constraint.MustPattern(`\d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root`)
)

func (s *Service) addLayerVersionPermission(ctx context.Context, c api.Caller, in *api.AddLayerVersionPermissionRequest) (*api.AddLayerVersionPermissionResponse, error) {
	if err := checkLayerPermission(in); err != nil {
		return nil, err
	}
	r, err := s.readOwnLayerVersion(c, api.AddLayerVersionPermission, in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	added := kiln.LayerPermission{StatementID: *in.StatementId, Account: accountOf(*in.Principal)}
	set(&added.Organization, in.OrganizationId)
	var revision string
	err = s.changeLayerPolicy(ctx, r, func(v *kiln.LayerVersion) error {
		if indexOfLayerStatement(v, added.StatementID) >= 0 {
			return statementExists(added.StatementID)
		}
		if err := guardLayerPolicy(v, in.RevisionId); err != nil {
			return err
		}
		v.Policy = append(v.Policy, added)
		v.PolicyRevision = s.cfg.NewID()
		revision = v.PolicyRevision
		return checkPolicySize(layerPolicyText(v, r.VersionARN()))
	})
	if err != nil {
		return nil, err
	}
	return &api.AddLayerVersionPermissionResponse{Statement: new(toJSON(layerStatement(added, r.VersionARN()))), RevisionId: &revision}, nil
}

// checkLayerPermission checks by AWS's model what is not part of the reference.
func checkLayerPermission(in *api.AddLayerVersionPermissionRequest) error {
	var v constraint.Violations
	ref.CheckLayer(&v, in.LayerName)
	checkStatementID(&v, in.StatementId)
	if in.Action == nil {
		v.Missing("action")
	} else {
		v.Length("action", *in.Action, 0, maxLayerAction)
		v.Pattern("action", *in.Action, layerActionPattern)
	}
	if in.Principal == nil {
		v.Missing("principal")
	} else {
		v.Pattern("principal", *in.Principal, layerPrincipalPattern)
	}
	if in.OrganizationId != nil {
		v.Length("organizationId", *in.OrganizationId, 0, maxOrganization)
		v.Pattern("organizationId", *in.OrganizationId, organizationPattern)
	}
	return validation(&v)
}

func (s *Service) removeLayerVersionPermission(ctx context.Context, c api.Caller, in *api.RemoveLayerVersionPermissionRequest) (*api.Unit, error) {
	var v constraint.Violations
	ref.CheckLayer(&v, in.LayerName)
	checkStatementID(&v, in.StatementId)
	if err := validation(&v); err != nil {
		return nil, err
	}
	r, err := s.readOwnLayerVersion(c, api.RemoveLayerVersionPermission, in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	return &api.Unit{}, s.changeLayerPolicy(ctx, r, func(v *kiln.LayerVersion) error {
		if len(v.Policy) == 0 {
			return noPolicy()
		}
		if err := guardLayerPolicy(v, in.RevisionId); err != nil {
			return err
		}
		i := indexOfLayerStatement(v, *in.StatementId)
		if i < 0 {
			return noStatement(*in.StatementId)
		}
		v.Policy = slices.Delete(v.Policy, i, i+1)
		v.PolicyRevision = s.cfg.NewID()
		return nil
	})
}

func (s *Service) getLayerVersionPolicy(ctx context.Context, c api.Caller, in *api.GetLayerVersionPolicyRequest) (*api.GetLayerVersionPolicyResponse, error) {
	r, err := s.readOwnLayerVersion(c, api.GetLayerVersionPolicy, in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	v, _, err := s.findLayerVersion(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case v == nil:
		return nil, noLayerVersion(r)
	case len(v.Policy) == 0:
		return nil, noPolicy()
	}
	return &api.GetLayerVersionPolicyResponse{Policy: new(layerPolicyText(v, r.VersionARN())), RevisionId: &v.PolicyRevision}, nil
}

func noLayerVersion(r ref.Layer) error {
	return kiln.Errorf(kiln.ResourceNotFound, "Layer version %s does not exist.", r.VersionARN())
}

// changeLayerPolicy lets decide change the policy of the layer version that r names, and writes it. It begins anew when somebody
// else has changed it.
func (s *Service) changeLayerPolicy(ctx context.Context, r ref.Layer, decide func(*kiln.LayerVersion) error) error {
	for range maxAttempts {
		v, at, err := s.findLayerVersion(ctx, r)
		if err != nil {
			return err
		}
		if v == nil {
			return noLayerVersion(r)
		}
		if err := decide(v); err != nil {
			return err
		}
		_, err = s.commit(ctx, layerVersionWrite(v, at))
		if !errors.Is(err, catalog.ErrConflict) {
			return err
		}
	}
	return tooManyWriters()
}

// guardLayerPolicy returns AWS's error if the caller expects another revision than the policy has. An expectation of nil or "" is
// none.
func guardLayerPolicy(v *kiln.LayerVersion, revision *string) error {
	if revision == nil || *revision == "" || *revision == v.PolicyRevision {
		return nil
	}
	return kiln.Errorf(kiln.PreconditionFailed, "The Revision Id provided does not match the latest Revision Id. "+
		"Call the GetLayerPolicy API to retrieve the latest Revision Id")
}

// indexOfLayerStatement returns where the statement is in v's policy, -1 if it is not there.
func indexOfLayerStatement(v *kiln.LayerVersion, id string) int {
	return slices.IndexFunc(v.Policy, func(p kiln.LayerPermission) bool { return p.StatementID == id })
}

// accountOf returns the account that a principal is, "" for everybody.
func accountOf(principal string) kiln.AccountID {
	const everybody = "*"
	switch rest, isARN := strings.CutSuffix(principal, ":root"); {
	case principal == everybody:
		return ""
	case isARN:
		return kiln.AccountID(rest[strings.LastIndexByte(rest, ':')+1:])
	}
	return kiln.AccountID(principal)
}

func layerStatement(p kiln.LayerPermission, arn string) statement {
	s := statement{Sid: p.StatementID, Effect: "Allow", Principal: "*", Action: "lambda:" + api.GetLayerVersion.Name, Resource: arn}
	if p.Account != "" {
		s.Principal = map[string]string{"AWS": "arn:aws:iam::" + string(p.Account) + ":root"}
	}
	if p.Organization != "" {
		s.Condition = map[string]map[string]string{"StringEquals": {"aws:PrincipalOrgID": p.Organization}}
	}
	return s
}

// layerPolicyText returns the policy of v, whose ARN is given, as AWS writes it.
func layerPolicyText(v *kiln.LayerVersion, arn string) string {
	var all []statement
	for _, p := range v.Policy {
		all = append(all, layerStatement(p, arn))
	}
	return policyText(all)
}
