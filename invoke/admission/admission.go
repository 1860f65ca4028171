// Package admission decides whether an invocation may begin, before anything is spent on it, and whether an environment may be started
// for it. Its limits are AWS's (https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html): an account's concurrency, of
// which functions may have a part reserved or provisioned; ten requests a second for each place of it; and how fast a function may grow.
package admission

import (
	"fmt"
	"sync"
	"time"

	"kiln"
)

// Config says what the limits are. The zero Config has AWS's.
type Config struct {
	Concurrency kiln.Concurrency
	// Starts is how many environments of a function may be started within StartsPer; 0 means DefaultStarts, and DefaultStartsPer. So many may be
	// started at once, and what was used comes back evenly over that time.
	Starts    int
	StartsPer time.Duration
}

// How fast a function may grow on AWS.
const (
	DefaultStarts    = 1000
	DefaultStartsPer = 10 * time.Second
)

// requestsPerPlace is how many requests a second each place of a limit is good for, on AWS.
const requestsPerPlace = 10

// Limiter holds invocations to their limits. It decides from the time it is given, does no I/O, and is safe for concurrent use.
// What it remembers of a function without a reservation is let go of once nothing of it runs and its rates are unused.
type Limiter struct {
	cfg Config

	mu       sync.Mutex
	accounts map[kiln.AccountID]*account // +checklocks:mu
	// dormant are functions of which nothing runs and for which nothing is kept, the longest first.
	dormant list // +checklocks:mu
}

// account is what is known of an account. It is absent from the Limiter while it has no functions.
type account struct {
	id kiln.AccountID
	// limit is for all invocations at a time, of which reserved is kept for functions by themselves.
	limit, reserved int
	// running counts all invocations, and shared those that have no place which is kept for their functions.
	running, shared int
	// requests are those that may become shared.
	requests  bucket
	functions map[kiln.FunctionName]*function
}

// function is what is known of a function.
type function struct {
	limiter *Limiter
	account *account
	name    kiln.FunctionName
	running int
	// reserved is how many invocations may run at a time, or unreserved.
	reserved int
	// provisions are by deployment. places is the sum of theirs, and provisioned how many invocations have one.
	provisions          map[string]*provision
	places, provisioned int
	requests, starts    bucket

	// since is when it became dormant; previous and next are its neighbours then.
	since          time.Time
	previous, next *function
	listed         bool
}

// provision is the places that the invocations of a deployment have before others.
type provision struct{ places, running int }

const unreserved = -1

// New returns a Limiter of accounts in which nothing is reserved.
func New(cfg Config) *Limiter {
	if cfg.Starts == 0 {
		cfg.Starts = DefaultStarts
	}
	if cfg.StartsPer == 0 {
		cfg.StartsPer = DefaultStartsPer
	}
	return &Limiter{cfg: cfg, accounts: make(map[kiln.AccountID]*account)}
}

// Lease is one invocation's place within the limits. Release it once.
type Lease struct {
	function *function
	// provision is whose place it is, nil if it is none that is provisioned.
	provision *provision
}

// Acquire takes a place for one invocation of v, one that is provisioned for it if there is any left, or returns an error of kind
// TooManyRequests at once.
func (l *Limiter) Acquire(v *kiln.Version, now time.Time) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	f := l.find(v.Account, v.Function)
	p := f.provisions[v.Deployment]
	if p != nil && p.running >= p.places {
		p = nil
	}
	if err := f.admit(p, now); err != nil {
		l.settle(f, now)
		return Lease{}, err
	}
	l.dormant.remove(f)
	f.count(p, 1)
	return Lease{f, p}, nil
}

// count counts n more invocations that run, with places of p if that is not nil.
func (f *function) count(p *provision, n int) {
	f.running += n
	f.account.running += n
	switch {
	case p != nil:
		p.running += n
		f.provisioned += n
	case f.reserved == unreserved:
		f.account.shared += n
	}
}

// admit takes one request of f's rate, or returns why f cannot have another invocation, with a place of p if that is not nil.
func (f *function) admit(p *provision, now time.Time) error {
	a := f.account
	switch {
	case f.reserved == 0, f.reserved != unreserved && p == nil && f.reserved <= f.places:
		return throttled(kiln.ReservedConcurrencyExceeded, 0) // as AWS: to try again is of no use
	case f.reserved != unreserved && (f.running >= f.reserved || p == nil && f.running-f.provisioned >= f.reserved-f.places):
		return throttled(kiln.ReservedConcurrencyExceeded, retryConcurrency)
	// An account that has just reserved something may have more running than what it shares is then.
	case a.running >= a.limit, f.reserved == unreserved && p == nil && a.shared >= a.unreserved():
		return throttled(kiln.ConcurrencyExceeded, retryConcurrency)
	case f.reserved != unreserved:
		if wait := f.requests.take(now, requestRate(f.reserved)); wait > 0 {
			return throttled(kiln.ReservedRateExceeded, wait)
		}
	case p != nil:
		if wait := f.requests.take(now, requestRate(f.places)); wait > 0 {
			return throttled(kiln.RateExceeded, wait)
		}
	default:
		if wait := a.requests.take(now, requestRate(a.unreserved())); wait > 0 {
			return throttled(kiln.RateExceeded, wait)
		}
	}
	return nil
}

