package ref

import (
	"strings"
	"testing"

	"kiln"
)

const (
	plainRule = `Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?` +
		`(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?`
	namespacedRule = `Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?` +
		`(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?`
	qualifierRule = `Member must satisfy regular expression pattern: \$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`
)

func reader(shape Shape) Reader {
	return Reader{Region: "us-east-1", Account: "123456789012", Operation: "GetFunction", Shape: shape}
}

func TestReferencesAreRead(t *testing.T) {
	type want struct{ account, name, qualifier string }
	const own = "123456789012"
	for _, tt := range []struct {
		name      string
		in        string
		qualifier string
		want      want
	}{
		{"a name", "f", "", want{own, "f", ""}},
		{"a name and a qualifier inside", "f:1", "", want{own, "f", "1"}},
		{"a name and a qualifier beside", "f", "prod", want{own, "f", "prod"}},
		{"both qualifiers the same", "f:prod", "prod", want{own, "f", "prod"}},
		{"a partial ARN", "123456789012:function:f", "", want{own, "f", ""}},
		{"a partial ARN with a version", "123456789012:function:f:$LATEST", "", want{own, "f", "$LATEST"}},
		{"an account and a name", "123456789012:f", "", want{own, "f", ""}},
		{"a type and a name", "function:f:7", "", want{own, "f", "7"}},
		{"an ARN", "arn:aws:lambda:us-east-1:123456789012:function:f", "", want{own, "f", ""}},
		{"an ARN with an alias", "arn:aws:lambda:us-east-1:123456789012:function:f:a-_B", "", want{own, "f", "a-_B"}},
		{"an ARN of another partition", "arn:aws-cn:lambda:us-east-1:123456789012:function:f", "", want{own, "f", ""}},
		{"an ARN that ends at its type names a function so called", "arn:aws:lambda:us-east-1:123456789012:function", "", want{own, "function", ""}},
		{"twelve digits are a name", "123456789012", "", want{own, "123456789012", ""}},
		{"dots are names that AWS reads", "a.b", "", want{own, "a.b", ""}},
		{"a dollar sign in a qualifier beside", "f", "a$b", want{own, "f", "a$b"}},
		{"longer than a function's name may be", strings.Repeat("a", 65), "", want{own, strings.Repeat("a", 65), ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := reader(Namespaced).Read(&tt.in, optional(tt.qualifier))
			if err != nil {
				t.Fatal(err)
			}
			if w := (Ref{kiln.AccountID(tt.want.account), kiln.FunctionName(tt.want.name), kiln.Qualifier(tt.want.qualifier)}); got != w {
				t.Errorf("got %+v, want %+v", got, w)
			}
		})
	}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func violation(value, member, rule string) string {
	return "Value '" + value + "' at '" + member + "' failed to satisfy constraint: " + rule
}

func TestReferencesAreRefusedAsAWSDoes(t *testing.T) {
	const arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
	long := strings.Repeat("a", 129)
	for _, tt := range []struct {
		name      string
		shape     Shape
		in        string
		qualifier string
		kind      kiln.Kind
		want      string
	}{
		{"a star", Namespaced, "*", "", kiln.Validation, "1 validation error detected: " + violation("*", "functionName", namespacedRule)},
		{"a star, plain", Plain, "*", "", kiln.Validation, "1 validation error detected: " + violation("*", "functionName", plainRule)},
		{"a dot, plain", Plain, "a.b", "", kiln.Validation, "1 validation error detected: " + violation("a.b", "functionName", plainRule)},
		{"two qualifiers in the name", Namespaced, arn + ":1:2", "", kiln.Validation,
			"1 validation error detected: " + violation(arn+":1:2", "functionName", namespacedRule)},
		{"a misspelled $LATEST", Namespaced, arn + ":$LATES", "", kiln.Validation,
			"1 validation error detected: " + violation(arn+":$LATES", "functionName", namespacedRule)},
		{"no region", Namespaced, "arn:aws:lambda::123456789012:function:f", "", kiln.Validation,
			"1 validation error detected: " + violation("arn:aws:lambda::123456789012:function:f", "functionName", namespacedRule)},
		{"no account", Plain, "arn:aws:lambda:us-east-1::function:f", "", kiln.Validation,
			"1 validation error detected: " + violation("arn:aws:lambda:us-east-1::function:f", "functionName", plainRule)},
		{"another service", Namespaced, "arn:aws:ec2:us-east-1:123456789012:instance:i-1", "", kiln.Validation,
			"1 validation error detected: " + violation("arn:aws:ec2:us-east-1:123456789012:instance:i-1", "functionName", namespacedRule)},
		{"a line's end", Namespaced, "f\n", "", kiln.Validation, "1 validation error detected: " + violation("f\n", "functionName", namespacedRule)},
		{"a way out of a path", Namespaced, "../f", "", kiln.Validation, "1 validation error detected: " + violation("../f", "functionName", namespacedRule)},
		{"a plain name with its qualifier has 140 characters at most", Plain, "my-function:" + long, "", kiln.Validation,
			"1 validation error detected: " + violation("my-function:"+long, "functionName", "Member must have length less than or equal to 140")},
		{"a read of 233 characters breaks the pattern only", Namespaced, "arn:aws:lambda:invalid-region:123456789012:function:" + long, "", kiln.Validation,
			"1 validation error detected: " + violation("arn:aws:lambda:invalid-region:123456789012:function:"+long, "functionName", namespacedRule)},
		{"a create of them both", Plain, "arn:aws:lambda:invalid-region:123456789012:function:" + long, "", kiln.Validation,
			"2 validation errors detected: " + violation("arn:aws:lambda:invalid-region:123456789012:function:"+long, "functionName", "Member must have length less than or equal to 140") +
				"; " + violation("arn:aws:lambda:invalid-region:123456789012:function:"+long, "functionName", plainRule)},
		{"an invalid qualifier", Namespaced, "f", "invalid!", kiln.Validation, "1 validation error detected: " + violation("invalid!", "qualifier", qualifierRule)},
		{"a long qualifier", Namespaced, "f", long, kiln.Validation,
			"1 validation error detected: " + violation(long, "qualifier", "Member must have length less than or equal to 128")},
		{"name and qualifier", Namespaced, "!", "!", kiln.Validation,
			"2 validation errors detected: " + violation("!", "functionName", namespacedRule) + "; " + violation("!", "qualifier", qualifierRule)},
		{"another region", Namespaced, "arn:aws:lambda:eu-central-1:123456789012:function:f", "", kiln.ResourceNotFound,
			"Functions from 'eu-central-1' are not reachable in this region ('us-east-1')"},
		{"differing qualifiers", Namespaced, arn + ":$LATEST", "1", kiln.InvalidParameterValue,
			"The derived qualifier from the function name does not match the specified qualifier."},
		{"another account", Namespaced, "999999999999:function:f", "", kiln.AccessDenied,
			"User: arn:aws:iam::123456789012:root is not authorized to perform: lambda:GetFunction on resource: arn:aws:lambda:us-east-1:999999999999:function:f " +
				"because no resource-based policy allows the lambda:GetFunction action"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := reader(tt.shape).Read(&tt.in, optional(tt.qualifier))
			if err == nil {
				t.Fatalf("read as %+v", got)
			}
			if k := kiln.KindOf(err); k != tt.kind || err.Error() != tt.want {
				t.Errorf("got  %d %s\nwant %d %s", k, err, tt.kind, tt.want)
			}
		})
	}
}

