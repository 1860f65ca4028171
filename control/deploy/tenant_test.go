package deploy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
)

// filler are the members that a request is given, besides the resource that it is about: what every operation takes.
var filler = map[string]any{
	"Qualifier": "1", "Name": "a", "FunctionVersion": "1", "StatementId": "s", "Action": "lambda:GetFunction", "Principal": "*",
	"Role": role, "Handler": "index.handler", "Runtime": "python3.13", "RecursiveLoop": "Allow", "UpdateRuntimeOn": "Auto", "Description": "d",
	"ProvisionedConcurrentExecutions": int32(1), "ReservedConcurrentExecutions": int32(1), "VersionNumber": int64(1),
	"Tags": map[string]string{"a": "b"}, "TagKeys": []string{"a"},
	"Code": &api.FunctionCode{}, "Content": &api.LayerVersionContentInput{},
	"AllowedPublishers": &api.AllowedPublishers{SigningProfileVersionArns: []string{"arn:aws:signer:us-east-1:123456789012:/signing-profiles/test"}},
}

// about returns an input of op whose references, by their members' names, are those given, and reports whether it has one.
func about(op *api.Operation, references map[string]string) (in any, ok bool) {
	v := reflect.New(op.Input)
	for i := range op.Input.NumField() {
		f, name := v.Elem().Field(i), op.Input.Field(i).Name
		if r, is := references[name]; is && f.Type() == reflect.TypeFor[*string]() {
			f.Set(reflect.ValueOf(&r))
			ok = true
			continue
		}
		value := reflect.ValueOf(filler[name])
		switch {
		case !value.IsValid():
		case value.Type() == f.Type():
			f.Set(value)
		case f.Kind() == reflect.Pointer && value.Type() == f.Type().Elem():
			f.Set(reflect.New(value.Type()))
			f.Elem().Set(value)
		}
	}
	switch in := v.Interface().(type) {
	case *api.CreateFunctionRequest:
		in.Code = &api.FunctionCode{ZipFile: zipOf("index.py", "x")}
	case *api.UpdateFunctionCodeRequest:
		in.ZipFile = zipOf("index.py", "x")
	case *api.PublishLayerVersionRequest:
		in.Content = &api.LayerVersionContentInput{ZipFile: zipOf("a", "x")}
	}
	return v.Interface(), ok
}

// TestNoOperationTellsAnAccountOfAnother has an account ask, with every operation, about another's resource that is there and about one that
// is not: the answers are the same, and nothing has changed.
func TestNoOperationTellsAnAccountOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("there", withPublish))
		n.settleDown()
		_ = must(n.publishLayer("there", zipOf("a", "b")))
		signing := n.codeSigning("Warn")
		before := n.dump()
		asked := 0
		for _, h := range n.service.Handlers() {
			ask := func(function, layer, config string) string {
				arn := func(kind, name string) string { return "arn:aws:lambda:us-east-1:123456789012:" + kind + ":" + name }
				references := map[string]string{
					"FunctionName": arn("function", function), "Resource": arn("function", function), "LayerName": arn("layer", layer), "Arn": arn("layer", layer) + ":1",
					"CodeSigningConfigArn": config,
				}
				in, ok := about(h.Operation, references)
				if !ok {
					return ""
				}
				asked++
				out, err := h.Call(n.Context(), api.Caller{Account: other}, in)
				answer := fmt.Sprintf("%v %v", kiln.KindOf(err), err)
				if err == nil {
					answer = toJSON(out)
				}
				return strings.NewReplacer(function, "NAME", layer, "NAME", config, "CONFIG").Replace(answer)
			}
			none := signing[:len(signing)-3] + "000"
			if there, missing := ask("there", "there", signing), ask("lost0", "lost0", none); there != missing {
				t.Errorf("%s: of what is there %s\nof what is not %s", h.Operation.Name, there, missing)
			}
		}
		if after := n.dump(); after != before {
			t.Errorf("another account changed it from\n%s\nto\n%s", before, after)
		}
		if asked < 80 {
			t.Errorf("only %d questions were asked", asked)
		}
	})
}

// dump is everything that is stored of account.
func (n *node) dump() string {
	var all strings.Builder
	for _, r := range must(n.store.List(n.Context(), "123456789012/", "", 1000)) {
		fmt.Fprintf(&all, "%s %d %s\n", r.Key, r.Revision, r.Value)
	}
	return all.String()
}

func TestAFunctionHasARoleOfItsOwnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		const foreign = "arn:aws:iam::999999999999:role/r"
		_, err := n.create("f", func(in *api.CreateFunctionRequest) { in.Role = new(foreign) })
		n.wantError(err, kiln.AccessDenied, "Cross-account pass role is not allowed.")
		_ = must(n.create("f"))
		n.settleDown()
		_, err = n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Role: new(foreign)})
		n.wantError(err, kiln.AccessDenied, "Cross-account pass role is not allowed.")
	})
}