func (a *account) unreserved() int { return max(a.limit-a.reserved, 0) }

func requestRate(places int) rate { return rate{burst: requestsPerPlace * places, per: time.Second} }

// Release gives the place back.
func (p Lease) Release(now time.Time) {
	f := p.function
	l := f.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.running == 0 {
		panic(fmt.Sprintf("admission: lease of account %s released twice", f.account.id))
	}
	f.count(p.provision, -1)
	l.settle(f, now)
}

// Start asks for an environment to be started for the invocation that has the place. It returns an error of kind TooManyRequests if its
// function grows too fast.
func (p Lease) Start(now time.Time) error {
	f := p.function
	l := f.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := f.starts.take(now, rate{burst: l.cfg.Starts, per: l.cfg.StartsPer})
	switch {
	case wait == 0:
		return nil
	case f.reserved != unreserved:
		return throttled(kiln.ReservedRateExceeded, wait)
	}
	return throttled(kiln.RateExceeded, wait)
}

// Reserve sets how many invocations of a function may run at a time, which others of its account cannot have any more; nil means that
// the function shares what is not reserved. What runs goes on, and counts where the function now belongs.
func (l *Limiter) Reserve(a kiln.AccountID, name kiln.FunctionName, places *int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.find(a, name)
	f.claim(-1)
	f.reserved = unreserved
	if places != nil {
		f.reserved = *places
	}
	f.claim(1)
	l.settle(f, now)
}

// Provision sets how many invocations of which deployments of a function have places that others cannot have: others of its account, or,
// if it has a reservation, others of its own. What runs goes on with the places that it has.
func (l *Limiter) Provision(a kiln.AccountID, name kiln.FunctionName, places map[string]int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.find(a, name)
	f.claim(-1)
	old := f.provisions
	f.provisions, f.places = make(map[string]*provision, len(places)), 0
	for deployment, n := range places {
		p := old[deployment]
		if p == nil {
			p = new(provision)
		}
		p.places = n
		f.provisions[deployment] = p
		f.places += n
	}
	f.claim(1)
	l.settle(f, now)
}

// claim counts what f's account keeps for f, and what f has running of what the account shares; sign is 1 or -1.
func (f *function) claim(sign int) {
	if f.reserved != unreserved {
		f.account.reserved += sign * f.reserved
		return
	}
	f.account.reserved += sign * f.places
	f.account.shared += sign * (f.running - f.provisioned)
}

// find returns what is known of a function.
//
// +checklocks:l.mu
func (l *Limiter) find(id kiln.AccountID, name kiln.FunctionName) *function {
	a := l.accounts[id]
	if a == nil {
		a = &account{id: id, limit: l.cfg.Concurrency.Of(id), functions: make(map[kiln.FunctionName]*function)}
		l.accounts[id] = a
	}
	f := a.functions[name]
	if f == nil {
		f = &function{limiter: l, account: a, name: name, reserved: unreserved}
		a.functions[name] = f
	}
	return f
}

// settle lists f as dormant if it is, and otherwise not.
//
// +checklocks:l.mu
func (l *Limiter) settle(f *function, now time.Time) {
	l.dormant.remove(f)
	if f.running == 0 && f.reserved == unreserved && len(f.provisions) == 0 {
		f.since = now
		l.dormant.add(f)
	}
}

// forgets is how many functions are let go of at a time: more than one, so that they become fewer.
const forgets = 2

// forget lets go of functions that have been dormant until their rates, and their account's, are unused.
//
// +checklocks:l.mu
func (l *Limiter) forget(now time.Time) {
	for range forgets {
		f := l.dormant.first
		if f == nil || now.Sub(f.since) < max(l.cfg.StartsPer, time.Second) {
			return
		}
		l.dormant.remove(f)
		delete(f.account.functions, f.name)
		if len(f.account.functions) == 0 {
			delete(l.accounts, f.account.id)
		}
	}
}

// retryConcurrency is when to try again for a place: nobody knows when one is given back.
const retryConcurrency = time.Second

// throttled is AWS's answer at a limit (https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html, TooManyRequestsException).
// The caller may try again after wait, if that is not 0.
func throttled(reason string, wait time.Duration) error {
	e := kiln.Errorf(kiln.TooManyRequests, "Rate Exceeded.")
	e.Reason, e.RetryAfter = reason, wait
	return e
}
