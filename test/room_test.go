package test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// twoEnvironments is memory for two environments of 128 MB, and none for sandboxes that wait.
var twoEnvironments = []string{"--memory", "330", "--pool", "0"}

func TestCallersWaitWhileTheMachineIsFull(t *testing.T) {
	n := kilntest.Start(t, twoEnvironments...)
	for _, name := range []string{"a", "b"} {
		n.Deploy(t.Context(), kilntest.Function{Name: name, MemoryMB: 128, Timeout: 10, Zip: python(t, sleeper)})
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := []string{"a", "b"}[i%2]
			if got := value[float64](t, n, name, `0.3`); got != 0.3 {
				t.Errorf("%s answered %v", name, got)
			}
		})
	}
	wg.Wait()
	if got := scrape(t, n); got["kiln_queue_duration_seconds served=true"] < 4 || got["kiln_queue_waiting"] != 0 {
		t.Errorf("waited: %v, wait: %v", got["kiln_queue_duration_seconds served=true"], got["kiln_queue_waiting"])
	}
}

func TestWhoWaitsTooLongIsToldToComeBack(t *testing.T) {
	n := kilntest.Start(t, append(twoEnvironments, "--queue-wait", "500ms")...)
	n.Deploy(t.Context(), kilntest.Function{Name: "slow", MemoryMB: 128, Timeout: 60, Zip: python(t, sleeper)})
	n.Deploy(t.Context(), kilntest.Function{Name: "other", MemoryMB: 128, Zip: python(t, echo)})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { call(t, n, "slow", `6`) })
	}
	awaitMetric(t, n, "kiln_environments state=busy", 2)
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("other"), Payload: []byte(`1`)})
	e, ok := errors.AsType[*types.TooManyRequestsException](err)
	if !ok || e.Reason != types.ThrottleReasonConcurrentInvocationLimitExceeded || aws.ToString(e.RetryAfterSeconds) == "" {
		t.Errorf("got %v", err)
	}
	wg.Wait()
	call(t, n, "other", `1`)
}

func TestWhoHangsUpWaitsNoMore(t *testing.T) {
	n := kilntest.Start(t, twoEnvironments...)
	n.Deploy(t.Context(), kilntest.Function{Name: "slow", MemoryMB: 128, Timeout: 60, Zip: python(t, sleeper)})
	n.Deploy(t.Context(), kilntest.Function{Name: "other", MemoryMB: 128, Zip: python(t, echo)})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { call(t, n, "slow", `5`) })
	}
	awaitMetric(t, n, "kiln_environments state=busy", 2)
	ctx, hangUp := context.WithCancel(t.Context())
	wg.Go(func() {
		if _, err := n.Client().Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("other"), Payload: []byte(`1`)}); err == nil {
			t.Error("who hung up had an answer")
		}
	})
	awaitMetric(t, n, "kiln_queue_waiting", 1)
	hangUp()
	awaitMetric(t, n, "kiln_queue_duration_seconds served=false", 1)
	if got := scrape(t, n)["kiln_queue_waiting"]; got != 0 {
		t.Errorf("%v wait", got)
	}
	wg.Wait()
}

func TestWhatKeepsFailingToInitializeIsRefused(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "broken", Zip: python(t, "raise ValueError('never')\n")})
	for range 10 {
		fails(t, n, "broken", `{}`)
	}
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("broken"), Payload: []byte(`1`)})
	wantCode(t, err, "TooManyRequestsException")
	in := &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("broken"), ZipFile: python(t, echo)}
	if _, err := n.Client().UpdateFunctionCode(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "broken")
	call(t, n, "broken", `1`)
}
