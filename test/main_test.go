// Package test drives whole nodes with the clients that users have: aws-sdk-go-v2, the aws CLI, boto3.
package test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"

	"kiln/kilntest"
)

// TestMain runs the tests in a network of their own.
func TestMain(m *testing.M) { os.Exit(kilntest.Main(m)) }

// python is a deployment package with index.py.
func python(t testing.TB, source string) []byte {
	return kilntest.Zip(t, map[string]string{"index.py": source})
}

// untouched is enough seconds for a function of 128 MB to fill that with a fourteenth of a processor, on a virtual machine whose memory is
// found only when it is touched first.
const untouched = 60

// echo answers with the event.
const echo = "def handler(event, context):\n    return event\n"

// call invokes a function and fails the test if kiln, not the function, fails.
func call(t testing.TB, n *kilntest.Node, function, payload string) *lambda.InvokeOutput {
	t.Helper()
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: &function, Payload: []byte(payload), LogType: types.LogTypeTail,
	})
	if err != nil {
		t.Fatalf("invoke %s: %v\n%s", function, err, lastLine(n.Output()))
	}
	return out
}

// logOf decodes the log tail of an answer.
func logOf(t testing.TB, out *lambda.InvokeOutput) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// value calls a function that must not fail and decodes its answer.
func value[T any](t testing.TB, n *kilntest.Node, function, payload string) T {
	t.Helper()
	out := call(t, n, function, payload)
	if out.FunctionError != nil {
		t.Fatalf("%s failed: %s\n%s", function, out.Payload, logOf(t, out))
	}
	var v T
	if err := json.Unmarshal(out.Payload, &v); err != nil {
		t.Fatalf("%s answered %s: %v", function, out.Payload, err)
	}
	return v
}

// failure is the error object of an answer.
type failure struct {
	ErrorType    string   `json:"errorType"`
	ErrorMessage string   `json:"errorMessage"`
	StackTrace   []string `json:"stackTrace"`
	Trace        []string `json:"trace"`
}

// fails calls a function that must fail and decodes its error object.
func fails(t testing.TB, n *kilntest.Node, function, payload string) (failure, *lambda.InvokeOutput) {
	t.Helper()
	out := call(t, n, function, payload)
	if aws.ToString(out.FunctionError) != "Unhandled" {
		t.Fatalf("%s answered %s (error %q)", function, out.Payload, aws.ToString(out.FunctionError))
	}
	var f failure
	if err := json.Unmarshal(out.Payload, &f); err != nil {
		t.Fatalf("%s answered %s: %v", function, out.Payload, err)
	}
	return f, out
}

// wantCode checks the AWS error code of err.
func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func contains(t testing.TB, s, part string) {
	t.Helper()
	if !strings.Contains(s, part) {
		t.Errorf("%q does not contain %q", s, part)
	}
}
