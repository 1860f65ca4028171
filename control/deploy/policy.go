package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// Bounds of AWS's model (https://docs.aws.amazon.com/lambda/latest/api/API_AddPermission.html), in characters.
const (
	maxStatement    = 100
	maxPrincipal    = 256
	maxEventToken   = 256
	minOrganization = 12
	maxOrganization = 34
)

const (
	// maxPolicy is how long the text of a policy may be, as on AWS, and maxPolicies what those of a function may take of its record.
	maxPolicy   = 20 << 10
	maxPolicies = 256 << 10
)

var (
	statementPattern     = constraint.MustPattern(`([a-zA-Z0-9-_]+)`)
	actionPattern        = constraint.MustPattern(`(lambda:[*]|lambda:[a-zA-Z]+|[*])`)
	principalPattern     = constraint.MustPattern(`[^\s]+`)
	sourceARNPattern     = constraint.MustPattern(`arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)`)
	sourceAccountPattern = constraint.MustPattern(`\d{12}`)
	eventTokenPattern    = constraint.MustPattern(`[a-zA-Z0-9._\-]+`)
	organizationPattern  = constraint.MustPattern(`o-[a-z0-9]{10,32}`)
	// knownPrincipal is what AWS finds an account, an identity or a service behind, as far as kiln can tell.
	knownPrincipal = constraint.MustPattern(`\*|\d{12}|arn:aws[a-zA-Z-]*:(iam|sts)::\d{12}:(root|(user|role|assumed-role)/\S+)|[a-z0-9][a-z0-9.-]*\.(amazonaws|amazon)\.com`)
)

const invokeFunctionURL = "lambda:InvokeFunctionUrl"

// permissionEnforces says of conditions that no caller of kiln's meets so far: a statement with one is kept, and allows nothing.
func permissionEnforces() []api.Enforced {
	const noService, noURL = "no service calls functions yet", "there are no function URLs yet"
	return append(members("FunctionName", "Qualifier", "StatementId", "Action", "Principal", "RevisionId"),
		api.Enforced{Path: "SourceArn", Note: noService}, api.Enforced{Path: "SourceAccount", Note: noService}, api.Enforced{Path: "EventSourceToken", Note: noService},
		api.Enforced{Path: "PrincipalOrgID", Note: "no account is in an organization"},
		api.Enforced{Path: "FunctionUrlAuthType", Note: noURL}, api.Enforced{Path: "InvokedViaFunctionUrl", Note: noURL})
}

func (s *Service) addPermission(ctx context.Context, c api.Caller, in *api.AddPermissionRequest) (*api.AddPermissionResponse, error) {
	r, err := s.readQualified(ctx, c, api.AddPermission, ref.Plain, in.FunctionName, in.Qualifier, func(v *constraint.Violations) { checkPermission(v, in) })
	if err != nil {
		return nil, err
	}
	if r.Qualifier == kiln.LatestVersion {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "We currently do not support adding policies for $LATEST.")
	}
	if !knownPrincipal.Matches(*in.Principal) {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "The provided principal was invalid. Please check the principal and try again.")
	}
	if in.FunctionUrlAuthType != nil && *in.Action != invokeFunctionURL {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "FunctionUrlAuthType is only supported for %s action", invokeFunctionURL)
	}
	added := permissionOf(in)
	err = s.changePolicy(ctx, r, in.RevisionId, func(p *kiln.Policy) error {
		if indexOfStatement(*p, added.StatementID) >= 0 {
			return statementExists(added.StatementID)
		}
		p.Permissions = append(p.Permissions, added)
		return checkPolicySize(s.policyText(r, *p))
	})
	if err != nil {
		return nil, err
	}
	return &api.AddPermissionResponse{Statement: new(toJSON(statementOf(added, r.ARN(s.cfg.Region))))}, nil
}