func TestAMissingNameIsRefused(t *testing.T) {
	_, err := reader(Plain).Read(nil, nil)
	if want := "1 validation error detected: Value null at 'functionName' failed to satisfy constraint: Member must not be null"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestCreateInAnotherAccountSaysNothing(t *testing.T) {
	r := reader(Plain)
	r.Operation = "CreateFunction"
	name := "999999999999:function:f"
	_, err := r.Read(&name, nil)
	if kiln.KindOf(err) != kiln.AccessDenied || err.Error() != "" {
		t.Errorf("got %v, want AccessDenied without a message", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"f", "f:1", "123456789012:function:f", "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST", "function:function", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := reader(Namespaced).Read(&name, nil)
		if err != nil {
			return
		}
		if got.Name == "" || len(got.Account) != 12 || strings.ContainsAny(string(got.Name+kiln.FunctionName(got.Qualifier)), "/:\x00\n") {
			t.Errorf("%q read as %+v", name, got)
		}
		arn := got.ARN("us-east-1")
		if again, err := reader(Namespaced).Read(&arn, nil); err != nil || again != got {
			t.Errorf("%q is %q, which reads as %+v, %v", name, arn, again, err)
		}
	})
}

func TestVersionNumbersAreCanonicalDecimals(t *testing.T) {
	for q, want := range map[kiln.Qualifier]int{
		"1": 1, "42": 42, "1234567890": 1234567890,
		"": 0, "0": 0, "007": 0, "-1": 0, "+1": 0, "1a": 0, "$LATEST": 0, "12345678901": 0, "1_0": 0,
	} {
		if n, ok := Number(q); n != want || ok != (want != 0) {
			t.Errorf("Number(%q) = %d, %v", q, n, ok)
		}
	}
}
