package assignment

import (
	"context"
	"errors"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/internal/fairqueue"
)

const (
	// minQuantum is little for one who waits, and maxQuantum what one may have patience for.
	minQuantum = time.Second
	maxQuantum = 5 * time.Second
	// startsPerQuantum is how many environments could be started one after the other in a quantum.
	startsPerQuantum = 10
	// smoothing is the weight of one start in the mean of what starts take.
	smoothing = 0.2
	// shortageMemory is for how long it is remembered who held what after there was no room.
	shortageMemory = 10 * time.Second
	// protection is for how long an idle environment is kept for a function that owes nobody: its calls may be that far apart.
	protection = 5 * time.Second
	// lookForRoom is how long nobody has been given room before one of those who wait looks for some that nobody has told of: in another
	// process, or no longer protected. Those who look would take from the others what was freed for them.
	lookForRoom = 100 * time.Millisecond
)

// waiter is an invocation that has no environment yet, or one that is provisioned and has no room yet.
type waiter struct {
	version *kiln.Version
	why     fleet.Initialization
	// grants has room for the one grant that there is for each time that it waits.
	grants chan grant
	got    grant
	waited time.Duration
	// queued is its place while it waits, and the last one otherwise; nil if it has never waited.
	queued *fairqueue.Waiter[*waiter]
}

// grant is how waiting ends: with an environment of the waiter's deployment if passed is true, with err if that is set, and otherwise
// with memory held for an environment, for which surrendered, if there is one, must be stopped first.
type grant struct {
	id          fleet.EnvironmentID
	passed      bool
	surrendered fleet.EnvironmentID
	err         error
}

func newQueue(maxWaiting int) *fairqueue.Queue[*waiter] {
	return fairqueue.New[*waiter](fairqueue.Config{MaxWaiting: maxWaiting, Quantum: minQuantum, Memory: shortageMemory})
}

// pace counts a start that took so long. Where starts take long, as on a machine that is slow or has many of them, what is short changes
// hands less often, and little of it at a time: it would be lost on starts.
//
// +checklocks:a.mu
func (a *Assigner) pace(took time.Duration) {
	a.startTime += time.Duration(smoothing * float64(took-a.startTime))
	a.queue.SetPace(max(minQuantum, min(startsPerQuantum*a.startTime, a.cfg.MaxWait/2, maxQuantum)), a.startTime)
}

// flow is who shares: an account, and of it a function.
func flow(v *kiln.Version) fairqueue.Flow {
	return fairqueue.Flow{Tenant: string(v.Account), Key: string(v.Function)}
}

// hold counts n environments of v as held.
//
// +checklocks:a.mu
func (a *Assigner) hold(now time.Time, v *kiln.Version, n int) {
	a.queue.Hold(now, flow(v), float64(n*v.MemoryMB))
}

// evict ends an idle environment for w, which finds no room and then holds what there was, and reports whether there was one: that which
// is worth least, of those that have not been used for long or whose functions owe theirs.
//
// +checklocks:a.mu
func (a *Assigner) evict(now time.Time, w *waiter) bool {
	a.queue.Short(now)
	f := flow(w.version)
	s, ok := a.table.Evict(func(s Start, since time.Time) bool {
		return now.Sub(since) >= protection || a.queue.Owes(now, s.Flow, f, float64(s.MemoryMB), s.At)
	})
	w.got = grant{surrendered: s.ID}
	if ok {
		a.moving++
		a.queue.Hold(now, s.Flow, -float64(s.MemoryMB))
		a.hold(now, w.version, 1)
	}
	return ok
}

// wait makes w wait until it is given an environment or room for one, which w.got then tells.
//
// +checklocks:a.mu
func (a *Assigner) wait(ctx context.Context, w *waiter) error {
	begun := time.Now()
	if err := a.push(begun, w); err != nil {
		return err
	}
	a.awake()
	a.mu.Unlock()
	err := a.listen(ctx, w)
	took := time.Since(begun)
	if a.cfg.Observer != nil {
		a.cfg.Observer.Waited(took, err == nil)
	}
	a.mu.Lock()
	w.waited += took
	return err
}

// push makes w wait: where it was, if it has waited before.
//
// +checklocks:a.mu
func (a *Assigner) push(now time.Time, w *waiter) error {
	switch {
	case a.closed:
		return errClosed()
	case w.queued != nil:
		a.queue.Return(now, w.queued)
		return nil
	}
	var out *fairqueue.Waiter[*waiter]
	w.queued, out = a.queue.Push(now, flow(w.version), fairqueue.Foreground, w)
	switch {
	case out == w.queued:
		return errNoRoom("too many wait")
	case out != nil:
		out.Item.grants <- grant{err: errNoRoom("too many wait")}
	}
	return nil
}

