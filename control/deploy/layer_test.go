package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

const (
	other    kiln.AccountID = "999999999999"
	layerARN string         = "arn:aws:lambda:us-east-1:123456789012:layer:"
)

// byOther gives a function a role of the account other.
func byOther(in *api.CreateFunctionRequest) {
	in.Role = new("arn:aws:iam::999999999999:role/lambda-role")
}

func (n *node) publishLayer(name string, zip []byte, edit ...func(*api.PublishLayerVersionRequest)) (*api.PublishLayerVersionResponse, error) {
	n.Helper()
	in := api.PublishLayerVersionRequest{LayerName: &name, Content: &api.LayerVersionContentInput{ZipFile: zip}}
	for _, e := range edit {
		e(&in)
	}
	return call[api.PublishLayerVersionRequest, api.PublishLayerVersionResponse](n, api.PublishLayerVersion, in)
}

func (n *node) getLayer(a kiln.AccountID, name string, version int64) (*api.GetLayerVersionResponse, error) {
	n.Helper()
	in := api.GetLayerVersionRequest{LayerName: &name, VersionNumber: &version}
	return callAs[api.GetLayerVersionRequest, api.GetLayerVersionResponse](n, a, api.GetLayerVersion, in)
}

func (n *node) getLayerByARN(a kiln.AccountID, arn string) (*api.GetLayerVersionResponse, error) {
	n.Helper()
	return callAs[api.GetLayerVersionByArnRequest, api.GetLayerVersionResponse](n, a, api.GetLayerVersionByArn, api.GetLayerVersionByArnRequest{Arn: &arn})
}

func (n *node) deleteLayer(name string, version int64) error {
	n.Helper()
	_, err := call[api.DeleteLayerVersionRequest, api.Unit](n, api.DeleteLayerVersion, api.DeleteLayerVersionRequest{LayerName: &name, VersionNumber: &version})
	return err
}

func (n *node) listLayerVersions(in api.ListLayerVersionsRequest) (*api.ListLayerVersionsResponse, error) {
	n.Helper()
	return call[api.ListLayerVersionsRequest, api.ListLayerVersionsResponse](n, api.ListLayerVersions, in)
}

func (n *node) allow(a kiln.AccountID, layer string, principal string) (*api.AddLayerVersionPermissionResponse, error) {
	n.Helper()
	return callAs[api.AddLayerVersionPermissionRequest, api.AddLayerVersionPermissionResponse](n, a, api.AddLayerVersionPermission,
		api.AddLayerVersionPermissionRequest{LayerName: &layer, VersionNumber: new(int64(1)), StatementId: new("s"), Action: new("lambda:GetLayerVersion"), Principal: &principal})
}

func (n *node) disallow(in api.RemoveLayerVersionPermissionRequest) error {
	n.Helper()
	_, err := call[api.RemoveLayerVersionPermissionRequest, api.Unit](n, api.RemoveLayerVersionPermission, in)
	return err
}

func (n *node) layerPolicy(layer string) (*api.GetLayerVersionPolicyResponse, error) {
	n.Helper()
	return call[api.GetLayerVersionPolicyRequest, api.GetLayerVersionPolicyResponse](n, api.GetLayerVersionPolicy,
		api.GetLayerVersionPolicyRequest{LayerName: &layer, VersionNumber: new(int64(1))})
}

func withLayers(arns ...string) func(*api.CreateFunctionRequest) {
	return func(in *api.CreateFunctionRequest) { in.Layers = arns }
}

func (n *node) wantLayers(c *api.FunctionConfiguration, want ...string) {
	n.Helper()
	var got []string
	for _, l := range c.Layers {
		got = append(got, *l.Arn)
		if *l.CodeSize == 0 {
			n.Errorf("%s has no size", *l.Arn)
		}
	}
	if !slices.Equal(got, want) {
		n.Errorf("%s has the layers %v, want %v", *c.FunctionArn, got, want)
	}
}

func TestALayerVersionGoesThroughItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		content := zipOf("python/m.py", "x")
		out := must(n.publishLayer("l", content, func(in *api.PublishLayerVersionRequest) {
			in.Description, in.LicenseInfo, in.CompatibleRuntimes = new("d"), new("MIT"), []string{"go1.x", "python3.13"}
		}))
		digest := kiln.DigestOf(content)
		if *out.LayerArn != layerARN+"l" || *out.LayerVersionArn != layerARN+"l:1" || *out.Version != 1 || *out.CreatedDate != "2000-01-01T00:00:00.000+0000" ||
			*out.Content.CodeSha256 != digest.Base64() || *out.Content.CodeSize != int64(len(content)) || *out.Content.Location != "http://kiln/123456789012/"+string(digest) {
			t.Errorf("published %+v %+v", out, out.Content)
		}
		if *out.Description != "d" || *out.LicenseInfo != "MIT" || !slices.Equal(out.CompatibleRuntimes, []string{"go1.x", "python3.13"}) || out.CompatibleArchitectures != nil {
			t.Errorf("published %+v", out)
		}
		bare := must(n.publishLayer(layerARN+"l", content, func(in *api.PublishLayerVersionRequest) { in.CompatibleArchitectures = []string{} }))
		if *bare.Version != 2 || *bare.Description != "" || bare.LicenseInfo != nil || bare.CompatibleRuntimes != nil || bare.CompatibleArchitectures == nil {
			t.Errorf("published %+v", bare)
		}
		for _, got := range []*api.GetLayerVersionResponse{must(n.getLayer(account, "l", 1)), must(n.getLayer(account, layerARN+"l", 1)), must(n.getLayerByARN(account, layerARN+"l:1"))} {
			if a, b := toJSON(got), toJSON(out); a != b {
				t.Errorf("got %s, published %s", a, b)
			}
		}
		for range 2 { // deleting what is not there succeeds
			if err := n.deleteLayer("l", 1); err != nil {
				t.Fatal(err)
			}
		}
		const gone = "The resource you requested does not exist."
		_, err := n.getLayer(account, "l", 1)
		n.wantError(err, kiln.ResourceNotFound, gone)
		_, err = n.getLayerByARN(account, layerARN+"l:1")
		n.wantError(err, kiln.ResourceNotFound, gone)
		_, err = n.getLayer(account, "l", 99999999999)
		n.wantError(err, kiln.ResourceNotFound, gone)
	})
}

func TestLayerVersionNumbersAreNeverUsedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.publishLayer("l", zipOf("a", "b")))
		_ = must(n.publishLayer("l", zipOf("a", "c")))
		for v := range int64(2) {
			if err := n.deleteLayer("l", v+1); err != nil {
				t.Fatal(err)
			}
		}
		n.stop()
		n.start()
		if v := *must(n.publishLayer("l", zipOf("a", "b"))).Version; v != 3 {
			t.Errorf("the layer's third version is number %d", v)
		}
		var mu sync.Mutex
		seen := map[int64]bool{}
		var publishing sync.WaitGroup
		for range 6 {
			publishing.Go(func() {
				v := *must(n.publishLayer("l", zipOf("a", "b"))).Version
				mu.Lock()
				defer mu.Unlock()
				seen[v] = true
			})
		}
		publishing.Wait()
		if len(seen) != 6 {
			t.Errorf("six versions have the numbers %v", seen)
		}
	})
}

func TestListsOfLayersAreFilteredAndPaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		runtimes := func(r ...string) func(*api.PublishLayerVersionRequest) {
			return func(in *api.PublishLayerVersionRequest) { in.CompatibleRuntimes = r }
		}
		arm := func(in *api.PublishLayerVersionRequest) { in.CompatibleArchitectures = []string{"arm64"} }
		for i := range 11 { // a:1 is for python3.12, a:2 for none, and so on; a:3 is for arm64
			edit := runtimes()
			if i%2 == 0 {
				edit = runtimes("python3.12", "nodejs22.x")
			}
			_ = must(n.publishLayer("a", zipOf("x", fmt.Sprint(i)), edit, func(in *api.PublishLayerVersionRequest) {
				if i == 2 {
					arm(in)
				}
			}))
		}
		_ = must(n.publishLayer("a-b", zipOf("x", "y")))
		_ = must(n.publishLayer("b", zipOf("x", "y"), runtimes("python3.12"), arm))
		_ = must(n.publishLayer("c", zipOf("x", "y")))
		if err := n.deleteLayer("c", 1); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			runtime, architecture *string
			layers, versions      string
		}{
			{nil, nil, "a-b:1 a:11 b:1", "11 10 9 8 7 6 5 4 3 2 1"},
			{new("python3.12"), nil, "a:11 b:1", "11 9 7 5 3 1"},
			{nil, new("arm64"), "a:3 b:1", "3"},
			{new("nodejs22.x"), new("arm64"), "a:3", "3"},
			{new("ruby3.4"), nil, "", ""},
		} {
			for _, size := range []int32{1, 2, 3, 50} {
				n.wantLayerLists(tt.runtime, tt.architecture, size, tt.layers, tt.versions)
			}
		}
		if out := must(n.listLayerVersions(api.ListLayerVersionsRequest{LayerName: new("never-published")})); out.LayerVersions == nil || len(out.LayerVersions) != 0 {
			t.Errorf("a layer that is not there has the versions %v", out.LayerVersions)
		}
	})
}

// wantLayerLists lists all layers, and the versions of layer a, in pages of a size.
func (n *node) wantLayerLists(runtime, architecture *string, size int32, wantLayers, wantVersions string) {
	n.Helper()
	var layers, versions []string
	for mark := (*string)(nil); ; {
		out := must(call[api.ListLayersRequest, api.ListLayersResponse](n, api.ListLayers,
			api.ListLayersRequest{CompatibleRuntime: runtime, CompatibleArchitecture: architecture, MaxItems: &size, Marker: mark}))
		for _, l := range out.Layers {
			if *l.LayerArn != layerARN+*l.LayerName || !strings.HasPrefix(*l.LatestMatchingVersion.LayerVersionArn, *l.LayerArn+":") {
				n.Errorf("listed %+v", l)
			}
			layers = append(layers, fmt.Sprintf("%s:%d", *l.LayerName, *l.LatestMatchingVersion.Version))
		}
		if mark = out.NextMarker; mark == nil {
			break
		}
	}
	for mark := (*string)(nil); ; {
		out := must(n.listLayerVersions(api.ListLayerVersionsRequest{LayerName: new("a"),
			CompatibleRuntime: runtime, CompatibleArchitecture: architecture, MaxItems: &size, Marker: mark}))
		for _, v := range out.LayerVersions {
			versions = append(versions, fmt.Sprint(*v.Version))
		}
		if mark = out.NextMarker; mark == nil {
			break
		}
	}
	if got := strings.Join(layers, " "); got != wantLayers {
		n.Errorf("pages of %d list the layers %q, want %q", size, got, wantLayers)
	}
	if got := strings.Join(versions, " "); got != wantVersions {
		n.Errorf("pages of %d list the versions %q, want %q", size, got, wantVersions)
	}
}

func TestALayersListEndsAfterReadingMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for v := 1; v <= maxScan+1; v++ {
			n.putLayerVersion(kiln.LayerVersion{Layer: kiln.Layer{Account: account, Name: "l", Version: v}, CompatibleRuntimes: []string{"java21"}})
		}
		n.putLayerVersion(kiln.LayerVersion{Layer: kiln.Layer{Account: account, Name: "m", Version: 1}, CompatibleRuntimes: []string{"ruby3.4"}})
		in := api.ListLayersRequest{CompatibleRuntime: new("ruby3.4")}
		first := must(call[api.ListLayersRequest, api.ListLayersResponse](n, api.ListLayers, in))
		if len(first.Layers) != 0 || first.NextMarker == nil {
			t.Fatalf("the first page has %d layers, next %v", len(first.Layers), first.NextMarker)
		}
		in.Marker = first.NextMarker
		second := must(call[api.ListLayersRequest, api.ListLayersResponse](n, api.ListLayers, in))
		if len(second.Layers) != 1 || second.NextMarker != nil {
			t.Errorf("the second page has %d layers, next %v", len(second.Layers), second.NextMarker)
		}
	})
}

