package deploy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
)

// codeSigning makes a configuration and returns its ARN.
func (n *node) codeSigning(policy string) string {
	n.Helper()
	out := must(call[api.CreateCodeSigningConfigRequest, api.CreateCodeSigningConfigResponse](n, api.CreateCodeSigningConfig, api.CreateCodeSigningConfigRequest{
		AllowedPublishers:   &api.AllowedPublishers{SigningProfileVersionArns: []string{"arn:aws:signer:us-east-1:123456789012:/signing-profiles/test"}},
		CodeSigningPolicies: &api.CodeSigningPolicies{UntrustedArtifactOnDeployment: &policy},
	}))
	if got := *out.CodeSigningConfig.CodeSigningPolicies.UntrustedArtifactOnDeployment; got != policy {
		n.Errorf("the policy is %s, not %s", got, policy)
	}
	return *out.CodeSigningConfig.CodeSigningConfigArn
}

func (n *node) signBy(function, arn string) error {
	n.Helper()
	_, err := call[api.PutFunctionCodeSigningConfigRequest, api.PutFunctionCodeSigningConfigResponse](n, api.PutFunctionCodeSigningConfig,
		api.PutFunctionCodeSigningConfigRequest{FunctionName: &function, CodeSigningConfigArn: &arn})
	return err
}

func (n *node) signedBy(function string) string {
	n.Helper()
	return text(must(call[api.GetFunctionCodeSigningConfigRequest, api.GetFunctionCodeSigningConfigResponse](n, api.GetFunctionCodeSigningConfig,
		api.GetFunctionCodeSigningConfigRequest{FunctionName: &function})).CodeSigningConfigArn)
}

// functionsSignedBy are the ARNs of the functions that have the configuration, page by page.
func (n *node) functionsSignedBy(arn string) []string {
	n.Helper()
	var all []string
	in := api.ListFunctionsByCodeSigningConfigRequest{CodeSigningConfigArn: &arn, MaxItems: new(int32(1))}
	for {
		out := must(call[api.ListFunctionsByCodeSigningConfigRequest, api.ListFunctionsByCodeSigningConfigResponse](n, api.ListFunctionsByCodeSigningConfig, in))
		all = append(all, out.FunctionArns...)
		if in.Marker = out.NextMarker; in.Marker == nil {
			return all
		}
	}
}

func (n *node) deleteCodeSigning(arn string) error {
	n.Helper()
	_, err := call[api.DeleteCodeSigningConfigRequest, api.DeleteCodeSigningConfigResponse](n, api.DeleteCodeSigningConfig,
		api.DeleteCodeSigningConfigRequest{CodeSigningConfigArn: &arn})
	return err
}

const notVerified = "The code signature failed one or more of the validation checks for signature mismatch or expiry, " +
	"and the code signing policy is set to ENFORCE. Lambda blocks the deployment."

func TestAnEnforcedSignatureRefusesEveryPackage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		enforced, warned := n.codeSigning("Enforce"), n.codeSigning("Warn")
		by := func(arn string) func(*api.CreateFunctionRequest) {
			return func(in *api.CreateFunctionRequest) { in.CodeSigningConfigArn = &arn }
		}
		_, err := n.create("f", by(enforced))
		n.wantError(err, kiln.CodeVerificationFailed, notVerified)
		_ = must(n.create("f", by(warned)))
		n.settleDown()
		update := func() error {
			_, err := n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("index.py", "new")})
			n.settleDown()
			return err
		}
		if err := update(); err != nil {
			t.Errorf("warned of: %v", err)
		}
		if err := n.signBy("f", enforced); err != nil {
			t.Fatal(err)
		}
		n.wantError(update(), kiln.CodeVerificationFailed, notVerified)
		_, err = n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("index.py", "new"), DryRun: new(true)})
		n.wantError(err, kiln.CodeVerificationFailed, notVerified)
		layer := must(n.publishLayer("l", zipOf("a", "b")))
		_, err = n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Layers: []string{*layer.LayerVersionArn}})
		n.wantError(err, kiln.CodeVerificationFailed, notVerified)
		if _, err := n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Description: new("d")}); err != nil {
			t.Errorf("a change without a package: %v", err)
		}
		n.settleDown()
		_ = must(call[api.DeleteFunctionCodeSigningConfigRequest, api.Unit](n, api.DeleteFunctionCodeSigningConfig, api.DeleteFunctionCodeSigningConfigRequest{FunctionName: new("f")}))
		if err := update(); err != nil {
			t.Errorf("without a configuration: %v", err)
		}
	})
}

func TestWhatACodeSigningConfigHoldsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		const publisher = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/"
		for name, publishers := range map[string][]string{
			"none": {}, "many": slices.Repeat([]string{publisher + "p"}, maxPublishers+1), "long": {publisher + strings.Repeat("p", maxPublisher)}, "other": {"p"},
		} {
			_, err := call[api.CreateCodeSigningConfigRequest, api.CreateCodeSigningConfigResponse](n, api.CreateCodeSigningConfig,
				api.CreateCodeSigningConfigRequest{AllowedPublishers: &api.AllowedPublishers{SigningProfileVersionArns: publishers}})
			if kiln.KindOf(err) != kiln.Validation {
				t.Errorf("%s: %.300v", name, err)
			}
		}
	})
}

func TestFunctionsOfACodeSigningConfigAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		first, second := n.codeSigning("Warn"), n.codeSigning("Warn")
		for _, f := range []string{"a", "b"} {
			_ = must(n.create(f))
			if err := n.signBy(f, first); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.signBy("a", first); err != nil { // again
			t.Fatal(err)
		}
		wantAll(t, n.functionsSignedBy(first), fnARN+"a", fnARN+"b")
		if err := n.signBy("a", second); err != nil {
			t.Fatal(err)
		}
		wantAll(t, n.functionsSignedBy(first), fnARN+"b")
		wantAll(t, n.functionsSignedBy(second), fnARN+"a")
		if got := n.signedBy("a"); got != second {
			t.Errorf("a has %s", got)
		}
		if err := n.deleteCodeSigning(first); kiln.KindOf(err) != kiln.ResourceConflict {
			t.Errorf("one that a function has is deleted: %v", err)
		}
		if err := n.delete("b", ""); err != nil {
			t.Fatal(err)
		}
		wantAll(t, n.functionsSignedBy(first))
		if err := n.deleteCodeSigning(first); err != nil {
			t.Error(err)
		}
		n.wantError(n.deleteCodeSigning(first), kiln.ResourceNotFound, "The Lambda code signing configuration "+first+" can not be found.")
		n.wantError(n.signBy("a", first), kiln.CodeSigningConfigNotFound,
			"The code signing configuration cannot be found. Check that the provided configuration is not deleted: "+first+".")
		out := must(call[api.ListCodeSigningConfigsRequest, api.ListCodeSigningConfigsResponse](n, api.ListCodeSigningConfigs, api.ListCodeSigningConfigsRequest{}))
		if len(out.CodeSigningConfigs) != 1 || *out.CodeSigningConfigs[0].CodeSigningConfigArn != second {
			t.Errorf("there are %d configurations", len(out.CodeSigningConfigs))
		}
	})
}

func TestOtherSettingsOfAFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		loop := func() string {
			return *must(call[api.GetFunctionRecursionConfigRequest, api.GetFunctionRecursionConfigResponse](n, api.GetFunctionRecursionConfig,
				api.GetFunctionRecursionConfigRequest{FunctionName: new("f")})).RecursiveLoop
		}
		for _, want := range []string{"Terminate", "Allow", "Terminate"} {
			_ = must(call[api.PutFunctionRecursionConfigRequest, api.PutFunctionRecursionConfigResponse](n, api.PutFunctionRecursionConfig,
				api.PutFunctionRecursionConfigRequest{FunctionName: new("f"), RecursiveLoop: &want}))
			if got := loop(); got != want {
				t.Errorf("it is %s, not %s", got, want)
			}
		}
		runtime := func(on string) error {
			_, err := call[api.PutRuntimeManagementConfigRequest, api.PutRuntimeManagementConfigResponse](n, api.PutRuntimeManagementConfig,
				api.PutRuntimeManagementConfigRequest{FunctionName: new("f"), UpdateRuntimeOn: &on})
			return err
		}
		if err := runtime("Auto"); err != nil {
			t.Error(err)
		}
		n.wantError(runtime("Manual"), kiln.InvalidParameterValue, "kiln does not support PutRuntimeManagementConfig member UpdateRuntimeOn with the value Manual")
		got := must(call[api.GetRuntimeManagementConfigRequest, api.GetRuntimeManagementConfigResponse](n, api.GetRuntimeManagementConfig,
			api.GetRuntimeManagementConfigRequest{FunctionName: new("f")}))
		if *got.UpdateRuntimeOn != "Auto" || *got.FunctionArn != fnARN+"f:$LATEST" {
			t.Errorf("it is %s of %s", *got.UpdateRuntimeOn, *got.FunctionArn)
		}
	})
}
