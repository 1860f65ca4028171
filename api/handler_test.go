package api_test

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"kiln"
	"kiln/api"
	"kiln/api/apitest"

	_ "github.com/aws/aws-sdk-go-v2/service/lambda/schemas" // see apitest.SDKDir
)

func TestEveryOperationOfTheSDKIsKnown(t *testing.T) {
	known := map[string]bool{}
	for _, op := range api.Operations() {
		known[op.Name] = true
	}
	files, err := filepath.Glob(filepath.Join(apitest.SDKDir(t), "api_op_*.go"))
	if err != nil || len(files) < 88 {
		t.Fatalf("found %d operations in the SDK, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "api_op_"), ".go")
		if !known[name] {
			t.Errorf("the SDK has the operation %s, package api has not: run go generate", name)
		}
	}
}

func TestEnumsThatMembersNameExist(t *testing.T) {
	for _, op := range api.Operations() {
		// Filled panics on an enum that has no values.
		apitest.Filled(op.Input)
		apitest.Filled(op.Output)
	}
	if got := api.Enum("NoSuchEnum"); got != nil {
		t.Errorf("Enum of no enum = %q", got)
	}
}

func ptr[T any](v T) *T { return &v }

// update serves UpdateFunctionConfiguration with a few of its members.
func update(t *testing.T, enforces ...api.Enforced) api.Handler {
	t.Helper()
	call := func(_ context.Context, _ api.Caller, in *api.UpdateFunctionConfigurationRequest) (*api.FunctionConfiguration, error) {
		return &api.FunctionConfiguration{FunctionName: in.FunctionName}, nil
	}
	return api.Handle(api.UpdateFunctionConfiguration, call, append(enforces, api.Enforced{Path: "FunctionName"})...)
}

func TestAMemberThatIsNotEnforcedIsRefused(t *testing.T) {
	h := update(t, api.Enforced{Path: "Timeout"}, api.Enforced{Path: "Environment.*"}, api.Enforced{Path: "VpcConfig.SubnetIds"},
		api.Enforced{Path: "FileSystemConfigs.Arn"})
	for _, c := range []struct {
		name    string
		in      api.UpdateFunctionConfigurationRequest
		refused string
	}{
		{"nothing", api.UpdateFunctionConfigurationRequest{}, ""},
		{"an enforced scalar", api.UpdateFunctionConfigurationRequest{Timeout: ptr(int32(3))}, ""},
		{"a scalar", api.UpdateFunctionConfigurationRequest{MemorySize: ptr(int32(128))}, "MemorySize"},
		{"a scalar with its zero value", api.UpdateFunctionConfigurationRequest{Description: ptr("")}, "Description"},
		{"an enforced structure", api.UpdateFunctionConfigurationRequest{Environment: &api.Environment{Variables: map[string]string{"A": "b"}}}, ""},
		{"a structure without members", api.UpdateFunctionConfigurationRequest{VpcConfig: &api.VpcConfig{}}, ""},
		{"a structure of empty lists", api.UpdateFunctionConfigurationRequest{VpcConfig: &api.VpcConfig{SecurityGroupIds: []string{}}}, ""},
		{"one member of a structure", api.UpdateFunctionConfigurationRequest{VpcConfig: &api.VpcConfig{SubnetIds: []string{"s"}}}, ""},
		{"another member of it", api.UpdateFunctionConfigurationRequest{VpcConfig: &api.VpcConfig{SecurityGroupIds: []string{"s"}}}, "VpcConfig.SecurityGroupIds"},
		{"a list", api.UpdateFunctionConfigurationRequest{Layers: []string{"l"}}, "Layers"},
		{"an empty list", api.UpdateFunctionConfigurationRequest{Layers: []string{}}, ""},
		{"a structure below a structure", api.UpdateFunctionConfigurationRequest{CapacityProviderConfig: &api.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &api.LambdaManagedInstancesCapacityProviderConfig{CapacityProviderArn: ptr("a")},
		}}, "CapacityProviderConfig.LambdaManagedInstancesCapacityProviderConfig.CapacityProviderArn"},
		{"an enforced member in a list", api.UpdateFunctionConfigurationRequest{FileSystemConfigs: []api.FileSystemConfig{{Arn: ptr("a")}}}, ""},
		{"a member of a later element", api.UpdateFunctionConfigurationRequest{FileSystemConfigs: []api.FileSystemConfig{{Arn: ptr("a")}, {LocalMountPath: ptr("/m")}}},
			"FileSystemConfigs.LocalMountPath"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.FunctionName = ptr("f")
			_, err := h.Call(t.Context(), api.Caller{}, &c.in)
			checkRefusal(t, err, "UpdateFunctionConfiguration", c.refused)
		})
	}
}

