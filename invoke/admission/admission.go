// Package admission decides whether an invocation may begin, before anything is spent on it.
package admission

import (
	"fmt"
	"sync"
	"time"

	"kiln"
)

// Limiter counts the invocations that run in each account and holds them to a limit. It is safe for concurrent use.
type Limiter struct {
	limit int

	mu      sync.Mutex
	running map[kiln.AccountID]int // +checklocks:mu accounts with none are absent
}

// NewLimiter returns a Limiter that lets limit invocations of one account run at a time.
func NewLimiter(limit int) *Limiter {
	return &Limiter{limit: limit, running: make(map[kiln.AccountID]int)}
}

// Lease is one invocation's place within its account's limit. Release it once.
type Lease struct {
	limiter *Limiter
	account kiln.AccountID
}

// Acquire takes a place for one invocation, or returns an error of kind TooManyRequests at once.
func (l *Limiter) Acquire(a kiln.AccountID) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[a] >= l.limit {
		return Lease{}, throttled()
	}
	l.running[a]++
	return Lease{limiter: l, account: a}, nil
}

// Release gives the place back.
func (l Lease) Release() {
	l.limiter.mu.Lock()
	defer l.limiter.mu.Unlock()
	n := l.limiter.running[l.account] - 1
	if n < 0 {
		panic(fmt.Sprintf("admission: lease of account %s released twice", l.account))
	}
	if n == 0 {
		delete(l.limiter.running, l.account)
		return
	}
	l.limiter.running[l.account] = n
}

// throttled is AWS's answer at the account's limit
// (https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html, TooManyRequestsException).
func throttled() error {
	e := kiln.Errorf(kiln.TooManyRequests, "Rate Exceeded.")
	e.Reason = "ConcurrentInvocationLimitExceeded"
	e.RetryAfter = time.Second
	return e
}
