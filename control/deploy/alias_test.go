package deploy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
)

func (n *node) createAlias(function, name, version string, edit ...func(*api.CreateAliasRequest)) (*api.AliasConfiguration, error) {
	n.Helper()
	in := api.CreateAliasRequest{FunctionName: &function, Name: &name, FunctionVersion: &version}
	for _, e := range edit {
		e(&in)
	}
	return call[api.CreateAliasRequest, api.AliasConfiguration](n, api.CreateAlias, in)
}

func (n *node) updateAlias(in api.UpdateAliasRequest) (*api.AliasConfiguration, error) {
	n.Helper()
	return call[api.UpdateAliasRequest, api.AliasConfiguration](n, api.UpdateAlias, in)
}

func (n *node) getAlias(function, name string) (*api.AliasConfiguration, error) {
	n.Helper()
	return call[api.GetAliasRequest, api.AliasConfiguration](n, api.GetAlias, api.GetAliasRequest{FunctionName: &function, Name: &name})
}

func (n *node) deleteAlias(function, name string) error {
	n.Helper()
	_, err := call[api.DeleteAliasRequest, api.Unit](n, api.DeleteAlias, api.DeleteAliasRequest{FunctionName: &function, Name: &name})
	return err
}

// aliases are the names of a function's aliases, those of one version unless that is "", in pages of size.
func (n *node) aliases(function, version string, size int32) []string {
	n.Helper()
	var names []string
	in := api.ListAliasesRequest{FunctionName: &function, FunctionVersion: optional(version), MaxItems: &size}
	for {
		out := must(call[api.ListAliasesRequest, api.ListAliasesResponse](n, api.ListAliases, in))
		if len(out.Aliases) > int(size) {
			n.Errorf("a page of %d has %d aliases", size, len(out.Aliases))
		}
		for _, a := range out.Aliases {
			names = append(names, *a.Name)
		}
		if in.Marker = out.NextMarker; in.Marker == nil {
			return names
		}
	}
}

func weights(version string, w float64) *api.AliasRoutingConfiguration {
	return &api.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{version: w}}
}

func withWeight(version string, w float64) func(*api.CreateAliasRequest) {
	return func(in *api.CreateAliasRequest) { in.RoutingConfig = weights(version, w) }
}

// twoVersions makes a function f with the versions 1 and 2.
func twoVersions(t *testing.T) *node {
	n := newNode(t)
	_ = must(n.create("f", withPublish))
	n.settleDown()
	_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Description: new("second")}))
	n.settleDown()
	_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f")}))
	return n
}

func TestAnAliasNamesAVersionUntilItIsGivenToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		made := must(n.createAlias("f", "live", "1", withWeight("2", 0.25)))
		if *made.AliasArn != fnARN+"f:live" || *made.FunctionVersion != "1" || made.RoutingConfig.AdditionalVersionWeights["2"] != 0.25 || *made.Description != "" {
			t.Errorf("made %+v", made)
		}
		if c := n.configuration("f", "live"); *c.Version != "1" || *c.FunctionArn != fnARN+"f:live" {
			t.Errorf("f:live is %s, %s", *c.Version, *c.FunctionArn)
		}
		moved := must(n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), FunctionVersion: new("2"), Description: new("moved"),
			RoutingConfig: &api.AliasRoutingConfiguration{}, RevisionId: made.RevisionId}))
		got := must(n.getAlias("f", "live"))
		if *got.FunctionVersion != "2" || *got.Description != "moved" || got.RoutingConfig != nil || *got.RevisionId != *moved.RevisionId || *got.RevisionId == *made.RevisionId {
			t.Errorf("got %+v", got)
		}
		_, err := n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), FunctionVersion: new("1"), RevisionId: made.RevisionId})
		n.wantError(err, kiln.PreconditionFailed, "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id")
		for range 2 { // one that is not there is deleted
			if err := n.deleteAlias("f", "live"); err != nil {
				t.Fatal(err)
			}
		}
		_, err = n.get("f", "live")
		n.wantError(err, kiln.ResourceNotFound, "Function not found: "+fnARN+"f:live")
		_, err = n.getAlias("f", "live")
		n.wantError(err, kiln.ResourceNotFound, "Cannot find alias arn: "+fnARN+"f:live")
	})
}

func TestAVersionThatAnAliasNamesCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		_ = must(n.createAlias("f", "b", "1", withWeight("2", 0)))
		_ = must(n.createAlias("f", "a", "2"))
		n.wantError(n.delete("f", "2"), kiln.ResourceConflict, "Unable to delete version because the following aliases reference it: [a, b]")
		if err := n.deleteAlias("f", "b"); err != nil {
			t.Fatal(err)
		}
		if err := n.delete("f", "1"); err != nil {
			t.Error(err)
		}
		n.wantVersions("f", "$LATEST", "2")
	})
}

func TestAliasesEndWithTheirFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		_ = must(n.createAlias("f", "live", "1"))
		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		_ = must(n.create("f"))
		if names := n.aliases("f", "", 50); len(names) != 0 {
			t.Errorf("a new function has aliases %v", names)
		}
	})
}

func TestAliasesAreListedInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		for i := range 7 {
			_ = must(n.createAlias("f", fmt.Sprint("a", i), fmt.Sprint(1+i%2)))
		}
		_ = must(n.createAlias("f", "both", "1", withWeight("2", 0.5)))
		if got := strings.Join(n.aliases("f", "", 3), " "); got != "a0 a1 a2 a3 a4 a5 a6 both" {
			t.Errorf("listed %s", got)
		}
		if got := strings.Join(n.aliases("f", "2", 2), " "); got != "a1 a3 a5 both" {
			t.Errorf("listed %s of version 2", got)
		}
	})
}

func TestTheNumberOfAliasesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		long := strings.Repeat("<", maxDescription) // six bytes each as JSON
		err := n.service.change(t.Context(), ref.Ref{Account: account, Name: "f"}, func(f *kiln.Function) ([]write, error) {
			for i := range kiln.MaxAliases - 1 {
				putAlias(f, kiln.AliasName(fmt.Sprintf("%0128d-", i)[1:]), kiln.Alias{Version: "1", Description: long})
			}
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = must(n.createAlias("f", "last", "1", func(in *api.CreateAliasRequest) { in.Description = &long }))
		_, err = n.createAlias("f", "more", "1")
		n.wantError(err, kiln.InvalidParameterValue, "The function has 500 aliases, which is the maximum.")
	})
}

func TestAliasesThatMakeNoSenseAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		_ = must(n.createAlias("f", "live", "1"))
		arn := fnARN + "f"
		for name, c := range map[string]struct {
			function, alias, version string
			routing                  *api.AliasRoutingConfiguration
			kind                     kiln.Kind
			message                  string
		}{
			"a number":         {"f", "1", "1", nil, kiln.Validation, "1 validation error detected: Value '1' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"},
			"twice":            {"f", "live", "1", nil, kiln.ResourceConflict, "Alias already exists: " + arn + ":live"},
			"no version":       {"f", "a", "7", nil, kiln.ResourceNotFound, "Function not found: " + arn + ":7"},
			"no number":        {"f", "a", "007", nil, kiln.ResourceNotFound, "Function not found: " + arn + ":007"},
			"no function":      {"g", "a", "1", nil, kiln.ResourceNotFound, "Function not found: " + fnARN + "g:1"},
			"no other version": {"f", "a", "1", weights("7", 0.5), kiln.ResourceNotFound, "Function not found: " + arn + ":7"},
			"a qualifier":      {"f:1", "a", "1", nil, kiln.InvalidParameterValue, "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please specify either a function name or an unqualified function ARN."},
			"the same version": {"f", "a", "1", weights("1", 0.5), kiln.InvalidParameterValue, "Invalid function version 1. Function version 1 is already included in routing configuration."},
			"latest weighted":  {"f", "a", "$LATEST", weights("1", 0.5), kiln.InvalidParameterValue, "$LATEST is not supported for an alias pointing to more than 1 version"},
			"too much":         {"f", "a", "1", weights("2", 1.5), kiln.Validation, "1 validation error detected: Value '{2=1.5}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]"},
		} {
			_, err := n.createAlias(c.function, c.alias, c.version, func(in *api.CreateAliasRequest) { in.RoutingConfig = c.routing })
			if kiln.KindOf(err) != c.kind || err.Error() != c.message {
				t.Errorf("%s: got %v, want %s", name, err, c.message)
			}
		}
		_, err := n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), RoutingConfig: weights("1", 0.5)})
		n.wantError(err, kiln.InvalidParameterValue, "Invalid function version 1. Function version 1 is already included in routing configuration.")
		_, err = n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("none")})
		n.wantError(err, kiln.ResourceNotFound, "Alias not found: "+arn+":none")
	})
}
