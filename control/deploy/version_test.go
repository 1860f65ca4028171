package deploy

import (
	"fmt"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
	"kiln/catalog"
)

func (n *node) versions(name string) []string {
	n.Helper()
	out := must(call[api.ListVersionsByFunctionRequest, api.ListVersionsByFunctionResponse](n, api.ListVersionsByFunction, api.ListVersionsByFunctionRequest{FunctionName: &name}))
	var found []string
	for _, v := range out.Versions {
		if v.State != nil || v.LastUpdateStatus != nil {
			n.Errorf("the list shows the state of %s", *v.FunctionArn)
		}
		if want := fnARN + name + ":" + *v.Version; *v.FunctionArn != want {
			n.Errorf("version has ARN %s, want %s", *v.FunctionArn, want)
		}
		found = append(found, *v.Version)
	}
	return found
}

func (n *node) wantVersions(name string, want ...string) {
	n.Helper()
	if got := n.versions(name); fmt.Sprint(got) != fmt.Sprint(want) {
		n.Errorf("versions %v, want %v", got, want)
	}
}

func TestPublishMakesAVersionOnlyOfWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		_, err := n.publish(api.PublishVersionRequest{FunctionName: new("f")})
		n.wantError(err, kiln.ResourceConflict, "The operation cannot be performed at this time. The function is currently in the following state: Pending")
		n.settleDown()

		v1 := must(n.publish(api.PublishVersionRequest{FunctionName: new("f"), Description: new("first")}))
		n.wantState(v1, "Active", "Successful")
		if *v1.Version != "1" || *v1.FunctionArn != fnARN+"f:1" || *v1.Description != "first" {
			t.Errorf("published %s, %s, %q", *v1.Version, *v1.FunctionArn, *v1.Description)
		}
		again := must(n.publish(api.PublishVersionRequest{FunctionName: new("f"), Description: new("second")}))
		if *again.Version != "1" || *again.RevisionId != *v1.RevisionId || *again.Description != "first" {
			t.Errorf("publishing the same again gave %s, %q", *again.Version, *again.Description)
		}
		n.wantVersions("f", "$LATEST", "1")

		_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Description: new("changed")}))
		n.settleDown()
		if v2 := must(n.publish(api.PublishVersionRequest{FunctionName: new("f")})); *v2.Version != "2" || *v2.Description != "changed" {
			t.Errorf("published %s, %q", *v2.Version, *v2.Description)
		}
		if got := n.configuration("f", "1"); *got.RevisionId != *v1.RevisionId || *got.Description != "first" {
			t.Errorf("version 1 has changed: %q at %s", *got.Description, *got.RevisionId)
		}
	})
}

func TestVersionNumbersAreNeverUsedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		if err := n.delete("f:1", ""); err != nil {
			t.Fatal(err)
		}
		n.wantVersions("f", "$LATEST")
		_, err := n.get("f", "1")
		n.wantError(err, kiln.ResourceNotFound, "Function not found: "+fnARN+"f:1")
		if v := must(n.publish(api.PublishVersionRequest{FunctionName: new("f")})); *v.Version != "2" {
			t.Errorf("published %s after 1 was deleted", *v.Version)
		}
	})
}

func TestPublishChecksTheCodeItIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		c := must(n.create("f"))
		n.settleDown()
		_, err := n.publish(api.PublishVersionRequest{FunctionName: new("f"), CodeSha256: new("other")})
		n.wantError(err, kiln.InvalidParameterValue, "CodeSHA256 (other) is different from current CodeSHA256 in $LATEST ("+*c.CodeSha256+"). "+
			"Please try again with the CodeSHA256 in $LATEST.")
		_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f"), CodeSha256: c.CodeSha256}))
	})
}

func TestPublishWithCreateAndUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		c := must(n.create("f", withPublish))
		n.wantState(c, "Pending", "")
		if *c.Version != "1" || *c.FunctionArn != fnARN+"f" {
			t.Errorf("create shows %s, %s", *c.Version, *c.FunctionArn)
		}
		n.settleDown()
		n.wantState(n.configuration("f", "1"), "Active", "Successful")

		u := must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("a", "b"), Publish: new(true)}))
		n.wantState(u, "Pending", "")
		if *u.Version != "2" || *u.FunctionArn != fnARN+"f:2" {
			t.Errorf("update shows %s, %s", *u.Version, *u.FunctionArn)
		}
		n.wantState(n.configuration("f", "$LATEST"), "Active", "InProgress")
		n.settleDown()
		n.wantState(n.configuration("f", "2"), "Active", "Successful")
		n.wantState(n.configuration("f", ""), "Active", "Successful")
		if *n.configuration("f", "1").CodeSha256 == *u.CodeSha256 {
			t.Error("version 1 has the new code")
		}
	})
}

func TestDeletingAVersionHasAWSsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.wantError(n.delete("f", "$LATEST"), kiln.InvalidParameterValue, "$LATEST version cannot be deleted without deleting the function.")
		n.wantError(n.delete("f", "prod"), kiln.InvalidParameterValue, "Deletion of aliases is not currently supported.")
		n.wantError(n.delete("f", "1"), kiln.ResourceNotFound, "Function not found: "+fnARN+"f")
		_ = must(n.create("f"))
		if err := n.delete("f", "1"); err != nil {
			t.Errorf("a version that is not there: %v", err)
		}
		n.wantVersions("f", "$LATEST")
	})
}

func TestDeletingAFunctionLeavesNoVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		n.wantRecords(0)
		_ = must(n.create("f"))
		n.wantVersions("f", "$LATEST")
	})
}

func (n *node) wantRecords(want int) {
	n.Helper()
	if all := must(n.store.List(n.Context(), "", "", 100)); len(all) != want {
		n.Errorf("%d records are stored, want %d: %v", len(all), want, all)
	}
}

func TestAProcessRemovesTheVersionsOfADeletedFunctionThatADeadOneLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		_ = must(n.create("kept", withPublish))
		n.settleDown()
		n.stop()
		k := catalog.FunctionKey(account, "f")
		r := must(n.store.Get(t.Context(), k))
		_ = must(n.store.Commit(t.Context(), catalog.Change{Key: k, If: r.Revision}))
		n.wantRecords(3)
		n.start()
		n.wantRecords(2)
		n.wantVersions("kept", "$LATEST", "1")
	})
}
