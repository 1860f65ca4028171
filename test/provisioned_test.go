package test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// initialized answers with why and where it was initialized. An event of more than 0 is how many seconds it takes, one of less ends it.
const initialized = `
import os, time, uuid
me = str(uuid.uuid4())
def handler(event, context):
    if event < 0:
        os._exit(1)
    time.sleep(event)
    return {"why": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "environment": me, "version": context.function_version}
`

type initialization struct{ Why, Environment, Version string }

// provision gives a qualifier of f so many environments, and waits until they are there.
func provision(t testing.TB, n *kilntest.Node, qualifier string, places int32) {
	t.Helper()
	if _, err := n.Client().PutProvisionedConcurrencyConfig(t.Context(), &lambda.PutProvisionedConcurrencyConfigInput{
		FunctionName: aws.String("f"), Qualifier: &qualifier, ProvisionedConcurrentExecutions: &places,
	}); err != nil {
		t.Fatal(err)
	}
	awaitProvisioned(t, n, qualifier, types.ProvisionedConcurrencyStatusEnumReady, places)
}

// awaitProvisioned waits until a qualifier of f has that status and so many environments, and returns the reason.
func awaitProvisioned(t testing.TB, n *kilntest.Node, qualifier string, status types.ProvisionedConcurrencyStatusEnum, available int32) string {
	t.Helper()
	var reason string
	await(t, "provisioned concurrency", func() error {
		out, err := n.Client().GetProvisionedConcurrencyConfig(t.Context(), &lambda.GetProvisionedConcurrencyConfigInput{FunctionName: aws.String("f"), Qualifier: &qualifier})
		if err != nil {
			return err
		}
		if out.Status != status || *out.AvailableProvisionedConcurrentExecutions != available {
			return fmt.Errorf("%s, %d of %d", out.Status, *out.AvailableProvisionedConcurrentExecutions, *out.RequestedProvisionedConcurrentExecutions)
		}
		reason = aws.ToString(out.StatusReason)
		return nil
	})
	return reason
}

// callInitialized calls f so many times at once, each for a second, and returns the environments by why they were initialized.
func callInitialized(t *testing.T, n *kilntest.Node, target string, callers int) map[string][]string {
	t.Helper()
	var mu sync.Mutex
	all := make(map[string][]string)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			got := value[initialization](t, n, target, `1`)
			mu.Lock()
			defer mu.Unlock()
			all[got.Why] = append(all[got.Why], got.Environment)
		})
	}
	wg.Wait()
	return all
}

func TestProvisionedEnvironmentsAreThereBeforeTheirCalls(t *testing.T) {
	n := kilntest.Start(t, "--idle-timeout", "1s")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 10, Zip: python(t, initialized)})
	publishLatest(t, n)
	provision(t, n, "1", 2)
	call(t, n, "f", `0`)
	awaitMetric(t, n, "kiln_environments_ended_total reason=idle", 1) // one that is not provisioned
	out := call(t, n, "f:1", `0`)
	if log := logOf(t, out); strings.Contains(log, "Init Duration") {
		t.Errorf("the caller is told of an INIT that nobody waited for:\n%s", log)
	}
	if got := value[initialization](t, n, "f", `0`); got.Why != "on-demand" || got.Version != "$LATEST" {
		t.Errorf("$LATEST answered %+v", got)
	}
	all := callInitialized(t, n, "f:1", 3)
	if len(all["provisioned-concurrency"]) != 2 || len(all["on-demand"]) != 1 {
		t.Errorf("three callers at once were served by %v", all)
	}

	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f:1"), Payload: []byte(`-1`)})
	if err != nil {
		t.Error(err)
	}
	await(t, "another in place of one that has ended", func() error {
		now := callInitialized(t, n, "f:1", 2)
		if len(now["provisioned-concurrency"]) != 2 {
			return fmt.Errorf("served by %v", now)
		}
		return nil
	})
	n.Kill()
	n.Restart()
	awaitProvisioned(t, n, "1", types.ProvisionedConcurrencyStatusEnumReady, 2)
	killAll(t, kernelsOf(t, n))
	await(t, "others in place of those that were killed", func() error {
		now := callInitialized(t, n, "f:1", 2)
		if len(now["provisioned-concurrency"]) != 2 {
			return fmt.Errorf("served by %v", now)
		}
		return nil
	})
	if _, err := n.Client().DeleteProvisionedConcurrencyConfig(t.Context(), &lambda.DeleteProvisionedConcurrencyConfigInput{FunctionName: aws.String("f"), Qualifier: aws.String("1")}); err != nil {
		t.Fatal(err)
	}
	awaitMetric(t, n, "kiln_environments_ended_total reason=released", 2)
}

