// Package attack attacks nodes from inside their functions and takes processes, disk, memory and tasks away from them.
//
// An attack says what it expects and fails if it succeeds. What is tested elsewhere is not repeated: bombs of memory, logs, answers
// and files, what a function sees of the host's files and of its neighbours, and a sandbox killed whole, in package test; what the
// Runtime API answers to requests that HTTP servers disagree about and to calls out of turn, in worker/runtimeapi; the limits of
// one sandbox, and what a killed kiln or launcher leaves, in worker/sandbox/gvisor.
package attack

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// program is a deployment package with the Python file of that name below testdata.
func program(t testing.TB, name string) []byte {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return kilntest.Zip(t, map[string]string{"index.py": string(source)})
}

// echo answers with the event.
func echo(t testing.TB) []byte { return program(t, "echo.py") }

// call invokes a function and fails the test if kiln, not the function, fails.
func call(t testing.TB, n *kilntest.Node, function, payload string) *lambda.InvokeOutput {
	t.Helper()
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: &function, Payload: []byte(payload), LogType: types.LogTypeTail,
	})
	if err != nil {
		t.Fatalf("invoke %s: %v", function, err)
	}
	return out
}

// answer calls a function that must not fail and decodes its answer.
func answer[T any](t testing.TB, n *kilntest.Node, function, payload string) T {
	t.Helper()
	out := call(t, n, function, payload)
	if out.FunctionError != nil {
		t.Fatalf("%s failed: %.2000s\n%s", function, out.Payload, logOf(t, out))
	}
	var v T
	if err := json.Unmarshal(out.Payload, &v); err != nil {
		t.Fatalf("%s answered %.2000s: %v", function, out.Payload, err)
	}
	return v
}

// failureOf is the error type of an answer, "" if the function did not fail.
func failureOf(t testing.TB, out *lambda.InvokeOutput) string {
	t.Helper()
	if out.FunctionError == nil {
		return ""
	}
	var f struct {
		ErrorType string `json:"errorType"`
	}
	if err := json.Unmarshal(out.Payload, &f); err != nil {
		t.Fatalf("the error object %.2000s: %v", out.Payload, err)
	}
	return f.ErrorType
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

// encode is v as an event.
func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hostFile is what a file of this machine holds, "" if it has none.
func hostFile(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// isSoak says whether there is time for long counts.
func isSoak() bool { return os.Getenv("KILN_SOAK") != "" }