// putLayerVersion stores a layer version whose content nobody has.
func (n *node) putLayerVersion(v kiln.LayerVersion) {
	n.Helper()
	v.Code.Digest = kiln.DigestOf(nil)
	_ = must(n.store.Commit(n.Context(), catalog.Change{Key: catalog.LayerVersionKey(v.Account, v.Name, v.Version), Value: must(json.Marshal(v))}))
}

func TestWhatLayerOperationsRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.publishLayer("l", zipOf("a", "b")))
		const one = "1 validation error detected: "
		const namePattern = `Member must satisfy regular expression pattern: (arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+`
		const tooLow = "Layer Version Cannot be less than 1"
		publish := func(name string, zip []byte, edit func(*api.PublishLayerVersionRequest)) error {
			_, err := n.publishLayer(name, zip, edit)
			return err
		}
		_, getErr := n.getLayer(account, "l", 0)
		_, byARNErr := n.getLayerByARN(account, layerARN+"l")
		_, markErr := n.listLayerVersions(api.ListLayerVersionsRequest{LayerName: new("l"), Marker: new(encodeMarker(layerMarker{Layer: "m", Version: 1}))})
		_, filterErr := n.listLayerVersions(api.ListLayerVersionsRequest{LayerName: new("l"), CompatibleArchitecture: new("ppc"), MaxItems: new(int32(51))})
		_, unknownErr := call[api.ListLayersRequest, api.ListLayersResponse](n, api.ListLayers, api.ListLayersRequest{CompatibleRuntime: new("cobol")})
		for _, tt := range []struct {
			name string
			err  error
			kind kiln.Kind
			want string
		}{
			{"no name", publish("a b", zipOf("a", "b"), func(*api.PublishLayerVersionRequest) {}), kiln.Validation, one + "Value 'a b' at 'layerName' failed to satisfy constraint: " + namePattern},
			{"no source", publish("l", nil, func(*api.PublishLayerVersionRequest) {}), kiln.InvalidParameterValue, "Please provide a source for layer content."},
			{"no zip", publish("l", []byte("x"), func(*api.PublishLayerVersionRequest) {}), kiln.InvalidParameterValue,
				"Could not unzip uploaded file. Please check your file, then try to upload again."},
			{"an unsafe zip", publish("l", zipOf("../x", "b"), func(*api.PublishLayerVersionRequest) {}), kiln.InvalidParameterValue,
				`Could not unzip uploaded file: unsafe zip file: entry "../x": name has a ".." part`},
			{"a source in S3", publish("l", nil, func(in *api.PublishLayerVersionRequest) { in.Content.S3Bucket = new("b") }), kiln.InvalidParameterValue,
				"kiln does not support PublishLayerVersion member Content.S3Bucket"},
			{"unknown runtime and architecture", publish("l", zipOf("a", "b"), func(in *api.PublishLayerVersionRequest) {
				in.CompatibleRuntimes, in.CompatibleArchitectures = []string{"cobol"}, []string{"ppc"}
			}), kiln.Validation, "2 validation errors detected: Value '[cobol]' at 'compatibleRuntimes' failed to satisfy constraint: Member must satisfy enum value set: [" + listedRuntimes +
				"]; Value '[ppc]' at 'compatibleArchitectures' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64]]"},
			{"another account's layer", publish("arn:aws:lambda:us-east-1:999999999999:layer:l", zipOf("a", "b"), func(*api.PublishLayerVersionRequest) {}), kiln.AccessDenied,
				"User: arn:aws:iam::123456789012:root is not authorized to perform: lambda:PublishLayerVersion on resource: arn:aws:lambda:us-east-1:999999999999:layer:l " +
					"because no resource-based policy allows the lambda:PublishLayerVersion action"},
			{"version 0", getErr, kiln.InvalidParameterValue, tooLow},
			{"deleting version -1", n.deleteLayer("l", -1), kiln.InvalidParameterValue, tooLow},
			{"an ARN without a version", byARNErr, kiln.Validation, one + "Value '" + layerARN + "l' at 'arn' failed to satisfy constraint: Member must satisfy regular expression pattern: " +
				`(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)`},
			{"another layer's marker", markErr, kiln.InvalidParameterValue, "Invalid marker: " + encodeMarker(layerMarker{Layer: "m", Version: 1})},
			{"filters", filterErr, kiln.Validation, "2 validation errors detected: Value 'ppc' at 'compatibleArchitecture' failed to satisfy constraint: Member must satisfy enum value set: [x86_64, arm64]; " +
				"Value '51' at 'maxItems' failed to satisfy constraint: Member must have value less than or equal to 50"},
			{"an unknown runtime to filter by", unknownErr, kiln.Validation, one + "Value 'cobol' at 'compatibleRuntime' failed to satisfy constraint: Member must satisfy enum value set: [" + layerRuntimes + "]"},
			{"another region's layer", n.deleteLayer("arn:aws:lambda:eu-west-1:123456789012:layer:l", 1), kiln.ResourceNotFound,
				"Layers from 'eu-west-1' are not reachable in this region ('us-east-1')"},
		} {
			n.wantError(tt.err, tt.kind, tt.want)
		}
	})
}

func TestALayersPolicyLetsOthersUseIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.publishLayer("l", zipOf("a", "b")))
		denied := "User: arn:aws:iam::999999999999:root is not authorized to perform: lambda:GetLayerVersion on resource: " + layerARN + "l:1 " +
			"because no resource-based policy allows the lambda:GetLayerVersion action"
		use := func() error {
			in := createRequest("f", withLayers(layerARN+"l:1"), byOther)
			_, err := callAs[api.CreateFunctionRequest, api.FunctionConfiguration](n, other, api.CreateFunction, in)
			return err
		}
		_, err := n.getLayer(other, layerARN+"l", 1)
		n.wantError(err, kiln.AccessDenied, denied)
		n.wantError(use(), kiln.AccessDenied, denied)
		_, err = n.getLayerByARN(other, layerARN+"missing:1")
		n.wantError(err, kiln.AccessDenied, strings.ReplaceAll(denied, "layer:l:1", "layer:missing:1"))
		_, err = n.allow(other, layerARN+"l", "*")
		n.wantError(err, kiln.AccessDenied, strings.ReplaceAll(denied, "lambda:GetLayerVersion", "lambda:AddLayerVersionPermission"))

		for _, principal := range []string{"999999999999", "arn:aws:iam::999999999999:root", "*"} {
			added := must(n.allow(account, "l", principal))
			if principal != "*" && *added.Statement != `{"Sid":"s","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::999999999999:root"},"Action":"lambda:GetLayerVersion","Resource":"`+layerARN+`l:1"}` {
				t.Errorf("the statement for %s is %s", principal, *added.Statement)
			}
			policy := must(n.layerPolicy("l"))
			if want := `{"Version":"2012-10-17","Id":"default","Statement":[` + *added.Statement + `]}`; *policy.Policy != want || *policy.RevisionId != *added.RevisionId {
				t.Errorf("the policy is %s, want %s", *policy.Policy, want)
			}
			if got := must(n.getLayer(other, layerARN+"l", 1)); *got.Content.Location != "http://kiln/123456789012/"+string(kiln.DigestOf(zipOf("a", "b"))) {
				t.Errorf("others download it from %s", *got.Content.Location)
			}
			wrong := api.RemoveLayerVersionPermissionRequest{LayerName: new("l"), VersionNumber: new(int64(1)), StatementId: new("s"), RevisionId: new("wrong")}
			n.wantError(n.disallow(wrong), kiln.PreconditionFailed,
				"The Revision Id provided does not match the latest Revision Id. Call the GetLayerPolicy API to retrieve the latest Revision Id")
			wrong.RevisionId = added.RevisionId
			if err := n.disallow(wrong); err != nil {
				t.Error(err)
			}
			_, err = n.layerPolicy("l")
			n.wantError(err, kiln.ResourceNotFound, "No policy is associated with the given resource.")
			_, err = n.getLayer(other, layerARN+"l", 1)
			n.wantError(err, kiln.AccessDenied, denied)
		}

		_ = must(n.allow(account, "l", "111111111111"))
		n.wantError(use(), kiln.AccessDenied, denied)
		organization := must(call[api.AddLayerVersionPermissionRequest, api.AddLayerVersionPermissionResponse](n, api.AddLayerVersionPermission,
			api.AddLayerVersionPermissionRequest{LayerName: new("l"), VersionNumber: new(int64(1)), StatementId: new("o"), Action: new("lambda:GetLayerVersion"),
				Principal: new("*"), OrganizationId: new("o-0123456789")}))
		if want := `{"Sid":"o","Effect":"Allow","Principal":"*","Action":"lambda:GetLayerVersion","Resource":"` + layerARN +
			`l:1","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-0123456789"}}}`; *organization.Statement != want {
			t.Errorf("the statement for an organization is %s, want %s", *organization.Statement, want)
		}
		n.wantError(use(), kiln.AccessDenied, denied)
	})
}

func TestALayersPolicyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.publishLayer("l", zipOf("a", "b")))
		in := api.AddLayerVersionPermissionRequest{LayerName: new("l"), VersionNumber: new(int64(1)), Action: new("lambda:GetLayerVersion"), Principal: new("*")}
		for i := range 1000 {
			in.StatementId = new(fmt.Sprint(i))
			_, err := call[api.AddLayerVersionPermissionRequest, api.AddLayerVersionPermissionResponse](n, api.AddLayerVersionPermission, in)
			if err == nil {
				continue
			}
			if kiln.KindOf(err) != kiln.PolicyLengthExceeded || !strings.HasSuffix(err.Error(), "is bigger than the limit (20480).") {
				t.Error(err)
			}
			if size := len(*must(n.layerPolicy("l")).Policy); size > maxPolicy || size < maxPolicy-200 {
				t.Errorf("after %d statements the policy has %d bytes", i, size)
			}
			return
		}
		t.Error("a policy has 1000 statements")
	})
}

func TestAFunctionShowsItsLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.publishLayer("a", zipOf("a", "1")))
		_ = must(n.publishLayer("b", zipOf("b", "1")))
		n.wantLayers(must(n.create("f", withLayers(layerARN+"b:1", layerARN+"a:1"), withPublish)), layerARN+"b:1", layerARN+"a:1")
		n.settleDown()
		deployment := n.version("f", 0).Deployment
		n.wantLayers(n.configuration("f", ""), layerARN+"b:1", layerARN+"a:1")
		n.wantLayers(must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Timeout: new(int32(9))})), layerARN+"b:1", layerARN+"a:1")
		n.settleDown()
		n.wantLayers(must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Layers: []string{layerARN + "a:1"}})), layerARN+"a:1")
		if n.version("f", 0).Deployment == deployment {
			t.Error("environments with other layers are kept")
		}
		n.settleDown()
		n.wantLayers(must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("c", "1")})), layerARN+"a:1")
		n.settleDown()
		n.wantLayers(must(n.publish(api.PublishVersionRequest{FunctionName: new("f")})), layerARN+"a:1")
		n.wantLayers(must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Layers: []string{}})))
		n.wantLayers(n.configuration("f", "1"), layerARN+"b:1", layerARN+"a:1")
		n.wantLayers(n.configuration("f", "2"), layerARN+"a:1")
	})
}

func TestFunctionsCannotHaveTheseLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for _, l := range []kiln.Layer{
			{Name: "l", Version: 1}, {Name: "l", Version: 2}, {Name: "m", Version: 1, Code: kiln.Code{Unzipped: 200 << 20}},
			{Name: "o", Version: 1, Code: kiln.Code{Unzipped: 60 << 20}}, {Name: "p", Version: 1, Code: kiln.Code{Unzipped: kiln.MaxUnzipped}},
		} {
			l.Account = account
			n.putLayerVersion(kiln.LayerVersion{Layer: l})
		}
		_ = must(n.create("g"))
		n.settleDown()
		for _, tt := range []struct {
			name string
			arns []string
			kind kiln.Kind
			want string
		}{
			{"six", []string{layerARN + "l:1", layerARN + "l:1", layerARN + "l:1", layerARN + "l:1", layerARN + "l:1", layerARN + "l:1"}, kiln.InvalidParameterValue,
				"Cannot reference more than 5 layers."},
			{"two of one", []string{layerARN + "l:1", layerARN + "m:1", layerARN + "l:2"}, kiln.InvalidParameterValue,
				"Two different versions of the same layer are not allowed to be referenced in the same function. " + layerARN + "l:1 and " + layerARN + "l:2 are versions of the same layer."},
			{"none such", []string{layerARN + "l:3"}, kiln.InvalidParameterValue, "Layer version " + layerARN + "l:3 does not exist."},
			{"no version", []string{layerARN + "l"}, kiln.Validation, "1 validation error detected: Value '[" + layerARN + "l]' at 'layers' failed to satisfy constraint: Member must satisfy constraint: " +
				"[Member must have length less than or equal to 2048, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: " +
				`(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+), Member must not be null]`},
			{"another region's", []string{"arn:aws:lambda:eu-west-1:123456789012:layer:l:1"}, kiln.InvalidParameterValue,
				"Layers are not in the same region as the function. Layers are expected to be in region us-east-1."},
			{"another account's", []string{"arn:aws:lambda:us-east-1:999999999999:layer:l:1"}, kiln.AccessDenied,
				"User: arn:aws:iam::123456789012:root is not authorized to perform: lambda:GetLayerVersion on resource: arn:aws:lambda:us-east-1:999999999999:layer:l:1 " +
					"because no resource-based policy allows the lambda:GetLayerVersion action"},
			{"AWS's own", []string{"arn:aws:lambda:::awslayer:Amazon"}, kiln.AccessDenied,
				"User: arn:aws:iam::123456789012:root is not authorized to perform: lambda:GetLayerVersion on resource: arn:aws:lambda:::awslayer:Amazon " +
					"because no resource-based policy allows the lambda:GetLayerVersion action"},
			{"too large together", []string{layerARN + "m:1", layerARN + "o:1"}, kiln.InvalidParameterValue, "Layers consume more than the available size of 262144000 bytes"},
			{"too large with code", []string{layerARN + "p:1"}, kiln.InvalidParameterValue,
				"Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is 262144001 bytes."},
		} {
			_, err := n.create("f", withLayers(tt.arns...))
			n.wantError(err, tt.kind, strings.ReplaceAll(tt.want, "262144001", fmt.Sprint(kiln.MaxUnzipped+1)))
			_, err = n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("g"), Layers: tt.arns})
			n.wantError(err, tt.kind, strings.ReplaceAll(tt.want, "262144001", fmt.Sprint(kiln.MaxUnzipped+1)))
		}
		if n.blobs.len() != 1 {
			t.Errorf("%d objects are stored, want the code of g", n.blobs.len())
		}
	})
}

func TestCodeCountsWithLayersWhenItIsUpdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.putLayerVersion(kiln.LayerVersion{Layer: kiln.Layer{Account: account, Name: "l", Version: 1, Code: kiln.Code{Unzipped: kiln.MaxUnzipped - 2}}})
		_ = must(n.create("f", withLayers(layerARN+"l:1")))
		n.settleDown()
		_, err := n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("a", "123")})
		n.wantError(err, kiln.InvalidParameterValue,
			fmt.Sprintf("Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is %d bytes.", kiln.MaxUnzipped+1))
	})
}

