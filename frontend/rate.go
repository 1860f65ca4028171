package frontend

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"kiln"
	"kiln/api"
)

// burstSeconds is for how long an account gathers requests that it does not make.
const burstSeconds = 10

// rates bounds how often accounts call operations that change or read what is stored, so that one of them cannot keep the others from it.
// Invocations have limits of their own.
type rates struct {
	perSecond int

	mu sync.Mutex
	// accounts are those that have made a request: only who is authenticated is counted.
	accounts map[kiln.AccountID]*rate.Limiter // +checklocks:mu
}

func newRates(perSecond int) *rates {
	return &rates{perSecond: perSecond, accounts: make(map[kiln.AccountID]*rate.Limiter)}
}

// admit returns AWS's error if an account calls op too often.
func (r *rates) admit(now time.Time, a kiln.AccountID, op *api.Operation) error {
	switch op {
	case api.Invoke, api.InvokeAsync, api.InvokeWithResponseStream:
		return nil
	}
	r.mu.Lock()
	l := r.accounts[a]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(r.perSecond), burstSeconds*r.perSecond)
		r.accounts[a] = l
	}
	r.mu.Unlock()
	if l.AllowN(now, 1) {
		return nil
	}
	return &kiln.Error{Kind: kiln.TooManyRequests, Message: "Rate exceeded", Reason: kiln.CallerRateExceeded, RetryAfter: time.Second}
}
