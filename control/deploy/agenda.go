package deploy

import (
	"context"
	"slices"
	"sync"
	"time"
)

// agenda holds things to do, each at its time. What fails is tried again later, and holds up nothing else. It is as long as what
// was added within the delay of its user, some hundred bytes for each durable commit, and what fails.
type agenda[T any] struct {
	mu sync.Mutex
	// items are in the order of their times, and of being added where those are equal.
	items []appointment[T] // +checklocks:mu
	// added says that the first item may be another. One token is enough, for who takes it takes all items that are due, or has another
	// look too.
	added chan struct{}
}

type appointment[T any] struct {
	item T
	at   time.Time
	// failures is how often the item was tried in vain.
	failures int
}

// work is what an agenda does with its items.
type work[T any] struct {
	// now reads the clock.
	now func() time.Time
	// do does what is to be done with an item. An item that it returns an error for comes again after retryDelay.
	do func(context.Context, T) error
	// failed is told of each such error.
	failed func(error)
}

func newAgenda[T any]() *agenda[T] { return &agenda[T]{added: make(chan struct{}, 1)} }

func (a *agenda[T]) add(item T, at time.Time) { a.insert(appointment[T]{item: item, at: at}) }

func (a *agenda[T]) insert(p appointment[T]) {
	a.mu.Lock()
	// Nearly always at the end, since the users' delays do not vary.
	i, _ := slices.BinarySearchFunc(a.items, p, func(other, p appointment[T]) int {
		if other.at.After(p.at) {
			return 1
		}
		return -1
	})
	a.items = slices.Insert(a.items, i, p)
	a.mu.Unlock()
	a.tell()
}

// tell has one who waits look at the first item.
func (a *agenda[T]) tell() {
	select {
	case a.added <- struct{}{}:
	default:
	}
}

func (a *agenda[T]) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.items = nil
}

// run works on each item when its time has come, until ctx ends, and returns ctx's error. It may run several times at once.
func (a *agenda[T]) run(ctx context.Context, w work[T]) error {
	for {
		next, err := a.take(ctx, w.now)
		if err != nil {
			return err
		}
		err = w.do(ctx, next.item)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			w.failed(err)
			next.at = w.now().Add(retryDelay(next.failures))
			next.failures++
			a.insert(next)
		}
	}
}

// take removes the first item that is due, and waits for one if there is none.
func (a *agenda[T]) take(ctx context.Context, now func() time.Time) (appointment[T], error) {
	for {
		next, due, ok := a.pop(now())
		if ok {
			return next, ctx.Err()
		}
		if err := wait(ctx, due, a.added); err != nil {
			return appointment[T]{}, err
		}
	}
}

// idle is how long run waits for an item when there is none. Any time will do: a new item ends the wait.
const idle = time.Hour

// pop removes the first item if it is due, or returns how long it is until then.
func (a *agenda[T]) pop(now time.Time) (next appointment[T], due time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.items) == 0 {
		return next, idle, false
	}
	next = a.items[0]
	if due := next.at.Sub(now); due > 0 {
		return next, due, false
	}
	a.items = a.items[1:]
	if len(a.items) > 0 {
		a.tell()
	}
	return next, 0, true
}

// retryDelay is how long to wait after a failure that came after so many others: from a second, doubling, to a minute.
func retryDelay(failures int) time.Duration {
	return min(time.Second<<min(failures, 6), time.Minute)
}

// wait waits for d, or until wake has something. A wake of nil never has.
func wait(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err()
}
