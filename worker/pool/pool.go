// Package pool keeps sandboxes booted ahead of the functions that will run in them.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"kiln/worker/runtime"
)

const (
	// quiet is how long nothing must have been taken before a sandbox is booted in the place of one that was, as long as others
	// wait: booting takes a processor from the function that has just been started.
	quiet = 25 * time.Millisecond
	// review is how often it is looked whether fewer sandboxes will do.
	review = 10 * time.Second
)

// Spare is a sandbox that waits for its function.
type Spare interface {
	// Ended is closed when it is of no use any more. It still has to be destroyed.
	Ended() <-chan struct{}
	Destroy() error
}

// Memory is what sandboxes are promised.
type Memory interface {
	// Reserve reports whether there is room for that many MB, and takes it.
	Reserve(mb int) bool
	Release(mb int)
}

// Config says what a Pool keeps.
type Config[S Spare] struct {
	// Boot boots a sandbox of a class.
	Boot func(ctx context.Context, c runtime.Class) (S, error)
	// Memory is taken for each sandbox that waits, SpareMB for one, and MaxMB at most.
	Memory  Memory
	SpareMB int
	MaxMB   int
	Log     *slog.Logger
}

// Pool is sandboxes that wait. Its methods are safe for concurrent use. Run must be running for it to have any.
type Pool[S Spare] struct {
	cfg Config[S]
	// wake tells Run that there may be something to do; one token is enough.
	wake chan struct{}

	mu      sync.Mutex
	waiting map[runtime.Class][]*member[S] // +checklocks:mu the one that has waited longest first
	demands map[runtime.Class]*demand      // +checklocks:mu
	// taken is when a sandbox was taken last.
	taken time.Time // +checklocks:mu
	// yielded is how many were given up for their memory.
	yielded int // +checklocks:mu

	// watches are what follows the sandboxes that wait, and what destroys others.
	watches sync.WaitGroup
}

// member is a sandbox that waits, until left is closed.
type member[S Spare] struct {
	spare S
	left  chan struct{}
}

// New returns an empty pool.
func New[S Spare](cfg Config[S]) *Pool[S] {
	return &Pool[S]{
		cfg: cfg, wake: make(chan struct{}, 1),
		waiting: make(map[runtime.Class][]*member[S]), demands: make(map[runtime.Class]*demand),
	}
}

// Expect notes that a function of class c may be called.
func (p *Pool[S]) Expect(c runtime.Class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.demand(c).expect(time.Now())
	p.awake()
}

// Take returns a sandbox for a function of class c, which is the caller's from then on, and the class that it is of: c, or one of the
// same runtime with more memory. ok is false if none waits.
func (p *Pool[S]) Take(c runtime.Class) (s S, of runtime.Class, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.demand(c).take(now)
	p.taken = now
	defer p.awake()
	of, ok = p.nearest(c)
	if !ok {
		return s, of, false
	}
	return p.remove(of, p.waiting[of][0]).spare, of, true
}

// nearest is the smallest class of c's runtime that is at least c and of which one waits.
//
// +checklocks:p.mu
func (p *Pool[S]) nearest(c runtime.Class) (runtime.Class, bool) {
	best, found := runtime.Class{}, false
	for o, members := range p.waiting {
		if o.Runtime == c.Runtime && o.MemoryMB >= c.MemoryMB && len(members) > 0 && (!found || o.MemoryMB < best.MemoryMB) {
			best, found = o, true
		}
	}
	return best, found
}

// Yield gives up a sandbox that waits, so that its memory can be promised to a function. It reports whether there was one.
func (p *Pool[S]) Yield() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.leastWanted()
	if !ok {
		return false
	}
	p.discard(p.remove(c, p.waiting[c][0]))
	p.yielded++
	return true
}

// leastWanted is the class that was asked for longest ago, of those of which one waits.
//
// +checklocks:p.mu
func (p *Pool[S]) leastWanted() (runtime.Class, bool) {
	classes := inUse(time.Now(), p.demands)
	slices.Reverse(classes) // the one that was asked for longest ago first
	for _, c := range classes {
		if len(p.waiting[c]) > 0 {
			return c, true
		}
	}
	for c, members := range p.waiting { // of classes that are not in use any more
		if len(members) > 0 {
			return c, true
		}
	}
	return runtime.Class{}, false
}

// Yielded is how many sandboxes Yield has given up.
func (p *Pool[S]) Yielded() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.yielded
}

// Waiting is how many sandboxes wait, by class.
func (p *Pool[S]) Waiting() map[runtime.Class]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sizes()
}

// Goal is how many sandboxes are to wait, by class.
func (p *Pool[S]) Goal() map[runtime.Class]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.goal(time.Now())
}

// goal is how many sandboxes are to wait, by class.
//
// +checklocks:p.mu
func (p *Pool[S]) goal(now time.Time) map[runtime.Class]int {
	return plan(now, p.demands, p.cfg.MaxMB/p.cfg.SpareMB)
}