// listen returns when w is given something, or has waited for too long.
func (a *Assigner) listen(ctx context.Context, w *waiter) error {
	patience := time.NewTimer(a.cfg.MaxWait - time.Since(w.queued.Since))
	defer patience.Stop()
	err := errNoRoom("waited for too long")
	select {
	case w.got = <-w.grants:
		return w.got.err
	case <-patience.C:
	case <-ctx.Done():
		err = &kiln.Error{Kind: kiln.Unavailable, Message: "The caller went away.", Cause: ctx.Err()}
	}
	a.mu.Lock()
	waited := a.queue.Remove(w.queued)
	a.mu.Unlock()
	if waited {
		return err
	}
	w.got = <-w.grants // it has just been given something
	return w.got.err
}

// pass gives an idle environment to the one who is to have it or its memory next, if anybody is.
//
// +checklocks:a.mu
func (a *Assigner) pass(now time.Time, s Start) {
	if s.Provisioned {
		a.passProvisioned(now, s)
		return
	}
	next, _ := a.queue.NextOf(now, s.Flow, float64(s.MemoryMB), s.At)
	if next == nil {
		return
	}
	a.granted = now
	w := next.Item
	if w.why == fleet.OnDemand && a.table.Serves(s.ID, w.version.Deployment) {
		a.table.Pass(s.ID)
		w.grants <- grant{id: s.ID, passed: true}
		return
	}
	a.table.Surrender(s.ID)
	a.moving++
	a.queue.Hold(now, s.Flow, -float64(s.MemoryMB))
	a.hold(now, w.version, 1)
	w.grants <- grant{surrendered: s.ID}
}

// moved says that w has got the memory of the environment that was to end for it, or that there was none after all.
//
// +checklocks:a.mu
func (a *Assigner) moved(w *waiter) {
	if w.got.surrendered != "" {
		a.moving--
		w.got.surrendered = ""
	}
}

// decline gives back what w was given, and does not use.
//
// +checklocks:a.mu
func (a *Assigner) decline(w *waiter) {
	if w.got.surrendered == "" {
		a.refuse(w.version)
		return
	}
	a.hold(time.Now(), w.version, -1)
	a.doom(fleet.Evicted, Start{ID: w.got.surrendered, Flow: flow(w.version)}) // which holds nothing any more
	a.moved(w)
}

// letGo counts an environment that has ended as held no more, and gives its memory to the next who waits.
//
// +checklocks:a.mu
func (a *Assigner) letGo(now time.Time, s Start) {
	a.queue.Hold(now, s.Flow, -float64(s.MemoryMB))
	a.grantNext(now)
}

// grantNext lets the next who waits, if anybody does, look for room.
//
// +checklocks:a.mu
func (a *Assigner) grantNext(now time.Time) {
	if next := a.queue.Next(now); next != nil {
		a.hold(now, next.Item.version, 1)
		a.granted = now
		next.Item.grants <- grant{}
	}
}

// offer lets one who waits look for room, if nobody has been given any for a while, and nobody is getting some, which would be taken.
func (a *Assigner) offer(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.moving == 0 && now.Sub(a.granted) >= lookForRoom {
		a.grantNext(now)
	}
}

// refuseAll lets nobody wait any more.
func (a *Assigner) refuseAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for now := time.Now(); ; {
		next := a.queue.Next(now)
		if next == nil {
			return
		}
		next.Item.grants <- grant{err: errClosed()}
	}
}

// Waiting is how many invocations wait for room.
func (a *Assigner) Waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.queue.Waiting()
}

// retryAfter is what a caller is told that found no room: those who wait have waited as long, and then there is some.
const retryAfter = time.Second

// errNoRoom is what a caller reads that has found no room. AWS has no Reason for a machine that is full; this one has its clients try
// again.
func errNoRoom(why string) error {
	e := kiln.Errorf(kiln.TooManyRequests, "Rate Exceeded. There is no room for another execution environment of the function. Please try again.")
	e.Reason, e.RetryAfter, e.Cause = "ConcurrentInvocationLimitExceeded", retryAfter, errors.New(why)
	return e
}

func errClosed() error {
	return kiln.Errorf(kiln.Unavailable, "The node is shutting down.")
}
