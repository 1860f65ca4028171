package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"kiln"
	"kiln/kilntest"
)

// accountCommand runs `kiln account` on the node's data.
func accountCommand(t *testing.T, n *kilntest.Node, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"account", "--data", n.Dir}, args...)
	out, err := exec.CommandContext(t.Context(), kilntest.Binary(t), args...).CombinedOutput()
	return string(out), err
}

var printedKey = regexp.MustCompile(`^\[(\d{12})\]\naws_access_key_id = (\S+)\naws_secret_access_key = (\S+)\n$`)

// key is an access key that `kiln account` has printed.
type key struct{ account, id, secret string }

func newKey(t *testing.T, n *kilntest.Node, args ...string) key {
	t.Helper()
	out, err := accountCommand(t, n, args...)
	m := printedKey.FindStringSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("kiln account %v: %v\n%s", args, err, out)
	}
	return key{m[1], m[2], m[3]}
}

func (k key) client(n *kilntest.Node) *lambda.Client {
	return lambda.New(n.Client().Options(), func(o *lambda.Options) {
		o.Credentials = credentials.NewStaticCredentialsProvider(k.id, k.secret, "")
	})
}

// whoami is what `aws sts get-caller-identity` prints, as k or as the node's first account.
func whoami(t *testing.T, n *kilntest.Node, k *key) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/aws", "--endpoint-url", n.Endpoint, "--output", "text", "sts", "get-caller-identity", "--query", "[Account, Arn]")
	cmd.Env = n.Env()
	if k != nil {
		cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+k.id, "AWS_SECRET_ACCESS_KEY="+k.secret)
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestAccountsAreMadeAndEndWhileTheNodeRunsOrNot(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	if got, err := whoami(t, n, nil); err != nil || got != kilntest.Account+"\tarn:aws:iam::"+kilntest.Account+":root" {
		t.Errorf("the first account is %q, %v", got, err)
	}
	first := newKey(t, n, "create", "222222222222")
	second := newKey(t, n, "key", "create", "222222222222")
	for _, k := range []key{first, second} {
		awaitAccess(t, n, k)
	}
	if out, err := accountCommand(t, n, "create", "222222222222"); err == nil || !strings.Contains(out, "is there already") {
		t.Errorf("created again: %v, %s", err, out)
	}
	list, err := accountCommand(t, n, "list")
	for _, want := range []string{kilntest.Account, "222222222222", first.id, second.id, kilntest.AccessKey} {
		if err != nil || !strings.Contains(list, want) {
			t.Errorf("the list lacks %s: %v\n%s", want, err, list)
		}
	}
	if strings.Contains(list, first.secret) {
		t.Error("the list has a secret")
	}
	if out, err := accountCommand(t, n, "key", "delete", "222222222222", first.id); err != nil {
		t.Errorf("delete a key: %v\n%s", err, out)
	}
	awaitRefusal(t, n, first)
	n.Stop()
	third := newKey(t, n, "create")
	if out, err := accountCommand(t, n, "key", "delete", kilntest.Account, kilntest.AccessKey); err != nil {
		t.Errorf("delete the first key: %v\n%s", err, out)
	}
	n.Restart()
	awaitAccess(t, n, second)
	awaitAccess(t, n, third)
	awaitRefusal(t, n, first)
	if out, err := whoami(t, n, nil); err == nil {
		t.Errorf("the first key, which was deleted, is %s", out)
	}
}

// awaitAccess waits until the node knows of a new key.
func awaitAccess(t *testing.T, n *kilntest.Node, k key) {
	t.Helper()
	await(t, "the node to know a new key", func() error {
		got, err := whoami(t, n, &k)
		if want := k.account + "\tarn:aws:iam::" + k.account + ":root"; err == nil && got != want {
			err = fmt.Errorf("it is %s, not %s", got, want)
		}
		return err
	})
}

func awaitRefusal(t *testing.T, n *kilntest.Node, k key) {
	t.Helper()
	await(t, "the node to forget a key", func() error {
		if out, err := whoami(t, n, &k); err == nil || !strings.Contains(out, "InvalidClientTokenId") {
			return fmt.Errorf("%s: %w", out, err)
		}
		return nil
	})
}

