package ref

import (
	"strings"
	"testing"

	"kiln/internal/constraint"
)

func TestReferencesToLayersAreRead(t *testing.T) {
	const arn = "arn:aws:lambda:eu-west-1:999999999999:layer:l"
	for name, want := range map[string]Layer{
		"l":   {Region: "us-east-1", Account: "123456789012", Name: "l"},
		"a_-": {Region: "us-east-1", Account: "123456789012", Name: "a_-"},
		arn:   {Region: "eu-west-1", Account: "999999999999", Name: "l"},
	} {
		var v constraint.Violations
		if CheckLayer(&v, &name); v.Message() != "" {
			t.Errorf("%s: %s", name, v.Message())
		} else if got := ResolveLayer("us-east-1", "123456789012", name); got != want {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
	for arn, want := range map[string]Layer{
		arn + ":7":                          {Region: "eu-west-1", Account: "999999999999", Name: "l", Version: 7},
		arn + ":99999999999999999999":       {Region: "eu-west-1", Account: "999999999999", Name: "l"},
		"arn:aws:lambda:::awslayer:Amazon1": {Name: "Amazon1"},
	} {
		var v constraint.Violations
		if CheckLayerVersion(&v, &arn); v.Message() != "" {
			t.Errorf("%s: %s", arn, v.Message())
		} else if got := ResolveLayerVersion(arn); got != want {
			t.Errorf("%s is read as %+v", arn, got)
		}
	}
	if got := (Layer{Region: "eu-west-1", Account: "999999999999", Name: "l", Version: 7}).VersionARN(); got != arn+":7" {
		t.Errorf("the ARN is %s", got)
	}
}

func TestWhatIsNoReferenceToALayerIsRefused(t *testing.T) {
	for _, name := range []string{"", "a b", "a:1", "../a", "arn:aws:lambda:us-east-1:123456789012:layer:l:1", strings.Repeat("x", 141)} {
		var v constraint.Violations
		if CheckLayer(&v, &name); v.Message() == "" {
			t.Errorf("%q is taken for a layer", name)
		}
	}
	for _, arn := range []string{"", "l:1", "arn:aws:lambda:us-east-1:123456789012:layer:l", "arn:aws:lambda:us-east-1:1:layer:l:1",
		"arn:aws:lambda:us-east-1:123456789012:layer:a/b:1", "arn:aws:lambda:us-east-1:123456789012:layer:" + strings.Repeat("x", 2048) + ":1"} {
		var one, list constraint.Violations
		CheckLayerVersion(&one, &arn)
		CheckLayerVersions(&list, []string{"arn:aws:lambda:us-east-1:123456789012:layer:l:1", arn})
		if one.Message() == "" || list.Message() == "" {
			t.Errorf("%q is taken for a layer version", arn)
		}
	}
	var v constraint.Violations
	CheckLayer(&v, nil)
	CheckLayerVersion(&v, nil)
	if want := "2 validation errors detected: Value null at 'layerName' failed to satisfy constraint: Member must not be null; " +
		"Value null at 'arn' failed to satisfy constraint: Member must not be null"; v.Message() != want {
		t.Errorf("absent references: %s", v.Message())
	}
}