func TestAFunctionKeepsTheContentOfADeletedLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		content := zipOf("a", "b")
		_ = must(n.publishLayer("l", content))
		_ = must(n.allow(account, "l", string(other)))
		_ = must(n.create("mine", withLayers(layerARN+"l:1"), withPublish))
		in := createRequest("theirs", withLayers(layerARN+"l:1"), byOther)
		_ = must(callAs[api.CreateFunctionRequest, api.FunctionConfiguration](n, other, api.CreateFunction, in))
		n.settleDown()
		if err := n.deleteLayer("l", 1); err != nil {
			t.Fatal(err)
		}
		n.stop()
		n.start() // a new process counts anew
		n.keepEnds()
		n.wantStored(true, content)
		n.wantLayers(n.configuration("mine", "1"), layerARN+"l:1")
		n.wantLayers(must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("mine"), Timeout: new(int32(9))})), layerARN+"l:1")
		_, err := n.create("new", withLayers(layerARN+"l:1"))
		n.wantError(err, kiln.InvalidParameterValue, "Layer version "+layerARN+"l:1 does not exist.")

		if err := n.delete("mine", ""); err != nil {
			t.Fatal(err)
		}
		n.keepEnds()
		n.wantStored(true, content)
		_, err = callAs[api.DeleteFunctionRequest, api.DeleteFunctionResponse](n, other, api.DeleteFunction, api.DeleteFunctionRequest{FunctionName: new("theirs")})
		if err != nil {
			t.Fatal(err)
		}
		n.keepEnds()
		n.wantStored(false, content)
	})
}

// watchedStore calls got, once, after a record was read.
type watchedStore struct {
	catalog.Store
	key catalog.Key
	got func()
}

func (w *watchedStore) Get(ctx context.Context, k catalog.Key) (catalog.Record, error) {
	r, err := w.Store.Get(ctx, k)
	if got := w.got; got != nil && k == w.key {
		w.got = nil
		got()
	}
	return r, err
}

func TestALayerThatIsDeletedWhileItIsLookedUpIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &watchedStore{Store: catalogtest.NewMemory(), key: catalog.LayerVersionKey(account, "l", 1)}
		n := &node{T: t, store: store, blobs: newMemoryBlobs()}
		n.start()
		content := zipOf("a", "b")
		_ = must(n.publishLayer("l", content))
		store.got = func() {
			if err := n.deleteLayer("l", 1); err != nil {
				t.Error(err)
			}
			n.keepEnds()
			n.wantStored(false, content)
		}
		_, err := n.create("f", withLayers(layerARN+"l:1"))
		n.wantError(err, kiln.InvalidParameterValue, "Layer version "+layerARN+"l:1 does not exist.")
	})
}

func TestALayersContentIsDeletedWithItsLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		content := zipOf("a", "b")
		_ = must(n.publishLayer("l", content))
		_ = must(n.publishLayer("m", content))
		settings := func() *api.AccountUsage {
			return must(call[api.GetAccountSettingsRequest, api.GetAccountSettingsResponse](n, api.GetAccountSettings, api.GetAccountSettingsRequest{})).AccountUsage
		}
		if u := settings(); *u.TotalCodeSize != 2*int64(len(content)) || *u.FunctionCount != 0 {
			t.Errorf("two layer versions use %d bytes and are %d functions", *u.TotalCodeSize, *u.FunctionCount)
		}
		if err := n.deleteLayer("l", 1); err != nil {
			t.Fatal(err)
		}
		n.keepEnds()
		n.wantStored(true, content)
		if err := n.deleteLayer("m", 1); err != nil {
			t.Fatal(err)
		}
		n.keepEnds()
		n.wantStored(false, content)
		if u := settings(); *u.TotalCodeSize != 0 {
			t.Errorf("no layer versions use %d bytes", *u.TotalCodeSize)
		}
	})
}