func TestAPolicyLetsAnotherAccountInvoke(t *testing.T) {
	n := kilntest.Start(t)
	k := newKey(t, n, "create", "222222222222")
	awaitAccess(t, n, k)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	c := k.client(n)
	const arn = "arn:aws:lambda:us-east-1:" + kilntest.Account + ":function:f"
	invoke := func(name string) error {
		out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: []byte(`1`)})
		if err == nil && string(out.Payload) != "1" {
			t.Errorf("%s answered %s", name, out.Payload)
		}
		return err
	}
	denied := func(err error) {
		t.Helper()
		wantCode(t, err, "AccessDeniedException")
		if err != nil && !strings.Contains(err.Error(), "no resource-based policy allows the lambda:InvokeFunction action") {
			t.Error(err)
		}
	}
	denied(invoke(arn))
	denied(invoke(arn + "-that-is-not-there"))
	wantCode(t, invoke("f"), "ResourceNotFoundException")
	out, err := n.AWS(t.Context(), "lambda", "add-permission", "--function-name", "f", "--statement-id", "other", "--action", "lambda:InvokeFunction",
		"--principal", "222222222222")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := invoke(arn); err != nil { // at once: who was told of the permission has it
		t.Error(err)
	}
	if err := invoke(arn + ":$LATEST"); err != nil {
		t.Error(err)
	}
	if _, err := c.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String(arn)}); err == nil {
		t.Error("a permission to invoke is one to read")
	}
	if out, err := n.AWS(t.Context(), "lambda", "remove-permission", "--function-name", "f", "--statement-id", "other"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	await(t, "the node to know that a permission was removed", func() error {
		if invoke(arn) == nil {
			return errors.New("the other account is answered")
		}
		return nil
	})
	denied(invoke(arn))
}

// recursive invokes itself with boto3, which passes on where the call came from, and answers how deep that went.
const recursive = `
import json, os, sys
sys.path.append('/usr/lib/python3/dist-packages')
import boto3, botocore
def handler(event, context):
    if event["depth"] >= event["limit"]:
        return event["depth"]
    c = boto3.client("lambda", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    try:
        r = c.invoke(FunctionName=context.function_name, Payload=json.dumps({"depth": event["depth"] + 1, "limit": event["limit"]}))
        return json.load(r["Payload"])
    except botocore.exceptions.ClientError as e:
        return "stopped at %d: %s" % (event["depth"], e.response["Error"]["Code"])
`

func TestAFunctionThatGoesOnCallingItselfIsStopped(t *testing.T) {
	need(t, "/usr/lib/python3/dist-packages/boto3", "python3-boto3")
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "loop", Timeout: 120, MemoryMB: 1769, Zip: python(t, recursive)})
	var lineage kiln.Lineage
	for range kiln.MaxLoop - 2 { // what has happened before the first call
		lineage, _ = lineage.Add(kilntest.Account + ":loop")
	}
	begin := func() string {
		t.Helper()
		out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("loop"), Payload: []byte(`{"depth": 1, "limit": 3}`)},
			lambda.WithAPIOptions(smithyhttp.AddHeaderValue("X-Amzn-Trace-Id", "Lineage="+string(lineage))))
		if err != nil {
			t.Fatal(err)
		}
		return string(out.Payload)
	}
	if got := begin(); got != `"stopped at 2: RecursiveInvocationException"` {
		t.Errorf("it answered %s", got)
	}
	_, err := n.Client().PutFunctionRecursionConfig(t.Context(), &lambda.PutFunctionRecursionConfigInput{
		FunctionName: aws.String("loop"), RecursiveLoop: types.RecursiveLoopAllow})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the node to know that the function may loop", func() error {
		if got := begin(); got != "3" {
			return fmt.Errorf("it answered %s", got)
		}
		return nil
	})
}

func TestVariablesAreNowhereInPlain(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	n := kilntest.Start(t, "--pool", "0")
	source := "import os\ndef handler(event, context):\n    return os.environ['SECRET'] + os.environ.get('OTHER', '')\n"
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, source), Env: map[string]string{"SECRET": secret}})
	if got := value[string](t, n, "f", `{}`); got != secret {
		t.Errorf("the function has %q", got)
	}
	// A request with a variable that is refused, which is not to be seen in an answer or a log either.
	_, err := n.Client().UpdateFunctionConfiguration(t.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String("f"), Environment: &types.Environment{Variables: map[string]string{"1 no name": secret}}})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a variable without a name: %v", err)
	}
	n.Kill()
	n.Restart()
	if got := value[string](t, n, "f", `{}`); got != secret {
		t.Errorf("after a restart the function has %q", got)
	}
	if strings.Contains(n.Output(), secret) {
		t.Error("the node has logged a variable")
	}
	n.Stop()
	wantNowhere(t, n.Dir, secret, kilntest.Account+"/function/f")
}

// wantNowhere looks for a secret in all files below dir, and makes sure that it would find a text that is in one of them.
func wantNowhere(t *testing.T, dir, secret, text string) {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if bytes.Contains(content, []byte(secret)) {
			t.Errorf("%s has a variable in plain", path)
		}
		found = found || bytes.Contains(content, []byte(text))
		return err
	})
	if err != nil || !found {
		t.Errorf("%q was not found either: %v", text, err)
	}
}
