package deploy

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
	"kiln/catalog"
)

func (n *node) provision(qualifier string, places int32) error {
	n.Helper()
	out, err := call[api.PutProvisionedConcurrencyConfigRequest, api.PutProvisionedConcurrencyConfigResponse](n, api.PutProvisionedConcurrencyConfig,
		api.PutProvisionedConcurrencyConfigRequest{FunctionName: new("f"), Qualifier: &qualifier, ProvisionedConcurrentExecutions: &places})
	if err == nil && (*out.RequestedProvisionedConcurrentExecutions != places || *out.Status != "IN_PROGRESS") {
		n.Errorf("answered %d, %s", *out.RequestedProvisionedConcurrentExecutions, *out.Status)
	}
	return err
}

// provisioned is what GetProvisionedConcurrencyConfig tells: available/requested, status and reason. "" if there is none.
func (n *node) provisioned(qualifier string) string {
	n.Helper()
	out, err := call[api.GetProvisionedConcurrencyConfigRequest, api.GetProvisionedConcurrencyConfigResponse](n, api.GetProvisionedConcurrencyConfig,
		api.GetProvisionedConcurrencyConfigRequest{FunctionName: new("f"), Qualifier: &qualifier})
	if kiln.KindOf(err) == kiln.ProvisionedNotFound {
		return ""
	}
	if err != nil {
		n.Fatal(err)
	}
	if *out.AllocatedProvisionedConcurrentExecutions != *out.AvailableProvisionedConcurrentExecutions {
		n.Errorf("%d are allocated, %d available", *out.AllocatedProvisionedConcurrentExecutions, *out.AvailableProvisionedConcurrentExecutions)
	}
	s := fmt.Sprintf("%d/%d %s", *out.AvailableProvisionedConcurrentExecutions, *out.RequestedProvisionedConcurrentExecutions, *out.Status)
	if out.StatusReason != nil {
		s += " " + *out.StatusReason
	}
	return s
}

func (n *node) unprovision(qualifier string) error {
	n.Helper()
	_, err := call[api.DeleteProvisionedConcurrencyConfigRequest, api.Unit](n, api.DeleteProvisionedConcurrencyConfig,
		api.DeleteProvisionedConcurrencyConfigRequest{FunctionName: new("f"), Qualifier: &qualifier})
	return err
}

// allProvisioned is what ListProvisionedConcurrencyConfigs tells, page by page.
func (n *node) allProvisioned(size int32) []string {
	n.Helper()
	var all []string
	in := api.ListProvisionedConcurrencyConfigsRequest{FunctionName: new("f"), MaxItems: &size}
	for {
		out := must(call[api.ListProvisionedConcurrencyConfigsRequest, api.ListProvisionedConcurrencyConfigsResponse](n, api.ListProvisionedConcurrencyConfigs, in))
		for _, item := range out.ProvisionedConcurrencyConfigs {
			all = append(all, fmt.Sprintf("%s %d", *item.FunctionArn, *item.RequestedProvisionedConcurrentExecutions))
		}
		if in.Marker = out.NextMarker; in.Marker == nil {
			return all
		}
	}
}

// told has the data plane tell of one configuration.
func (n *node) told(qualifier kiln.Qualifier, available int, failure string, shares map[kiln.Qualifier]int) {
	var f kiln.Function
	if err := json.Unmarshal(must(n.store.Get(n.Context(), catalog.FunctionKey(account, "f"))).Value, &f); err != nil {
		n.Fatal(err)
	}
	n.service.Provisioned([]catalog.ProvisionStatus{{
		Account: account, Function: "f", Qualifier: qualifier, Asked: f.Provisioned[qualifier].LastModified,
		Shares: shares, Available: available, Missing: max(f.Provisioned[qualifier].Places-available, 0), Failure: failure,
	}})
}

