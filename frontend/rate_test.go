package frontend

import (
	"errors"
	"testing"
	"time"

	"kiln"
	"kiln/api"
)

func TestAnAccountThatCallsTooOftenIsHeldUpAlone(t *testing.T) {
	const perSecond = 5
	r, now := newRates(perSecond), time.Unix(0, 0)
	admitted := func(a kiln.AccountID, op *api.Operation) (n int) {
		for range 1000 {
			err := r.admit(now, a, op)
			if e, ok := errors.AsType[*kiln.Error](err); ok && (e.Kind != kiln.TooManyRequests || e.Reason != kiln.CallerRateExceeded || e.RetryAfter <= 0) {
				t.Errorf("refused with %+v", e)
			}
			if err == nil {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		after   time.Duration
		account kiln.AccountID
		op      *api.Operation
		want    int
	}{
		{0, "1", api.GetFunction, burstSeconds * perSecond},
		{0, "1", api.CreateFunction, 0},
		{0, "2", api.CreateFunction, burstSeconds * perSecond},
		{0, "1", api.Invoke, 1000},
		{time.Second, "1", api.GetFunction, perSecond},
		{time.Hour, "1", api.GetFunction, burstSeconds * perSecond},
	} {
		now = now.Add(step.after)
		if got := admitted(step.account, step.op); got != step.want {
			t.Errorf("%v later account %s may %s %d times, want %d", step.after, step.account, step.op.Name, got, step.want)
		}
	}
}
