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

// herd calls f as so many callers at once and returns how many were answered, and how many throttled for that reason. Nothing else may become of
// a call.
func herd(t *testing.T, n *kilntest.Node, callers int, reason types.ThrottleReason) (answered, throttled int64) {
	t.Helper()
	var all [2]atomic.Int64
	var calls sync.WaitGroup
	for range callers {
		calls.Go(func() {
			out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`"x"`)})
			refused, isThrottled := errors.AsType[*types.TooManyRequestsException](err)
			switch {
			case err == nil && string(out.Payload) == `"x"` && out.FunctionError == nil:
				all[0].Add(1)
			case isThrottled && refused.Reason == reason:
				all[1].Add(1)
			default:
				t.Errorf("answered %v, %v", out, err)
			}
		})
	}
	calls.Wait()
	return all[0].Load(), all[1].Load()
}

// TestLimitsHoldForACrowd has the sandboxes themselves, which are simulated, count what happens in them.
func TestLimitsHoldForACrowd(t *testing.T) {
	s := kilntest.BuildSimulated(t)
	t.Run("concurrency", func(t *testing.T) { noMoreRunThanMay(t, s) })
	t.Run("scaling rate", func(t *testing.T) { noMoreStartThanMay(t, s) })
}

func noMoreRunThanMay(t *testing.T, s *kilntest.Simulated) {
	const limit, callers = 200, 600
	n, counted := s.Start(t, 5*time.Second, "--concurrency", "200", "--memory", "100000", "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 128, Zip: python(t, echo)})
	answered, throttled := herd(t, n, callers, kiln.ConcurrencyExceeded)
	if most := counted.Most.Load(); most != limit {
		t.Errorf("%d ran at a time, where %d of %d callers may", most, limit, callers)
	}
	if counted.Invoked.Load() != answered || answered+throttled != callers {
		t.Errorf("%d callers: %d were executed, %d answered, %d throttled", callers, counted.Invoked.Load(), answered, throttled)
	}
}

func noMoreStartThanMay(t *testing.T, s *kilntest.Simulated) {
	const starts, callers = 50, 300
	n, counted := s.Start(t, 2*time.Second, "--scale-starts", "50", "--scale-period", "24h", "--memory", "100000", "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 128, Zip: python(t, echo)})
	answered, throttled := herd(t, n, callers, kiln.RateExceeded)
	if got := counted.Started.Load(); got != starts || answered != starts || answered+throttled != callers {
		t.Errorf("%d environments were started; %d callers were answered, %d throttled", got, answered, throttled)
	}
	if answered, _ := herd(t, n, starts, kiln.RateExceeded); answered != starts {
		t.Errorf("afterwards %d of %d callers are answered", answered, starts)
	}
}