// checkPermission adds to v what AWS's model finds wrong with a permission.
func checkPermission(v *constraint.Violations, in *api.AddPermissionRequest) {
	checkStatementID(v, in.StatementId)
	if in.Action == nil {
		v.Missing("action")
	} else {
		v.Pattern("action", *in.Action, actionPattern)
	}
	if in.Principal == nil {
		v.Missing("principal")
	} else {
		v.Length("principal", *in.Principal, 1, maxPrincipal)
		v.Pattern("principal", *in.Principal, principalPattern)
	}
	for _, m := range []struct {
		name    string
		value   *string
		pattern constraint.Pattern
	}{{"sourceArn", in.SourceArn, sourceARNPattern}, {"sourceAccount", in.SourceAccount, sourceAccountPattern}} {
		if m.value != nil {
			v.Pattern(m.name, *m.value, m.pattern)
		}
	}
	if t := in.EventSourceToken; t != nil {
		v.Length("eventSourceToken", *t, 0, maxEventToken)
		v.Pattern("eventSourceToken", *t, eventTokenPattern)
	}
	if o := in.PrincipalOrgID; o != nil {
		v.Length("principalOrgID", *o, minOrganization, maxOrganization)
		v.Pattern("principalOrgID", *o, organizationPattern)
	}
	if in.FunctionUrlAuthType != nil {
		v.Enum("functionUrlAuthType", *in.FunctionUrlAuthType, api.Enum("FunctionUrlAuthType")...)
	}
}

func checkStatementID(v *constraint.Violations, id *string) {
	if id == nil {
		v.Missing("statementId")
		return
	}
	v.Length("statementId", *id, 1, maxStatement)
	v.Pattern("statementId", *id, statementPattern)
}

func permissionOf(in *api.AddPermissionRequest) kiln.Permission {
	p := kiln.Permission{StatementID: *in.StatementId, Action: *in.Action, Principal: *in.Principal, ViaURL: isTrue(in.InvokedViaFunctionUrl)}
	set(&p.SourceARN, in.SourceArn)
	set((*string)(&p.SourceAccount), in.SourceAccount)
	set(&p.EventSourceToken, in.EventSourceToken)
	set(&p.Organization, in.PrincipalOrgID)
	set(&p.URLAuthType, in.FunctionUrlAuthType)
	return p
}

func (s *Service) removePermission(ctx context.Context, c api.Caller, in *api.RemovePermissionRequest) (*api.Unit, error) {
	r, err := s.readQualified(ctx, c, api.RemovePermission, ref.Plain, in.FunctionName, in.Qualifier, func(v *constraint.Violations) { checkStatementID(v, in.StatementId) })
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r.Unqualified())
	if kiln.KindOf(err) == kiln.ResourceNotFound {
		return nil, kiln.Errorf(kiln.ResourceNotFound, "No policy found for: %s", r.ARN(s.cfg.Region))
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.policyRevision(ctx, f, r); err != nil {
		return nil, err
	}
	if len(f.Policies[r.Qualifier].Permissions) == 0 {
		return nil, noPolicy()
	}
	return &api.Unit{}, s.changePolicy(ctx, r, in.RevisionId, func(p *kiln.Policy) error {
		i := indexOfStatement(*p, *in.StatementId)
		if i < 0 {
			return noStatement(*in.StatementId)
		}
		p.Permissions = slices.Delete(slices.Clone(p.Permissions), i, i+1)
		return nil
	})
}

func (s *Service) getPolicy(ctx context.Context, c api.Caller, in *api.GetPolicyRequest) (*api.GetPolicyResponse, error) {
	r, err := s.readQualified(ctx, c, api.GetPolicy, ref.Plain, in.FunctionName, in.Qualifier, nil)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r.Unqualified())
	if err != nil && kiln.KindOf(err) != kiln.ResourceNotFound {
		return nil, err
	}
	if f == nil || len(f.Policies[r.Qualifier].Permissions) == 0 {
		return nil, kiln.Errorf(kiln.ResourceNotFound, "The resource you requested does not exist.")
	}
	p := f.Policies[r.Qualifier]
	return &api.GetPolicyResponse{Policy: new(s.policyText(r, p)), RevisionId: &p.RevisionID}, nil
}

