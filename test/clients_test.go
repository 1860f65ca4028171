package test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// need skips the test when a client is not on this machine.
func need(t *testing.T, path, pkg string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs the Debian package %s", pkg)
	}
}

// programs are the path of a client as the distribution installs it, and that of another version which comes first in PATH.
func programs(debian string) []string {
	paths := []string{debian}
	if first, err := exec.LookPath(filepath.Base(debian)); err == nil && first != debian {
		paths = append(paths, first)
	}
	return paths
}

func TestTheAWSCommandLineDeploysInvokesAndDeletes(t *testing.T) {
	for _, path := range programs("/usr/bin/aws") {
		t.Run(path, func(t *testing.T) { commandLine(t, path) })
	}
}

func commandLine(t *testing.T, path string) {
	need(t, path, "awscli")
	n := kilntest.Start(t)
	dir := t.TempDir()
	code := filepath.Join(dir, "code.zip")
	if err := os.WriteFile(code, python(t, echo), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, path, append([]string{"--endpoint-url", n.Endpoint, "--output", "json", "lambda"}, args...)...)
		cmd.Env = n.Env()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	aws := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("aws lambda %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	contains(t, aws("create-function", "--function-name", "hello", "--runtime", n.Runtime("python3"), "--handler", "index.handler",
		"--role", kilntest.Role, "--zip-file", "fileb://"+code, "--tags", "team=a"), `"State": "Pending"`)
	aws("wait", "function-active-v2", "--function-name", "hello")
	contains(t, aws("list-functions"), `"FunctionName": "hello"`)
	contains(t, aws("list-functions", "--function-version", "ALL", "--max-items", "1"), `"FunctionName": "hello"`)
	aws("update-function-configuration", "--function-name", "hello", "--timeout", "9", "--memory-size", "512", "--environment", "Variables={KEY=value}")
	aws("wait", "function-updated-v2", "--function-name", "hello")
	contains(t, aws("get-function-configuration", "--function-name", "hello"), `"Timeout": 9`)
	// Versions 1 and 2 read an inline payload differently, and one from a file alike.
	event, answer := filepath.Join(dir, "event.json"), filepath.Join(dir, "answer.json")
	if err := os.WriteFile(event, []byte(`{"a":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, aws("invoke", "--function-name", "hello", "--payload", "fileb://"+event, "--log-type", "Tail", answer), `"LogResult"`)
	if b, err := os.ReadFile(answer); err != nil || strings.ReplaceAll(string(b), " ", "") != `{"a":1}` {
		t.Errorf("answered %s, %v", b, err)
	}
	contains(t, aws("publish-version", "--function-name", "hello"), `"Version": "1"`)
	contains(t, aws("list-versions-by-function", "--function-name", "hello"), `"Version": "1"`)
	contains(t, aws("list-tags", "--resource", "arn:aws:lambda:us-east-1:123456789012:function:hello"), `"team": "a"`)
	contains(t, aws("get-account-settings"), `"FunctionCount": 1`)
	var location struct{ Code struct{ Location string } }
	if err := json.Unmarshal([]byte(aws("get-function", "--function-name", "hello")), &location); err != nil {
		t.Fatal(err)
	}
	got := download(t, location.Code.Location)
	if want, err := os.ReadFile(code); err != nil || string(got) != string(want) {
		t.Errorf("the downloaded package has %d bytes and differs from what was uploaded (%v)", len(got), err)
	}
	aws("delete-function", "--function-name", "hello")
	if out, err := run("get-function", "--function-name", "hello"); err == nil || !strings.Contains(out, "ResourceNotFoundException") {
		t.Errorf("after the deletion: %s", out)
	}
}

func TestBoto3DeploysAndInvokes(t *testing.T) {
	for _, path := range programs("/usr/bin/python3") {
		t.Run(path, func(t *testing.T) { boto3(t, path) })
	}
}

func boto3(t *testing.T, path string) {
	if out, err := exec.CommandContext(t.Context(), path, "-c", "import boto3").CombinedOutput(); err != nil {
		t.Skipf("needs the Debian package python3-boto3: %v\n%s", err, out)
	}
	n := kilntest.Start(t)
	code := filepath.Join(t.TempDir(), "code.zip")
	if err := os.WriteFile(code, python(t, echo), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "-c", `
import base64, boto3, json, sys, urllib.request
endpoint, code, runtime, role = sys.argv[1:]
c = boto3.client("lambda", endpoint_url=endpoint, region_name="us-east-1")
c.create_function(FunctionName="hello", Runtime=runtime, Handler="index.handler", Role=role, Code={"ZipFile": open(code, "rb").read()})
c.get_waiter("function_active_v2").wait(FunctionName="hello")
r = c.invoke(FunctionName="hello", Payload=json.dumps({"a": [1, "ü"]}), LogType="Tail")
assert json.load(r["Payload"]) == {"a": [1, "ü"]}, r
assert "REPORT RequestId: " + r["ResponseMetadata"]["RequestId"] in base64.b64decode(r["LogResult"]).decode(), r
url = c.generate_presigned_url("invoke", Params={"FunctionName": "hello"}, HttpMethod="POST")
with urllib.request.urlopen(urllib.request.Request(url, data=b"", method="POST")) as answer:
    assert json.load(answer) == {}, answer
try:
    c.get_function(FunctionName="missing")
    raise SystemExit("a missing function was found")
except c.exceptions.ResourceNotFoundException as e:
    assert "arn:aws:lambda:us-east-1:123456789012:function:missing" in str(e), e
pages = list(c.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 1}))
assert [f["FunctionName"] for p in pages for f in p["Functions"]] == ["hello"], pages
c.delete_function(FunctionName="hello")
print("done")
`, n.Endpoint, code, n.Runtime("python3"), kilntest.Role)
	cmd.Env = n.Env()
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "done" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestFunctionsBuiltWithAWSLambdaGoAnswerAsTheyDoAtAWS(t *testing.T) {
	n := kilntest.Start(t)
	code := kilntest.GoZip(t, "test/testdata/function")
	deploy := func(name, mode string) {
		env := map[string]string{"MODE": mode}
		n.Deploy(t.Context(), kilntest.Function{Name: name, Runtime: "provided.al2023", Handler: "bootstrap", Timeout: 7, Zip: code, Env: env})
	}
	deploy("go", "")
	t.Run("context", func(t *testing.T) { goContext(t, n) })
	t.Run("failures", func(t *testing.T) { goFailures(t, n) })
	t.Run("largest payloads", func(t *testing.T) { goLargest(t, n) })
	t.Run("panic in init", func(t *testing.T) {
		deploy("panics", "panic in init")
		f, out := fails(t, n, "panics", `{}`)
		if f.ErrorType != "Runtime.ExitError" || !strings.HasSuffix(f.ErrorMessage, "Error: Runtime exited with error: exit status 2") {
			t.Errorf("got %+v", f)
		}
		contains(t, logOf(t, out), "panic: no luck")
	})
	t.Run("streamed answer to a buffered invocation", func(t *testing.T) {
		deploy("stream", "stream")
		for range 2 {
			if got := value[string](t, n, "stream", `["\"a","b","c\""]`); got != "abc" {
				t.Errorf("got %q", got)
			}
		}
	})
	t.Run("with a handler for SIGTERM", func(t *testing.T) {
		deploy("sigterm", "sigterm")
		for range 2 {
			if got := value[string](t, n, "sigterm", `{"do":"echo","text":"a"}`); got != "a" {
				t.Errorf("got %q", got)
			}
		}
	})
}

// goContext checks what aws-lambda-go makes of the headers that come with an invocation, and of its environment.
func goContext(t *testing.T, n *kilntest.Node) {
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("go"), Payload: []byte(`{"do":"context"}`), LogType: types.LogTypeTail,
		ClientContext: aws.String(base64.StdEncoding.EncodeToString([]byte(`{"client":{"app_title":"t"},"custom":{"k":"ü"},"env":{"e":"f"}}`))),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ID, ARN, Name, Version, Group, Stream, Trace string
		Memory, Remaining                            int
		Client                                       lambdacontext.ClientContext
	}
	if err := json.Unmarshal(out.Payload, &got); err != nil {
		t.Fatalf("%s: %v", out.Payload, err)
	}
	if got.ID != requestID(t, out) || got.ARN != "arn:aws:lambda:us-east-1:123456789012:function:go" || got.Name != "go" || got.Version != "$LATEST" ||
		got.Group != "/aws/lambda/go" || !strings.Contains(got.Stream, "[$LATEST]") || !strings.HasPrefix(got.Trace, "Root=1-") || got.Memory != 512 {
		t.Errorf("got %+v", got)
	}
	if got.Remaining > 7000 || got.Remaining < 5000 {
		t.Errorf("%d ms remain of 7 s", got.Remaining)
	}
	if got.Client.Client.AppTitle != "t" || got.Client.Custom["k"] != "ü" || got.Client.Env["e"] != "f" {
		t.Errorf("the client context is %+v", got.Client)
	}
}

func goFailures(t *testing.T, n *kilntest.Node) {
	for _, c := range []struct {
		do, kind, message string
		frames            bool
	}{
		{"error", "errorString", "no good", false},
		{"wrapped error", "wrapError", "outer: no good", false},
		{"own error", "outOfStock", "no no good", false},
		{"lambda error", "Shop.Closed", "no good", false},
		{"panic", "string", "no good", true},
		{"panic with error", "outOfStock", "no no good", true},
		{"nil pointer", "errorString", "runtime error: invalid memory address or nil pointer dereference", true},
		{"panic elsewhere", "Runtime.ExitError", "Error: Runtime exited with error: exit status 2", false},
		{"exit", "Runtime.ExitError", "Error: Runtime exited with error: exit status 5", false},
	} {
		t.Run(c.do, func(t *testing.T) {
			for range 2 { // a panic ends the process, so that the second call meets another environment
				out := call(t, n, "go", `{"do":"`+c.do+`","text":"no good","n":5}`)
				var f struct {
					ErrorType, ErrorMessage string
					StackTrace              []struct {
						Path, Label string
						Line        int
					}
				}
				if err := json.Unmarshal(out.Payload, &f); err != nil || aws.ToString(out.FunctionError) != "Unhandled" {
					t.Fatalf("%s (%v, %v)", out.Payload, aws.ToString(out.FunctionError), err)
				}
				if f.ErrorType != c.kind || !strings.HasSuffix(f.ErrorMessage, c.message) || (len(f.StackTrace) > 0) != c.frames {
					t.Errorf("got %s\n%s", out.Payload, logOf(t, out))
				}
			}
		})
	}
	if f, _ := fails(t, n, "go", `{"do":7}`); f.ErrorType != "UnmarshalTypeError" {
		t.Errorf("an event of the wrong shape: %+v", f)
	}
}

// goLargest sends an event of 6 MB, and asks for the largest answer and for one byte more.
func goLargest(t *testing.T, n *kilntest.Node) {
	const head, tail, limit = `{"do":"echo","text":"`, `"}`, 6<<20 + 100
	text := strings.Repeat("x", 6<<20-len(head)-len(tail))
	if got := value[string](t, n, "go", head+text+tail); got != text {
		t.Errorf("got %d bytes of %d", len(got), len(text))
	}
	longest := limit - len(`""`)
	if got := value[string](t, n, "go", fmt.Sprintf(`{"do":"long","n":%d}`, longest)); len(got) != longest {
		t.Errorf("got %d bytes of %d", len(got), longest)
	}
	for range 2 {
		f, _ := fails(t, n, "go", fmt.Sprintf(`{"do":"long","n":%d}`, longest+1))
		if f.ErrorType != "Function.ResponseSizeTooLarge" || f.ErrorMessage != "Response payload size exceeded maximum allowed payload size (6291556 bytes)." {
			t.Errorf("got %+v", f)
		}
	}
}

// requestID is the request ID that an answer came with.
func requestID(t *testing.T, out *lambda.InvokeOutput) string {
	t.Helper()
	id, ok := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	if !ok {
		t.Fatal("an answer without a request id")
	}
	return id
}