func wantAll(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestAConfigurationIsReadyWhenTheDataPlaneSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		_ = must(n.createAlias("f", "live", "1"))
		if err := n.provision("live", 5); err != nil {
			t.Fatal(err)
		}
		wantText(t, "at first", n.provisioned("live"), "0/5 IN_PROGRESS")
		one := map[kiln.Qualifier]int{"1": 5}
		n.told("live", 3, "", one)
		wantText(t, "on the way", n.provisioned("live"), "3/5 IN_PROGRESS")
		n.told("live", 5, "", one)
		wantText(t, "when all are there", n.provisioned("live"), "5/5 READY")
		n.told("live", 2, "FUNCTION_ERROR_INIT_FAILURE", one)
		wantText(t, "when others fail", n.provisioned("live"), "2/5 FAILED FUNCTION_ERROR_INIT_FAILURE")
		n.told("live", 5, "", one)
		_ = must(n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), FunctionVersion: new("2")}))
		wantText(t, "when the alias has moved", n.provisioned("live"), "5/5 IN_PROGRESS")
		n.told("live", 5, "", map[kiln.Qualifier]int{"2": 5})
		wantText(t, "when that is followed", n.provisioned("live"), "5/5 READY")
		if err := n.provision("live", 3); err != nil {
			t.Fatal(err)
		}
		wantText(t, "when fewer are wanted", n.provisioned("live"), "3/3 IN_PROGRESS")
		if err := n.unprovision("live"); err != nil {
			t.Fatal(err)
		}
		wantText(t, "after its end", n.provisioned("live"), "")
		if err := n.unprovision("live"); err != nil {
			t.Errorf("deleted twice: %v", err)
		}
	})
}

func TestWhatIsProvisionedIsTakenFromTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		check := func(what string, err error, refused string, left int32) {
			t.Helper()
			if refused == "" && err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if refused != "" {
				n.wantError(err, kiln.InvalidParameterValue, refused)
			}
			if got := n.unreserved(); got != left {
				t.Errorf("%s: %d are left, want %d", what, got, left)
			}
		}
		check("too many", n.provision("1", 1001), "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000].", 1000)
		check("nearly all", n.provision("1", 901), "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100].", 1000)
		check("as many as possible", n.provision("1", 900), "", 100)
		check("fewer", n.provision("1", 10), "", 990)
		check("another version", n.provision("2", 5), "", 985)
		check("less is reserved", n.reserve("f", 14), " ReservedConcurrentExecutions  14 should not be lower than function's total provisioned concurrency [15].", 985)
		check("more is reserved", n.reserve("f", 20), "", 980)
		check("more than reserved", n.provision("2", 11), "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function", 980)
		check("all that is reserved", n.provision("2", 10), "", 980)
		check("nothing is reserved", n.unreserve("f"), "", 980)
		check("a version ends", n.delete("f", "1"), "", 990)
		wantAll(t, n.allProvisioned(1), fnARN+"f:2 10")
		_ = must(call[api.DeleteFunctionRequest, api.DeleteFunctionResponse](n, api.DeleteFunction, api.DeleteFunctionRequest{FunctionName: new("f")}))
		if left := n.unreserved(); left != 1000 {
			t.Errorf("after the function was deleted %d are left", left)
		}
	})
}

func TestOneConfigurationHasAVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := twoVersions(t)
		_ = must(n.createAlias("f", "live", "1"))
		_ = must(n.createAlias("f", "both", "2", withWeight("1", 0.5)))
		_ = must(n.createAlias("f", "latest", "$LATEST"))
		const already = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
		const unpublished = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
		refused := func(err error, message string) { t.Helper(); n.wantError(err, kiln.InvalidParameterValue, message) }
		if err := n.provision("live", 1); err != nil {
			t.Fatal(err)
		}
		refused(n.provision("1", 1), "Version is pointed by a Provisioned Concurrency alias")
		refused(n.provision("both", 1), already)
		refused(n.provision("latest", 1), unpublished)
		refused(n.provision("$LATEST", 1), unpublished)
		if err := n.provision("2", 1); err != nil {
			t.Fatal(err)
		}
		_, err := n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), FunctionVersion: new("2")})
		refused(err, already)
		_, err = n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), FunctionVersion: new("$LATEST")})
		refused(err, unpublished)
		const arn = fnARN + "f:"
		wantAll(t, n.allProvisioned(1), arn+"2 1", arn+"live 1")
		if err := n.deleteAlias("f", "live"); err != nil {
			t.Fatal(err)
		}
		wantAll(t, n.allProvisioned(50), arn+"2 1")
		if left := n.unreserved(); left != 999 {
			t.Errorf("%d are left", left)
		}
	})
}
