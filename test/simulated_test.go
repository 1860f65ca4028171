package test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln"
	"kiln/kilntest"
)

// TestNoMoreRunThanMay has the sandboxes themselves, which are simulated, count how many invocations run at a time.
func TestNoMoreRunThanMay(t *testing.T) {
	const limit, callers = 200, 600
	n, counted := kilntest.StartSimulated(t, 5*time.Second, "--concurrency", "200", "--memory", "100000", "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 128, Zip: python(t, echo)})
	var answered, throttled atomic.Int64
	var calls sync.WaitGroup
	for range callers {
		calls.Go(func() {
			out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`"x"`)})
			refused, isThrottled := errors.AsType[*types.TooManyRequestsException](err)
			switch {
			case err == nil && string(out.Payload) == `"x"` && out.FunctionError == nil:
				answered.Add(1)
			case isThrottled && refused.Reason == kiln.ConcurrencyExceeded:
				throttled.Add(1)
			default:
				t.Errorf("answered %v, %v", out, err)
			}
		})
	}
	calls.Wait()
	if most := counted.Most.Load(); most != limit {
		t.Errorf("%d ran at a time, where %d of %d callers may", most, limit, callers)
	}
	if counted.Invoked.Load() != answered.Load() || answered.Load()+throttled.Load() != callers {
		t.Errorf("%d callers: %d were executed, %d answered, %d throttled", callers, counted.Invoked.Load(), answered.Load(), throttled.Load())
	}
}
