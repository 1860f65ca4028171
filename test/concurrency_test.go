package test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln"
	"kiln/kilntest"
)

// throttle invokes a function and returns the reason why it was throttled, "" if it was not. Whether the answer says when to try again
// is as on AWS: not for a function that is stopped.
func throttle(t *testing.T, n *kilntest.Node, function, payload string) string {
	t.Helper()
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: []byte(payload)})
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*types.TooManyRequestsException](err)
	if !ok {
		t.Errorf("invoke %s: %v", function, err)
		return ""
	}
	c, err := n.Client().GetFunctionConcurrency(t.Context(), &lambda.GetFunctionConcurrencyInput{FunctionName: &function})
	if err != nil {
		t.Fatal(err)
	}
	isStopped := c.ReservedConcurrentExecutions != nil && *c.ReservedConcurrentExecutions == 0
	if again := aws.ToString(e.RetryAfterSeconds); isStopped != (again == "") {
		t.Errorf("%s may be tried again after %q seconds", function, again)
	}
	return string(e.Reason)
}

// second calls one function and then, while that runs, another, and returns the reason why the second call was throttled.
func second(t *testing.T, n *kilntest.Node, first, function string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1) // one value, so that its sender never waits
	go func() {
		_, err := n.Client().Invoke(ctx, &lambda.InvokeInput{FunctionName: &first, Payload: []byte("3")})
		done <- err
	}()
	<-time.After(time.Second) // the first call is in the function by then
	reason := throttle(t, n, function, "0")
	if err := <-done; err != nil {
		t.Errorf("the first call: %v", err)
	}
	return reason
}

// reserve reserves concurrency with the aws CLI. Changes reach the invocations within a second.
func reserve(t *testing.T, n *kilntest.Node, function, places string) {
	t.Helper()
	out, err := n.AWS(t.Context(), "lambda", "put-function-concurrency", "--function-name", function, "--reserved-concurrent-executions", places)
	if err != nil || !strings.Contains(out, `"ReservedConcurrentExecutions": `+places) {
		t.Fatalf("%v\n%s", err, out)
	}
	<-time.After(time.Second)
}

func TestReservedConcurrencyGates(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, sleeper)})
	if got := throttle(t, n, "f", "0"); got != "" {
		t.Fatalf("without a reservation: %s", got)
	}
	reserve(t, n, "f", "1")
	if got := second(t, n, "f", "f"); got != kiln.ReservedConcurrencyExceeded {
		t.Errorf("with one place, the second of two: %q", got)
	}
	if got := throttle(t, n, "f", "0"); got != "" {
		t.Errorf("after both: %s", got)
	}
	reserve(t, n, "f", "0")
	if got := throttle(t, n, "f", "0"); got != kiln.ReservedConcurrencyExceeded {
		t.Errorf("a stopped function: %q", got)
	}
	n.Stop()
	n.Restart()
	if got := throttle(t, n, "f", "0"); got != kiln.ReservedConcurrencyExceeded {
		t.Errorf("a stopped function after a restart: %q", got)
	}
	out, err := n.AWS(t.Context(), "lambda", "delete-function-concurrency", "--function-name", "f")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	<-time.After(time.Second)
	if got := throttle(t, n, "f", "0"); got != "" {
		t.Errorf("without a reservation again: %s", got)
	}
}

func TestTheAccountsLimitsGate(t *testing.T) {
	n := kilntest.Start(t, "--account-concurrency", kilntest.Account+"=1", "--scale-starts", "2", "--scale-period", "1h")
	for _, name := range []string{"f", "g"} {
		n.Deploy(t.Context(), kilntest.Function{Name: name, Timeout: 4, Zip: python(t, sleeper)})
	}
	settings, err := n.Client().GetAccountSettings(t.Context(), &lambda.GetAccountSettingsInput{})
	if err != nil || settings.AccountLimit.ConcurrentExecutions != 1 || aws.ToInt32(settings.AccountLimit.UnreservedConcurrentExecutions) != 1 {
		t.Errorf("settings are %+v, %v", settings, err)
	}
	if got := second(t, n, "f", "g"); got != kiln.ConcurrencyExceeded {
		t.Errorf("the second call of the account: %q", got)
	}
	got := ""
	for calls := 0; got == "" && calls < 1000; calls++ {
		got = throttle(t, n, "f", "0")
	}
	if got != kiln.RateExceeded {
		t.Errorf("a thousand calls, one after another: %q", got)
	}
	<-time.After(time.Second)
	// Each of these ends its environment, the third needs one that may not be started.
	for i, want := range []string{"", "", kiln.RateExceeded} {
		if got := throttle(t, n, "g", "9"); got != want {
			t.Errorf("start %d of g: %q, want %q", i, got, want)
		}
	}
}

func TestNoPlaceIsLost(t *testing.T) {
	n := kilntest.Start(t, "--concurrency", "1")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 3, Zip: python(t,
		"import os, time\ndef handler(event, context):\n    if event < 0: os._exit(3)\n    time.sleep(event)\n    return event\n")})
	for _, c := range []struct{ how, payload string }{{"crashed", "-1"}, {"timed out", "9"}} {
		fails(t, n, "f", c.payload)
		if got := throttle(t, n, "f", "0"); got != "" {
			t.Errorf("after one that %s: %s", c.how, got)
		}
	}
	ctx, leave := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer leave()
	if _, err := n.Client().Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte("2")}); err == nil {
		t.Fatal("a call of two seconds was answered within half of one")
	}
	if got := throttle(t, n, "f", "0"); got != kiln.ConcurrencyExceeded {
		t.Errorf("while the call runs that its caller has left: %q", got)
	}
	<-time.After(3 * time.Second) // it has ended by then
	if got := throttle(t, n, "f", "0"); got != "" {
		t.Errorf("after it: %s", got)
	}
}