// changePolicy lets decide change the policy of what r names, unless the caller expects it to be of another revision.
func (s *Service) changePolicy(ctx context.Context, r ref.Ref, revision *string, decide func(*kiln.Policy) error) error {
	return s.change(ctx, r.Unqualified(), func(f *kiln.Function) ([]write, error) {
		was, err := s.policyRevision(ctx, f, r)
		if err != nil {
			return nil, err
		}
		if revision != nil && *revision != "" && *revision != was {
			return nil, kiln.Errorf(kiln.PreconditionFailed, "The Revision Id provided does not match the latest Revision Id. "+
				"Call the GetPolicy API to retrieve the latest Revision Id")
		}
		p := f.Policies[r.Qualifier]
		if err := decide(&p); err != nil {
			return nil, err
		}
		p.RevisionID = s.cfg.NewID()
		if f.Policies == nil {
			f.Policies = make(map[kiln.Qualifier]kiln.Policy)
		}
		if f.Policies[r.Qualifier] = p; len(p.Permissions) == 0 {
			delete(f.Policies, r.Qualifier)
		}
		if n := len(toJSON(f.Policies)); n > maxPolicies {
			return nil, kiln.Errorf(kiln.PolicyLengthExceeded, "The final size of the function's policies (%d) is bigger than the limit (%d).", n, maxPolicies)
		}
		return s.revise(ctx, f, r, p.RevisionID)
	})
}

// revise gives what r names of f another revision, that of its policy as on AWS, and returns what to write beside f.
func (s *Service) revise(ctx context.Context, f *kiln.Function, r ref.Ref, revision string) ([]write, error) {
	if n, ok := ref.Number(r.Qualifier); ok {
		v, at, err := s.published(ctx, f, n)
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, r.NotFound(s.cfg.Region)
		}
		v.RevisionID = revision
		w := versionWrite(*v, f.ID, n)
		w.at = at
		return []write{w}, nil
	}
	if r.Qualifier == "" {
		f.Latest.RevisionID = revision
		return nil, nil
	}
	a := f.Aliases[kiln.AliasName(r.Qualifier)]
	a.RevisionID = revision
	f.Aliases[kiln.AliasName(r.Qualifier)] = a
	return nil, nil
}

// policyRevision returns the revision that the policy of what r names has. One that has no policy has its own, as on AWS. It fails with AWS's
// error if f has no version or alias of that name.
func (s *Service) policyRevision(ctx context.Context, f *kiln.Function, r ref.Ref) (string, error) {
	own := f.Latest.RevisionID
	if n, ok := ref.Number(r.Qualifier); ok {
		v, _, err := s.published(ctx, f, n)
		if err != nil {
			return "", err
		}
		if v == nil {
			return "", r.NotFound(s.cfg.Region)
		}
		own = v.RevisionID
	} else if r.Qualifier != "" {
		a, ok := f.Aliases[kiln.AliasName(r.Qualifier)]
		if !ok && aliasNamePattern.Matches(string(r.Qualifier)) {
			return "", s.noQualifier(r)
		}
		if !ok {
			return "", r.NotFound(s.cfg.Region)
		}
		own = a.RevisionID
	}
	if p, ok := f.Policies[r.Qualifier]; ok {
		own = p.RevisionID
	}
	return own, nil
}

// crossAccount reports whether an operation may be allowed by the policy of another account's function: those with which AWS has it
// (https://docs.aws.amazon.com/lambda/latest/dg/permissions-function-cross-account.html), as far as kiln serves them.
func crossAccount(op *api.Operation) bool {
	switch op {
	case api.CreateAlias, api.DeleteAlias, api.DeleteFunction, api.DeleteFunctionConcurrency, api.DeleteProvisionedConcurrencyConfig,
		api.GetAlias, api.GetFunction, api.GetFunctionConcurrency, api.GetFunctionConfiguration, api.GetPolicy,
		api.GetProvisionedConcurrencyConfig, api.ListAliases, api.ListProvisionedConcurrencyConfigs, api.ListTags, api.ListVersionsByFunction,
		api.PublishVersion, api.PutFunctionConcurrency, api.PutProvisionedConcurrencyConfig, api.TagResource, api.UntagResource,
		api.UpdateAlias, api.UpdateFunctionCode:
		return true
	}
	return false
}

