package deploy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
)

// permit adds a statement to the policy of f, or of a version or an alias of it, and returns its text.
func (n *node) permit(qualifier, statement, action, principal string, edit ...func(*api.AddPermissionRequest)) (string, error) {
	n.Helper()
	in := api.AddPermissionRequest{FunctionName: new("f"), Qualifier: optional(qualifier), StatementId: &statement, Action: &action, Principal: &principal}
	for _, e := range edit {
		e(&in)
	}
	out, err := call[api.AddPermissionRequest, api.AddPermissionResponse](n, api.AddPermission, in)
	if err != nil {
		return "", err
	}
	return *out.Statement, nil
}

func (n *node) forbid(qualifier, statement, revision string) error {
	n.Helper()
	_, err := call[api.RemovePermissionRequest, api.Unit](n, api.RemovePermission, api.RemovePermissionRequest{
		FunctionName: new("f"), Qualifier: optional(qualifier), StatementId: &statement, RevisionId: optional(revision)})
	return err
}

func (n *node) functionPolicy(qualifier string) (*api.GetPolicyResponse, error) {
	n.Helper()
	return call[api.GetPolicyRequest, api.GetPolicyResponse](n, api.GetPolicy, api.GetPolicyRequest{FunctionName: new("f"), Qualifier: optional(qualifier)})
}

func TestStatementsAreWrittenAsAWSWritesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		const rest = `"Action":"lambda:InvokeFunction","Resource":"` + "arn:aws:lambda:us-east-1:123456789012:function:f" + `"`
		for i, c := range []struct {
			principal string
			edit      func(*api.AddPermissionRequest)
			want      string
		}{
			{"999999999999", nil, `"Principal":{"AWS":"arn:aws:iam::999999999999:root"},` + rest},
			{"arn:aws:iam::999999999999:role/r", nil, `"Principal":{"AWS":"arn:aws:iam::999999999999:role/r"},` + rest},
			{"*", func(in *api.AddPermissionRequest) { in.PrincipalOrgID = new("o-1234567890") },
				`"Principal":"*",` + rest + `,"Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-1234567890"}}`},
			{"s3.amazonaws.com", func(in *api.AddPermissionRequest) {
				in.SourceArn, in.SourceAccount = new("arn:aws:s3:::b"), new("999999999999")
			}, `"Principal":{"Service":"s3.amazonaws.com"},` + rest + `,"Condition":{"ArnLike":{"AWS:SourceArn":"arn:aws:s3:::b"},"StringEquals":{"AWS:SourceAccount":"999999999999"}}`},
			{"alexa-appkit.amazon.com", func(in *api.AddPermissionRequest) { in.EventSourceToken = new("t") },
				`"Principal":{"Service":"alexa-appkit.amazon.com"},` + rest + `,"Condition":{"StringEquals":{"lambda:EventSourceToken":"t"}}`},
			{"*", func(in *api.AddPermissionRequest) { in.InvokedViaFunctionUrl = new(true) },
				`"Principal":"*",` + rest + `,"Condition":{"Bool":{"lambda:InvokedViaFunctionUrl":"true"}}`},
		} {
			edit := c.edit
			if edit == nil {
				edit = func(*api.AddPermissionRequest) {}
			}
			got, err := n.permit("", fmt.Sprint("s", i), "lambda:InvokeFunction", c.principal, edit)
			if want := fmt.Sprintf(`{"Sid":"s%d","Effect":"Allow",%s}`, i, c.want); err != nil || got != want {
				t.Errorf("%s: %v\n%s\nwant\n%s", c.principal, err, got, want)
			}
		}
		var p struct{ Statement []json.RawMessage }
		if err := json.Unmarshal([]byte(*must(n.functionPolicy("")).Policy), &p); err != nil || len(p.Statement) != 6 {
			t.Errorf("the policy has %d statements, %v", len(p.Statement), err)
		}
	})
}

func TestPoliciesAreGuardedByTheirRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		expecting := func(revision string) func(*api.AddPermissionRequest) {
			return func(in *api.AddPermissionRequest) { in.RevisionId = &revision }
		}
		const stale = "The Revision Id provided does not match the latest Revision Id. Call the GetPolicy API to retrieve the latest Revision Id"
		_, err := n.permit("1", "s", "lambda:*", "*", expecting("wrong"))
		n.wantError(err, kiln.PreconditionFailed, stale)
		own := *n.configuration("f", "1").RevisionId
		_ = must(n.permit("1", "s", "lambda:*", "*", expecting(own)))
		if policy, version := *must(n.functionPolicy("1")).RevisionId, *n.configuration("f", "1").RevisionId; policy == own || policy != version {
			t.Errorf("the policy has revision %s, the version %s, and before %s", policy, version, own)
		}
		_, err = n.permit("1", "s2", "lambda:*", "*", expecting(own))
		n.wantError(err, kiln.PreconditionFailed, stale)
		revision := *must(n.functionPolicy("1")).RevisionId
		n.wantError(n.forbid("1", "s", own), kiln.PreconditionFailed, stale)
		if err := n.forbid("1", "s", revision); err != nil {
			t.Error(err)
		}
		_, err = n.functionPolicy("1")
		n.wantError(err, kiln.ResourceNotFound, "The resource you requested does not exist.")
		n.wantError(n.forbid("1", "s", ""), kiln.ResourceNotFound, "No policy is associated with the given resource.")
	})
}

func TestPoliciesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		long := func(in *api.AddPermissionRequest) {
			in.SourceArn = new("arn:aws:s3:::" + strings.Repeat("b", 1000))
		}
		var err error
		added := 0
		for ; err == nil && added < 100; added++ {
			_, err = n.permit("", fmt.Sprint("s", added), "lambda:InvokeFunction", "s3.amazonaws.com", long)
		}
		if kiln.KindOf(err) != kiln.PolicyLengthExceeded || added < 10 || added > 20 {
			t.Errorf("statement %d: %v", added, err)
		}
		_ = must(n.permit("", "short", "lambda:InvokeFunction", "*"))
	})
}

func TestWhatHasAPolicyTakesItAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		alias := api.CreateAliasRequest{FunctionName: new("f"), Name: new("a"), FunctionVersion: new("$LATEST")}
		_ = must(call[api.CreateAliasRequest, api.AliasConfiguration](n, api.CreateAlias, alias))
		for _, q := range []string{"", "1", "a"} {
			_ = must(n.permit(q, "s", "lambda:*", "*"))
		}
		latest := *n.configuration("f", "").RevisionId
		named := *must(call[api.GetAliasRequest, api.AliasConfiguration](n, api.GetAlias, api.GetAliasRequest{FunctionName: new("f"), Name: new("a")})).RevisionId
		if f, a := *must(n.functionPolicy("")).RevisionId, *must(n.functionPolicy("a")).RevisionId; f != latest || a != named {
			t.Errorf("the policies have revisions %s and %s, the function %s, the alias %s", f, a, latest, named)
		}
		_ = must(call[api.DeleteAliasRequest, api.Unit](n, api.DeleteAlias, api.DeleteAliasRequest{FunctionName: new("f"), Name: new("a")}))
		_ = must(call[api.CreateAliasRequest, api.AliasConfiguration](n, api.CreateAlias, alias))
		if err := n.delete("f", "1"); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{"1", "a"} {
			if p, err := n.functionPolicy(q); err == nil {
				t.Errorf("%s still has the policy %s", q, *p.Policy)
			}
		}
		_ = must(n.functionPolicy(""))
	})
}

func TestAPolicyLetsAnotherAccountDoWhatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		get := func(reference string) error {
			_, err := callAs[api.GetFunctionRequest, api.GetFunctionResponse](n, other, api.GetFunction, api.GetFunctionRequest{FunctionName: &reference})
			return err
		}
		denied := func(err error) bool { return kiln.KindOf(err) == kiln.AccessDenied }
		if err := get(fnARN + "f"); !denied(err) {
			t.Errorf("without a policy: %v", err)
		}
		_ = must(n.permit("", "s", "lambda:GetFunction", string(other)))
		if err := get(fnARN + "f"); err != nil {
			t.Errorf("with one: %v", err)
		}
		if err := get(fnARN + "f:$LATEST"); err != nil {
			t.Errorf("its latest version: %v", err)
		}
		if err := get(fnARN + "f:1"); !denied(err) {
			t.Errorf("a version, with that of the function: %v", err)
		}
		_, err := callAs[api.DeleteFunctionRequest, api.DeleteFunctionResponse](n, other, api.DeleteFunction, api.DeleteFunctionRequest{FunctionName: new(fnARN + "f")})
		if !denied(err) {
			t.Errorf("another operation: %v", err)
		}
		_ = must(n.permit("1", "s", "lambda:*", string(other)))
		if err := get(fnARN + "f:1"); err != nil {
			t.Errorf("a version, with its own: %v", err)
		}
		_, err = callAs[api.UpdateFunctionConfigurationRequest, api.FunctionConfiguration](n, other, api.UpdateFunctionConfiguration,
			api.UpdateFunctionConfigurationRequest{FunctionName: new(fnARN + "f:1"), Description: new("mine")})
		if !denied(err) {
			t.Errorf("an operation that no policy may allow: %v", err)
		}
		if err := n.forbid("", "s", ""); err != nil {
			t.Fatal(err)
		}
		if err := get(fnARN + "f"); !denied(err) {
			t.Errorf("afterwards: %v", err)
		}
	})
}
