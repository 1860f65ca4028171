package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// tells answers with which environment and version it is, and how it was called.
const tells = `
import os, uuid
me = str(uuid.uuid4())
def handler(event, context):
    return {"environment": me, "version": context.function_version, "arn": context.invoked_function_arn, "content": os.environ["CONTENT"]}
`

type told struct{ Environment, Version, Arn, Content string }

// publish deploys a function tells with so many versions, of which each has its number as content.
func publish(t testing.TB, n *kilntest.Node, name string, versions int) {
	t.Helper()
	n.Deploy(t.Context(), kilntest.Function{Name: name, Env: map[string]string{"CONTENT": "1"}, Zip: python(t, tells)})
	for i := range versions {
		if i > 0 {
			in := &lambda.UpdateFunctionConfigurationInput{FunctionName: &name, Environment: &types.Environment{Variables: map[string]string{"CONTENT": fmt.Sprint(i + 1)}}}
			if _, err := n.Client().UpdateFunctionConfiguration(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			n.Active(t.Context(), name)
		}
		if _, err := n.Client().PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: &name}); err != nil {
			t.Fatal(err)
		}
	}
}

// move gives an alias to a version.
func move(t testing.TB, n *kilntest.Node, function, alias, version string) {
	t.Helper()
	in := &lambda.UpdateAliasInput{FunctionName: &function, Name: &alias, FunctionVersion: &version}
	if _, err := n.Client().UpdateAlias(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}

func TestAliasesWithTheAWSCommandLine(t *testing.T) {
	n := kilntest.Start(t)
	publish(t, n, "f", 2)
	cli := func(args ...string) string {
		t.Helper()
		out, err := n.AWS(t.Context(), append([]string{"lambda"}, args...)...)
		if err != nil {
			t.Fatalf("aws %v: %v\n%s", args, err, out)
		}
		return out
	}
	contains(t, cli("create-alias", "--function-name", "f", "--name", "live", "--function-version", "1"), `"AliasArn": "arn:aws:lambda:us-east-1:123456789012:function:f:live"`)
	cli("create-alias", "--function-name", "f", "--name", "canary", "--function-version", "1", "--routing-config", "AdditionalVersionWeights={2=1}")
	contains(t, cli("list-aliases", "--function-name", "f", "--function-version", "2"), `"Name": "canary"`)
	contains(t, cli("get-function-configuration", "--function-name", "f", "--qualifier", "live"), `"Version": "1"`)
	got := value[told](t, n, "f:live", `{}`)
	if got.Version != "1" || got.Content != "1" || got.Arn != "arn:aws:lambda:us-east-1:123456789012:function:f:live" {
		t.Errorf("f:live answered %+v", got)
	}
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Qualifier: aws.String("canary"), LogType: types.LogTypeTail})
	if err != nil || aws.ToString(out.ExecutedVersion) != "2" {
		t.Fatalf("f:canary, all of it to version 2, ran version %s: %v", aws.ToString(out.ExecutedVersion), err)
	}
	contains(t, logOf(t, out), " Version: 2\n")
	contains(t, cli("update-alias", "--function-name", "f", "--name", "live", "--function-version", "2"), `"FunctionVersion": "2"`)
	if out, err := n.AWS(t.Context(), "lambda", "delete-function", "--function-name", "f", "--qualifier", "2"); err == nil || !strings.Contains(out, "aliases reference it: [canary, live]") {
		t.Errorf("a version that aliases name was deleted: %s", out)
	}
	cli("delete-alias", "--function-name", "f", "--name", "live")
	if _, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f:live")}); err == nil {
		t.Error("an alias that was deleted answered")
	}
	n.Kill()
	n.Restart()
	if got := value[told](t, n, "f:canary", `{}`); got.Version != "2" {
		t.Errorf("after kill -9 f:canary answered %+v", got)
	}
}

func TestAVersionThatIsRolledBackToIsWarm(t *testing.T) {
	n := kilntest.Start(t)
	publish(t, n, "f", 2)
	if _, err := n.Client().CreateAlias(t.Context(), &lambda.CreateAliasInput{FunctionName: aws.String("f"), Name: aws.String("live"), FunctionVersion: aws.String("1")}); err != nil {
		t.Fatal(err)
	}
	first := value[told](t, n, "f:live", `{}`)
	for range 3 {
		move(t, n, "f", "live", "2")
		seen(t, n, "2")
		move(t, n, "f", "live", "1")
		if got := seen(t, n, "1"); got != first {
			t.Errorf("after it was rolled back f:live answered %+v, want %+v", got, first)
		}
	}
}

// seen calls f:live until it is a version, which takes milliseconds, and returns what that answered first.
func seen(t *testing.T, n *kilntest.Node, version string) told {
	t.Helper()
	for moved := time.Now(); ; {
		if got := value[told](t, n, "f:live", `{}`); got.Version == version {
			return got
		}
		if time.Since(moved) > time.Second {
			t.Fatalf("f:live is not version %s a second after that was acknowledged", version)
		}
	}
}

// TestRollingAnAliasBackLosesNoCall moves an alias forth and back while it is called all the time.
func TestRollingAnAliasBackLosesNoCall(t *testing.T) {
	n := kilntest.Start(t)
	publish(t, n, "f", 2)
	if _, err := n.Client().CreateAlias(t.Context(), &lambda.CreateAliasInput{FunctionName: aws.String("f"), Name: aws.String("live"), FunctionVersion: aws.String("1")}); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got := value[told](t, n, "f:live", `{}`)
				if got.Version != got.Content {
					t.Errorf("version %s has the content of %s", got.Version, got.Content)
				}
				calls.Add(1)
			}
		})
	}
	// One caller alone sees at once what it was told of.
	first := value[told](t, n, "f:live", `{}`)
	for i := range 20 {
		want := fmt.Sprint(2 - i%2)
		move(t, n, "f", "live", want)
		seen(t, n, want)
	}
	close(stop)
	wg.Wait()
	environments := map[string]bool{first.Environment: true}
	for range 5 {
		out := call(t, n, "f:1", `{}`)
		var got told
		if err := json.Unmarshal(out.Payload, &got); err != nil {
			t.Fatal(err)
		}
		environments[got.Environment] = true
		if strings.Contains(logOf(t, out), "Init Duration") {
			t.Error("version 1 started anew after it was rolled back to")
		}
	}
	// Three callers at a time, and no more environments of version 1 than that, moves or not.
	if len(environments) > 3 {
		t.Errorf("%d environments of version 1", len(environments))
	}
	t.Logf("%d calls", calls.Load())
}