// trusts reports whether the policy of another account's function lets c perform op on what r names. What cannot be read allows nothing.
func (s *Service) trusts(ctx context.Context, r ref.Ref, c api.Caller, op *api.Operation) bool {
	if !crossAccount(op) {
		return false
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return false
	}
	p := kiln.PolicyOf(f.Policies, r.Qualifier)
	return p.Allows(kiln.Access{Action: "lambda:" + op.Name, Account: c.Account, Role: c.Role})
}

// indexOfStatement returns where the statement is in p, -1 if it is not there.
func indexOfStatement(p kiln.Policy, id string) int {
	return slices.IndexFunc(p.Permissions, func(s kiln.Permission) bool { return s.StatementID == id })
}

func noPolicy() error {
	return kiln.Errorf(kiln.ResourceNotFound, "No policy is associated with the given resource.")
}

func noStatement(id string) error {
	return kiln.Errorf(kiln.ResourceNotFound, "Statement %s is not found in resource policy.", id)
}

func statementExists(id string) error {
	return kiln.Errorf(kiln.ResourceConflict, "The statement id (%s) provided already exists. "+
		"Please provide a new statement id, or remove the existing statement.", id)
}

func checkPolicySize(text string) error {
	if n := len(text); n > maxPolicy {
		return kiln.Errorf(kiln.PolicyLengthExceeded, "The final policy size (%d) is bigger than the limit (%d).", n, maxPolicy)
	}
	return nil
}

// statement is a statement of a policy as AWS writes it.
type statement struct {
	Sid       string
	Effect    string
	Principal any
	Action    string
	Resource  string
	Condition map[string]map[string]string `json:",omitempty"`
}

func statementOf(p kiln.Permission, arn string) statement {
	s := statement{Sid: p.StatementID, Effect: "Allow", Principal: principalOf(p.Principal), Action: p.Action, Resource: arn}
	add := func(operator, key, value string) {
		if value == "" {
			return
		}
		if s.Condition == nil {
			s.Condition = make(map[string]map[string]string)
		}
		if s.Condition[operator] == nil {
			s.Condition[operator] = make(map[string]string)
		}
		s.Condition[operator][key] = value
	}
	add("StringEquals", "AWS:SourceAccount", string(p.SourceAccount))
	add("StringEquals", "lambda:EventSourceToken", p.EventSourceToken)
	add("StringEquals", "lambda:FunctionUrlAuthType", p.URLAuthType)
	add("StringEquals", "aws:PrincipalOrgID", p.Organization)
	add("ArnLike", "AWS:SourceArn", p.SourceARN)
	if p.ViaURL {
		add("Bool", "lambda:InvokedViaFunctionUrl", "true")
	}
	return s
}

// principalOf shows a principal as a statement has it.
func principalOf(p string) any {
	switch {
	case p == kiln.Everybody:
		return p
	case isNumber(p):
		return map[string]string{"AWS": "arn:aws:iam::" + p + ":root"}
	case strings.HasPrefix(p, "arn:"):
		return map[string]string{"AWS": p}
	}
	return map[string]string{"Service": p}
}

// policyText returns a policy of what r names as AWS writes it.
func (s *Service) policyText(r ref.Ref, p kiln.Policy) string {
	var all []statement
	for _, each := range p.Permissions {
		all = append(all, statementOf(each, r.ARN(s.cfg.Region)))
	}
	return policyText(all)
}

// policyText returns the policy of those statements as AWS writes it.
func policyText(all []statement) string {
	return toJSON(struct {
		Version   string
		Id        string
		Statement []statement
	}{"2012-10-17", "default", all})
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode a policy: %v", err)) // strings and a map of strings: there is nothing to fail
	}
	return string(text)
}