// publishLatest publishes a version of f.
func publishLatest(t testing.TB, n *kilntest.Node) {
	t.Helper()
	if _, err := n.Client().PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String("f")}); err != nil {
		t.Fatal(err)
	}
}

func TestProvisionedEnvironmentsFollowTheirAlias(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 10, Zip: python(t, initialized)})
	publishLatest(t, n)
	if _, err := n.AWS(t.Context(), "lambda", "create-alias", "--function-name", "f", "--name", "live", "--function-version", "1"); err != nil {
		t.Fatal(err)
	}
	out, err := n.AWS(t.Context(), "lambda", "put-provisioned-concurrency-config", "--function-name", "f", "--qualifier", "live", "--provisioned-concurrent-executions", "1")
	if err != nil || !strings.Contains(out, `"Status": "IN_PROGRESS"`) {
		t.Fatalf("%v\n%s", err, out)
	}
	awaitProvisioned(t, n, "live", types.ProvisionedConcurrencyStatusEnumReady, 1)
	if _, err := n.Client().UpdateFunctionConfiguration(t.Context(), &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), Description: aws.String("2")}); err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "f")
	publishLatest(t, n)
	move(t, n, "f", "live", "2")
	awaitProvisioned(t, n, "live", types.ProvisionedConcurrencyStatusEnumReady, 1)
	if got := value[initialization](t, n, "f:live", `0`); got.Why != "provisioned-concurrency" || got.Version != "2" {
		t.Errorf("the alias's new version answered %+v", got)
	}
	awaitMetric(t, n, "kiln_environments_ended_total reason=released", 1)
	out, err = n.AWS(t.Context(), "lambda", "list-provisioned-concurrency-configs", "--function-name", "f", "--query", "ProvisionedConcurrencyConfigs[].[FunctionArn,Status]", "--output", "text")
	if err != nil || !strings.Contains(out, ":function:f:live\tREADY") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWhyThereAreNoProvisionedEnvironmentsIsTold(t *testing.T) {
	n := kilntest.Start(t, "--memory", "480", "--pool", "0", "--queue-wait", "100ms")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 10, MemoryMB: 128, Zip: python(t, "import missing\n")})
	publishLatest(t, n)
	put := func(qualifier string, places int32) {
		t.Helper()
		if _, err := n.Client().PutProvisionedConcurrencyConfig(t.Context(), &lambda.PutProvisionedConcurrencyConfigInput{
			FunctionName: aws.String("f"), Qualifier: &qualifier, ProvisionedConcurrentExecutions: &places,
		}); err != nil {
			t.Fatal(err)
		}
	}
	put("1", 1)
	if why := awaitProvisioned(t, n, "1", types.ProvisionedConcurrencyStatusEnumFailed, 0); why != "FUNCTION_ERROR_INIT_FAILURE" {
		t.Errorf("where INIT fails: %q", why)
	}
	if _, err := n.Client().DeleteProvisionedConcurrencyConfig(t.Context(), &lambda.DeleteProvisionedConcurrencyConfigInput{FunctionName: aws.String("f"), Qualifier: aws.String("1")}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Client().UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: python(t, initialized)}); err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "f")
	publishLatest(t, n)
	put("2", 4) // there is room for 3
	if why := awaitProvisioned(t, n, "2", types.ProvisionedConcurrencyStatusEnumFailed, 3); !strings.Contains(why, "no room") {
		t.Errorf("where there is no room: %q", why)
	}
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`0`)})
	wantCode(t, err, "TooManyRequestsException")
}

func TestTheControlPlaneOfAnotherProcessIsToldOfProvisionedEnvironments(t *testing.T) {
	r := kilntest.StartRoles(t, 1)
	r.Data.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 10, Zip: python(t, initialized)})
	publishLatest(t, r.Data)
	provision(t, r.Data, "1", 1)
	r.Control.Kill()
	if got := value[initialization](t, r.Data, "f:1", `0`); got.Why != "provisioned-concurrency" {
		t.Errorf("answered %+v", got)
	}
	r.Control.Restart()
	awaitProvisioned(t, r.Data, "1", types.ProvisionedConcurrencyStatusEnumReady, 1)
}
