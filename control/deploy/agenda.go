package deploy

import (
	"context"
	"sync"
	"time"
)

// agenda holds things to do, each at its time. It is in the order in which they were added: one that is due waits for those
// before it. It is as long as what was added within the delay of its user, some hundred bytes for each durable commit.
type agenda[T any] struct {
	mu    sync.Mutex
	items []appointment[T] // +checklocks:mu
	// added says that items is no longer empty. One token is enough, for run looks at all items.
	added chan struct{}
}

type appointment[T any] struct {
	item T
	at   time.Time
}

func newAgenda[T any]() *agenda[T] { return &agenda[T]{added: make(chan struct{}, 1)} }

func (a *agenda[T]) add(item T, at time.Time) {
	a.mu.Lock()
	a.items = append(a.items, appointment[T]{item, at})
	a.mu.Unlock()
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

// run calls do with each item when its time has come, until ctx ends or do fails.
func (a *agenda[T]) run(ctx context.Context, now func() time.Time, do func(context.Context, T) error) error {
	for {
		next, err := a.take(ctx)
		if err != nil {
			return err
		}
		if err := wait(ctx, next.at.Sub(now())); err != nil {
			return err
		}
		if err := do(ctx, next.item); err != nil {
			return err
		}
	}
}

// take removes the first item, and waits for one if there is none.
func (a *agenda[T]) take(ctx context.Context) (appointment[T], error) {
	for {
		if next, ok := a.pop(); ok {
			return next, nil
		}
		select {
		case <-a.added:
		case <-ctx.Done():
			return appointment[T]{}, ctx.Err()
		}
	}
}

func (a *agenda[T]) pop() (appointment[T], bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.items) == 0 {
		return appointment[T]{}, false
	}
	next := a.items[0]
	a.items = a.items[1:]
	return next, true
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
