package forecast

import (
	"container/heap"
	"container/list"
	"math/bits"
	"time"
)

// Config says how a Forecaster decides.
type Config struct {
	Policy Policy
	// MaxFunctions is how many functions are remembered; 0 means DefaultMaxFunctions. Beyond it, whoever has not been called for longest is
	// forgotten.
	MaxFunctions int
}

// DefaultMaxFunctions are as many as a node is to have, at some hundred bytes each.
const DefaultMaxFunctions = 100_000

// Forecaster decides for many functions, each named by a K, what is to be held. Its methods take what time it is, which must not go
// backwards.
//
// Environments are held by levels: the first serves level 1, whichever is needed while the first is busy level 2, and so on. What is known
// of a level is when that many were last needed at a time, and how often. Levels of one power of two are one.
type Forecaster[K comparable] struct {
	cfg       Config
	prior     *prior
	functions map[K]*function[K]
	// order has the functions in the order of their last calls.
	order  *list.List
	coming comings[K]
}

type function[K comparable] struct {
	key    K
	levels []level
	// called is its place in the order.
	called *list.Element
	// coming is the time of the next window of level 1 that has not begun, and place where it is in the heap; -1 means that there is none.
	coming time.Time
	place  int
}

// level is one power of two of a function's levels.
type level struct {
	history history
	last    time.Time
	// windows are counted from last; nil until they are asked for.
	windows []window
	// price and memoryMB are those that the windows were made with.
	price    float64
	memoryMB int
}

// New returns a Forecaster that knows nothing.
func New[K comparable](cfg Config) *Forecaster[K] {
	if cfg.MaxFunctions == 0 {
		cfg.MaxFunctions = DefaultMaxFunctions
	}
	return &Forecaster[K]{cfg: cfg, prior: newPrior(), functions: make(map[K]*function[K]), order: list.New()}
}

// SetPrice changes Policy.Price, for what is planned from now on.
func (f *Forecaster[K]) SetPrice(price float64) { f.cfg.Policy.Price = price }

func indexOf(n int) int { return bits.Len(uint(n - 1)) }

// Called says that n environments of a function are needed from now on, of which one has begun to be: n is 1 or more.
func (f *Forecaster[K]) Called(k K, n int, memoryMB int, now time.Time) {
	fn := f.functions[k]
	if fn == nil {
		fn = &function[K]{key: k, place: -1}
		f.functions[k] = fn
		f.forget()
		fn.called = f.order.PushBack(fn)
	} else {
		f.order.MoveToBack(fn.called)
	}
	for i := indexOf(n); len(fn.levels) <= i; {
		fn.levels = append(fn.levels, level{})
	}
	l := &fn.levels[indexOf(n)]
	if !l.last.IsZero() {
		gap := now.Sub(l.last)
		f.prior.observe(&l.history, gap)
		l.history.observe(gap)
	}
	l.last, l.windows, l.memoryMB = now, nil, memoryMB
	f.expect(fn, time.Time{})
}

// Holds reports whether the n-th environment of a function is to be held at now, while it is idle. One of a function that is not known
// is not.
func (f *Forecaster[K]) Holds(k K, n int, now time.Time) bool {
	fn := f.functions[k]
	if fn == nil || len(fn.levels) <= indexOf(n) {
		return false
	}
	l := &fn.levels[indexOf(n)]
	f.plan(fn, l)
	age := now.Sub(l.last)
	for _, w := range l.windows {
		if w.from <= age && age < w.to {
			return true
		}
	}
	return false
}

// plan makes the windows of a level, unless they are there.
func (f *Forecaster[K]) plan(fn *function[K], l *level) {
	if l.windows != nil && l.price == f.cfg.Policy.Price {
		return
	}
	l.price = f.cfg.Policy.Price
	l.windows = f.cfg.Policy.plan(&l.history, f.prior, l.memoryMB)
	if l == &fn.levels[0] {
		f.next(fn, l, l.last)
	}
}

// next has fn expected at the beginning of the next window after a time.
func (f *Forecaster[K]) next(fn *function[K], l *level, after time.Time) {
	for _, w := range l.windows {
		if at := l.last.Add(w.from); at.After(after) {
			f.expect(fn, at)
			return
		}
	}
	f.expect(fn, time.Time{})
}

// Idle says that no environment of a function is needed any more, so that it is known when one will be.
func (f *Forecaster[K]) Idle(k K) {
	if fn := f.functions[k]; fn != nil && len(fn.levels) > 0 {
		f.plan(fn, &fn.levels[0])
	}
}

// Due returns the functions of which an environment is to be there from now on though none needs to be yet, at most n.
func (f *Forecaster[K]) Due(now time.Time, n int) []K {
	var due []K
	for len(f.coming) > 0 && len(due) < n && !f.coming[0].coming.After(now) {
		fn := f.coming[0]
		due = append(due, fn.key)
		f.next(fn, &fn.levels[0], now)
	}
	return due
}

// Forget forgets a function.
func (f *Forecaster[K]) Forget(k K) {
	if fn := f.functions[k]; fn != nil {
		f.remove(fn)
	}
}

// forget drops who has not been called for longest, if there are too many.
func (f *Forecaster[K]) forget() {
	if oldest := f.order.Front(); oldest != nil && len(f.functions) > f.cfg.MaxFunctions {
		f.remove(oldest.Value.(*function[K]))
	}
}

func (f *Forecaster[K]) remove(fn *function[K]) {
	f.expect(fn, time.Time{})
	f.order.Remove(fn.called)
	delete(f.functions, fn.key)
}

// expect sets when fn is expected; the zero time means that it is not.
func (f *Forecaster[K]) expect(fn *function[K], at time.Time) {
	fn.coming = at
	switch {
	case at.IsZero() && fn.place >= 0:
		heap.Remove(&f.coming, fn.place)
	case at.IsZero():
	case fn.place < 0:
		heap.Push(&f.coming, fn)
	default:
		heap.Fix(&f.coming, fn.place)
	}
}

// comings is a heap.Interface with the function that is expected first at its root.
type comings[K comparable] []*function[K]

// Len implements heap.Interface.
func (c comings[K]) Len() int { return len(c) }

// Less implements heap.Interface.
func (c comings[K]) Less(i, j int) bool { return c[i].coming.Before(c[j].coming) }

// Swap implements heap.Interface.
func (c comings[K]) Swap(i, j int) {
	c[i], c[j] = c[j], c[i]
	c[i].place, c[j].place = i, j
}

// Push implements heap.Interface.
func (c *comings[K]) Push(x any) {
	fn := x.(*function[K])
	fn.place = len(*c)
	*c = append(*c, fn)
}

// Pop implements heap.Interface.
func (c *comings[K]) Pop() any {
	last := len(*c) - 1
	fn := (*c)[last]
	(*c)[last] = nil // so that it can be freed
	*c = (*c)[:last]
	fn.place = -1
	return fn
}