// Run keeps the pool filled, booting one sandbox at a time, until ctx ends, and then destroys what waits.
func (p *Pool[S]) Run(ctx context.Context) error {
	defer p.watches.Wait()
	defer p.close()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-look.C:
		}
		for {
			c, wait := p.next(time.Now())
			if wait > 0 {
				look.Reset(wait)
				break
			}
			p.boot(ctx, c)
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}

// next gives up sandboxes that are too many, and returns a class of which one is to be booted, or how long to wait.
func (p *Pool[S]) next(now time.Time) (runtime.Class, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	goal := p.goal(now)
	for c, members := range p.waiting {
		for _, m := range slices.Clone(members[min(goal[c], len(members)):]) {
			p.discard(p.remove(c, m))
		}
	}
	p.forget(now)
	return choose(now, goal, p.sizes(), p.demands, p.taken)
}

// choose returns the class of which one is to be booted first: one that has none, or else the one that lacks most. If none is to be
// booted it returns how long that will be so.
func choose(now time.Time, goal, have map[runtime.Class]int, demands map[runtime.Class]*demand, taken time.Time) (runtime.Class, time.Duration) {
	var best runtime.Class
	most, wait := 0, review
	for c, n := range goal {
		lack := n - have[c]
		if lack <= 0 {
			continue
		}
		if rest := demands[c].rest.Sub(now); rest > 0 {
			wait = min(wait, rest)
			continue
		}
		if have[c] == 0 {
			lack += 1 << 20
		}
		if lack > most {
			best, most = c, lack
		}
	}
	if most == 0 {
		return best, wait
	}
	if pause := quiet - now.Sub(taken); pause > 0 && have[best] > 0 {
		return best, pause
	}
	return best, 0
}

// sizes is how many sandboxes wait, by class.
//
// +checklocks:p.mu
func (p *Pool[S]) sizes() map[runtime.Class]int {
	n := make(map[runtime.Class]int, len(p.waiting))
	for c, members := range p.waiting {
		n[c] = len(members)
	}
	return n
}

// forget drops classes that are neither in use nor waiting.
//
// +checklocks:p.mu
func (p *Pool[S]) forget(now time.Time) {
	for c, d := range p.demands {
		if !d.inUse(now) && len(p.waiting[c]) == 0 {
			delete(p.demands, c)
			delete(p.waiting, c)
		}
	}
}

// boot boots a sandbox of class c and lets it wait, if there is memory for one.
func (p *Pool[S]) boot(ctx context.Context, c runtime.Class) {
	var err error
	if !p.cfg.Memory.Reserve(p.cfg.SpareMB) {
		err = errNoMemory
	}
	var s S
	if err == nil {
		if s, err = p.cfg.Boot(ctx, c); err != nil {
			p.cfg.Memory.Release(p.cfg.SpareMB)
		}
	}
	if err != nil && !errors.Is(err, errNoMemory) && ctx.Err() == nil {
		p.cfg.Log.Warn("boot sandbox ahead", "runtime", c.Runtime, "memory", c.MemoryMB, "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.demand(c).booted(err == nil, time.Now())
	if err == nil {
		p.add(c, s)
	}
}

var errNoMemory = errors.New("no memory for a sandbox that waits")

// add lets a sandbox wait and follows it until it leaves or ends.
//
// +checklocks:p.mu
func (p *Pool[S]) add(c runtime.Class, s S) {
	m := &member[S]{s, make(chan struct{})}
	p.waiting[c] = append(p.waiting[c], m)
	p.watches.Go(func() {
		select {
		case <-m.left:
		case <-s.Ended():
			p.drop(c, m)
		}
	})
}

// drop discards a sandbox that has ended, unless it has been taken meanwhile.
func (p *Pool[S]) drop(c runtime.Class, m *member[S]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.waiting[c], m) {
		p.discard(p.remove(c, m))
		p.awake()
	}
}

// remove takes a sandbox from those that wait, and gives its memory back.
//
// +checklocks:p.mu
func (p *Pool[S]) remove(c runtime.Class, m *member[S]) *member[S] {
	i := slices.Index(p.waiting[c], m)
	p.waiting[c] = slices.Delete(p.waiting[c], i, i+1)
	p.cfg.Memory.Release(p.cfg.SpareMB)
	close(m.left)
	return m
}

// discard destroys a sandbox that was removed.
//
// +checklocks:p.mu
func (p *Pool[S]) discard(m *member[S]) {
	p.watches.Go(func() {
		if err := m.spare.Destroy(); err != nil {
			p.cfg.Log.Error("destroy sandbox that waited", "err", err)
		}
	})
}

// close discards all that waits, for good.
func (p *Pool[S]) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, members := range p.waiting {
		for len(members) > 0 {
			p.discard(p.remove(c, members[0]))
			members = p.waiting[c]
		}
	}
}

// demand is that of class c.
//
// +checklocks:p.mu
func (p *Pool[S]) demand(c runtime.Class) *demand {
	d := p.demands[c]
	if d == nil {
		d = &demand{}
		p.demands[c] = d
	}
	return d
}

// awake lets Run look what is to do.
func (p *Pool[S]) awake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