func checkRefusal(t *testing.T, err error, op, path string) {
	t.Helper()
	if path == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	want := "kiln does not support " + op + " member " + path
	if e, ok := errors.AsType[*kiln.Error](err); !ok || e.Kind != kiln.InvalidParameterValue || e.Message != want {
		t.Fatalf("err = %v, want %s", err, want)
	}
}

func TestEveryMemberOfEveryInputCanBeRefused(t *testing.T) {
	for _, op := range api.Operations() {
		in := apitest.Filled(op.Input)
		paths := leaves(op.Input, "")
		if refused := api.FirstRefused(op, paths, in); refused != "" {
			t.Errorf("%s: all members are enforced and %s is refused", op.Name, refused)
		}
		for i, path := range paths {
			if isRequired(op, path) {
				continue
			}
			others := append(append([]string{}, paths[:i]...), paths[i+1:]...)
			if refused := api.FirstRefused(op, others, in); refused != path {
				t.Errorf("%s: all but %s are enforced and %q is refused", op.Name, path, refused)
			}
		}
	}
}

func isRequired(op *api.Operation, path string) bool {
	f, ok := op.Input.FieldByName(path)
	return ok && f.Tag.Get("required") != ""
}

// leaves returns the path of every member of t that is no structure.
func leaves(t reflect.Type, prefix string) []string {
	var paths []string
	for f := range t.Fields() {
		e := f.Type
		for e.Kind() == reflect.Pointer || e.Kind() == reflect.Slice {
			e = e.Elem()
		}
		if e.Kind() == reflect.Struct && e != reflect.TypeFor[time.Time]() {
			paths = append(paths, leaves(e, prefix+f.Name+".")...)
		} else {
			paths = append(paths, prefix+f.Name)
		}
	}
	return paths
}

func TestHandlePanicsOnAContradiction(t *testing.T) {
	for _, c := range []struct {
		name string
		make func()
		want string
	}{
		{"a path that is no member", func() { update(t, api.Enforced{Path: "Timeuot"}) }, "Timeuot"},
		{"the bare name of a structure", func() { update(t, api.Enforced{Path: "VpcConfig"}) }, "VpcConfig"},
		{"a path covered by another", func() { update(t, api.Enforced{Path: "VpcConfig.*"}, api.Enforced{Path: "VpcConfig.SubnetIds"}) }, "VpcConfig.SubnetIds"},
		{"a required member left out", func() {
			api.Handle(api.DeleteAlias, func(context.Context, api.Caller, *api.DeleteAliasRequest) (*api.Unit, error) { return nil, nil },
				api.Enforced{Path: "FunctionName"})
		}, "required member Name"},
		{"another operation's input", func() {
			api.Handle(api.GetAlias, func(context.Context, api.Caller, *api.DeleteAliasRequest) (*api.Unit, error) { return nil, nil })
		}, "GetAlias takes api.GetAliasRequest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, c.want) {
					t.Errorf("panic %q, want one about %q", got, c.want)
				}
			}()
			c.make()
		})
	}
}

func TestAHandlersErrorComesWithoutAnOutput(t *testing.T) {
	boom := errors.New("boom")
	h := api.Handle(api.GetAccountSettings, func(context.Context, api.Caller, *api.GetAccountSettingsRequest) (*api.GetAccountSettingsResponse, error) {
		return nil, boom
	})
	if out, err := h.Call(t.Context(), api.Caller{}, &api.GetAccountSettingsRequest{}); out != nil || err != boom {
		t.Errorf("Call = %v, %v", out, err)
	}
}

func TestTheTableSaysWhatBecomesOfEachMember(t *testing.T) {
	doc := string(api.Table([]api.Handler{update(t, api.Enforced{Path: "Timeout", Note: "1-900"}, api.Enforced{Path: "Environment.*"},
		api.Enforced{Path: "VpcConfig.SubnetIds"})}))
	for _, line := range []string{
		"kiln serves 1 of the Lambda API's 88 operations.",
		"| CreateFunction | `POST /2015-03-31/functions` | answers 501 ServiceException |",
		"| UpdateFunctionConfiguration | `PUT /2015-03-31/functions/{FunctionName}/configuration` | [served](#updatefunctionconfiguration) |",
		"| `FunctionName` | enforced |",
		"| `Timeout` | enforced: 1-900 |",
		"| `MemorySize` | refused |",
		"| `Environment.*` | enforced |",
		"| `VpcConfig.SubnetIds` | enforced |",
		"| `VpcConfig.SecurityGroupIds` | refused |",
		"| `SnapStart.*` | refused |",
	} {
		if !strings.Contains(doc, line) {
			t.Errorf("the table lacks %q", line)
		}
	}
}
