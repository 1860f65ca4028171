package test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/kilntest"
)

// need skips the test when a client is not on this machine.
func need(t *testing.T, path, pkg string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs the Debian package %s", pkg)
	}
}

func TestTheAWSCommandLineDeploysInvokesAndDeletes(t *testing.T) {
	need(t, "/usr/bin/aws", "awscli")
	n := kilntest.Start(t)
	dir := t.TempDir()
	code := filepath.Join(dir, "code.zip")
	if err := os.WriteFile(code, python(t, echo), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	aws := func(args ...string) string {
		t.Helper()
		out, err := n.AWS(ctx, append([]string{"lambda"}, args...)...)
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
	answer := filepath.Join(dir, "answer.json")
	contains(t, aws("invoke", "--function-name", "hello", "--cli-binary-format", "raw-in-base64-out", "--payload", `{"a":1}`, "--log-type", "Tail", answer), `"LogResult"`)
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
	if out, err := n.AWS(ctx, "lambda", "get-function", "--function-name", "hello"); err == nil || !strings.Contains(out, "ResourceNotFoundException") {
		t.Errorf("after the deletion: %s", out)
	}
}

func TestBoto3DeploysAndInvokes(t *testing.T) {
	need(t, "/usr/lib/python3/dist-packages/boto3", "python3-boto3")
	n := kilntest.Start(t)
	code := filepath.Join(t.TempDir(), "code.zip")
	if err := os.WriteFile(code, python(t, echo), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", `
import base64, boto3, json, sys
endpoint, code, runtime, role = sys.argv[1:]
c = boto3.client("lambda", endpoint_url=endpoint, region_name="us-east-1")
c.create_function(FunctionName="hello", Runtime=runtime, Handler="index.handler", Role=role, Code={"ZipFile": open(code, "rb").read()})
c.get_waiter("function_active_v2").wait(FunctionName="hello")
r = c.invoke(FunctionName="hello", Payload=json.dumps({"a": [1, "ü"]}), LogType="Tail")
assert json.load(r["Payload"]) == {"a": [1, "ü"]}, r
assert "REPORT RequestId: " + r["ResponseMetadata"]["RequestId"] in base64.b64decode(r["LogResult"]).decode(), r
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
