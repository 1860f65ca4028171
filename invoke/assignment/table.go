package assignment

import (
	"container/heap"
	"slices"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/internal/fairqueue"
)

// Table remembers which environments are idle and which are busy, by deployment. It decides and does nothing else: no lock, no
// clock, no I/O.
type Table struct {
	deployments  map[string]*deployment
	environments map[fleet.EnvironmentID]*environment
	// ranking are the idle ones by their value, but for those that are provisioned, and floor is the value of the one that was evicted
	// last.
	ranking ranking
	floor   float64
}

type deployment struct {
	// idle is a stack: the newest is taken first, so that what a burst needed grows old and ends. Those that are provisioned, which stay,
	// are in provisioned and are taken before.
	idle, provisioned []*environment
	// kept are the provisioned ones, idle or busy.
	kept []*environment
	// busy counts environments, and those that are being started.
	busy    int
	retired bool
	// startTime is what the last start took.
	startTime time.Duration
}

// environment is one that has started. since, value and rank mean something only while it is idle, and only since if it is provisioned.
type environment struct {
	Start
	deployment string
	ended      bool
	// released says that it is no longer provisioned, and to end when it is not busy any more.
	released bool

	idle  bool
	since time.Time
	value float64
	rank  int
}

// Start is what an environment's start tells of it.
type Start struct {
	ID fleet.EnvironmentID
	// Version is what it runs.
	Version *kiln.Version
	// Flow is whose it is, and At when it was there.
	Flow fairqueue.Flow
	At   time.Time
	// Took is how long the start took, INIT and all, and MemoryMB what the environment holds.
	Took     time.Duration
	MemoryMB int
	// Provisioned says that it stays, whether it is used or not.
	Provisioned bool
	// Until is when it is too old to become or to stay idle.
	Until time.Time
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{deployments: make(map[string]*deployment), environments: make(map[fleet.EnvironmentID]*environment)}
}

// Take returns the environment of d that became idle last, and counts it as busy. If there is none, ok is false and the caller
// is counted as busy all the same: it will start one, and must call Add or Cancel.
func (t *Table) Take(d string) (id fleet.EnvironmentID, ok bool) {
	dep := t.deployments[d]
	if dep == nil {
		dep = &deployment{}
		t.deployments[d] = dep
	}
	dep.busy++
	return t.Claim(d)
}

// Claim is Take for a caller that Take had none for, and that is counted as busy since.
func (t *Table) Claim(d string) (id fleet.EnvironmentID, ok bool) {
	dep := t.deployments[d]
	from := dep.provisioned
	if len(from) == 0 {
		from = dep.idle
	}
	if len(from) == 0 {
		return "", false
	}
	e := from[len(from)-1]
	t.unlist(e)
	return e.ID, true
}

// Provide takes an environment that was started because it is provisioned. It is idle.
func (t *Table) Provide(d string, s Start) {
	s.Provisioned = true
	t.AddIdle(d, s)
}

// AddIdle takes an environment that was started for no call.
func (t *Table) AddIdle(d string, s Start) {
	dep := t.deployments[d]
	if dep == nil {
		dep = &deployment{}
		t.deployments[d] = dep
	}
	e := &environment{Start: s, deployment: d}
	t.environments[s.ID] = e
	if s.Provisioned {
		dep.kept = append(dep.kept, e)
	} else {
		dep.startTime = s.Took
	}
	t.list(dep, e, s.At)
}

// Provided is how many environments of d are provisioned, and how many of them are too old to be that for long.
func (t *Table) Provided(d string, now time.Time) (all, aged int) {
	dep := t.deployments[d]
	if dep == nil {
		return 0, 0
	}
	for _, e := range dep.kept {
		if !now.Before(e.Until) {
			aged++
		}
	}
	return len(dep.kept), aged
}

// Withdraw makes n environments of d provisioned no longer: idle ones, the oldest first, which it forgets and returns and the caller
// must stop, and then busy ones, which Put refuses.
func (t *Table) Withdraw(d string, n int) []Start {
	dep := t.deployments[d]
	if dep == nil {
		return nil
	}
	all := slices.Clone(dep.kept)
	slices.SortFunc(all, func(a, b *environment) int {
		switch {
		case a.idle && !b.idle:
			return -1
		case b.idle && !a.idle:
			return 1
		}
		return a.Until.Compare(b.Until)
	})
	var out []Start
	for _, e := range all[:min(n, len(all))] {
		if e.idle {
			out = append(out, t.remove(e))
			continue
		}
		e.released = true
		dep.unkeep(e)
	}
	return out
}

// unkeep counts e as provisioned no longer.
func (d *deployment) unkeep(e *environment) {
	if i := slices.Index(d.kept, e); i >= 0 {
		d.kept = slices.Delete(d.kept, i, i+1)
	}
}

// Add takes the environment that was started because Take had none. It is busy.
func (t *Table) Add(d string, s Start) {
	t.deployments[d].startTime = s.Took
	t.environments[s.ID] = &environment{Start: s, deployment: d}
}

// Cancel says that the environment which Take had none of could not be started.
func (t *Table) Cancel(d string) { t.leave(d) }

// Get is what the start of an environment that the table has told of it.
func (t *Table) Get(id fleet.EnvironmentID) Start { return t.environments[id].Start }

// Serves reports whether an environment is one of d.
func (t *Table) Serves(id fleet.EnvironmentID, d string) bool {
	return t.environments[id].deployment == d
}

// Pass gives an idle environment to another that Take had none for and that was counted as busy.
func (t *Table) Pass(id fleet.EnvironmentID) { t.unlist(t.environments[id]) }

// Surrender forgets an idle environment. The caller must stop it.
func (t *Table) Surrender(id fleet.EnvironmentID) { t.remove(t.environments[id]) }

// Put makes a busy environment idle. If it returns false the environment is of no more use, for the reason given, and the caller must
// stop it.
func (t *Table) Put(id fleet.EnvironmentID, now time.Time) (why fleet.End, ok bool) {
	e := t.environments[id]
	dep := t.leave(e.deployment)
	switch {
	case dep.retired:
		why = fleet.Retired
	case e.ended:
		why = fleet.Crashed
	case e.released:
		why = fleet.Released
	case !e.Provisioned && !now.Before(e.Until):
		why = fleet.Aged
	default:
		t.list(dep, e, now)
		t.deployments[e.deployment] = dep
		return why, true
	}
	t.drop(dep, e)
	return why, false
}

// list makes e one of the idle ones.
func (t *Table) list(dep *deployment, e *environment, now time.Time) {
	e.idle, e.since = true, now
	if e.Provisioned {
		dep.provisioned = append(dep.provisioned, e)
		return
	}
	e.value = t.floor + worth(dep.startTime, e.MemoryMB)
	dep.idle = append(dep.idle, e)
	heap.Push(&t.ranking, e)
}

// drop forgets an environment that is not idle.
func (t *Table) drop(dep *deployment, e *environment) {
	if e.Provisioned {
		dep.unkeep(e)
	}
	delete(t.environments, e.ID)
}

// worth is what an idle environment adds to the floor while it is used: the time that another start would take, for each MB that it
// holds.
//
// This is GreedyDual-Size (Cao and Irani, Cost-Aware WWW Proxy Caching Algorithms, USENIX 1997), which FaasCache (Fuerst and Sharma,
// ASPLOS 2021) found to spare serverless functions more cold starts than ending the longest idle. Each eviction raises the floor to
// the value of what was evicted, so that what is not used falls behind what is, the faster the shorter memory is. How often a function
// is called, which FaasCache multiplies with, is told by the stack: the environments that a deployment seldom needs are used seldom.
// What the deployment's last start took stands for the next one, so whether a sandbox waited for it is in that.
func worth(startTime time.Duration, memoryMB int) float64 {
	return startTime.Seconds() / float64(max(memoryMB, 1))
}

// Drop forgets a busy environment that ended.
func (t *Table) Drop(id fleet.EnvironmentID) {
	e := t.environments[id]
	t.drop(t.leave(e.deployment), e)
}

// leave ends one busy turn, and forgets a deployment of which nothing is left.
func (t *Table) leave(d string) *deployment {
	dep := t.deployments[d]
	if dep == nil || dep.busy == 0 {
		panic("assignment: environment of " + d + " was not busy")
	}
	dep.busy--
	t.forget(d)
	return dep
}

func (t *Table) forget(d string) {
	if dep := t.deployments[d]; dep.busy == 0 && len(dep.idle)+len(dep.provisioned) == 0 {
		delete(t.deployments, d)
	}
}

// unlist takes an environment from the idle ones.
func (t *Table) unlist(e *environment) {
	e.idle = false
	dep := t.deployments[e.deployment]
	if e.Provisioned {
		dep.provisioned = without(dep.provisioned, e)
		return
	}
	dep.idle = without(dep.idle, e)
	heap.Remove(&t.ranking, e.rank)
}

// without takes e from a stack.
func without(stack []*environment, e *environment) []*environment {
	i := len(stack) - 1
	if stack[i] != e { // only what is taken for an invocation is on top, and must not cost more the more are idle
		i = slices.Index(stack, e)
	}
	return slices.Delete(stack, i, i+1)
}

// remove forgets an idle environment, and its deployment if nothing else is left of it.
func (t *Table) remove(e *environment) Start {
	t.unlist(e)
	t.drop(t.deployments[e.deployment], e)
	t.forget(e.deployment)
	return e.Start
}

// Ended takes word that an environment has ended by itself: an idle one is forgotten, and what its start told returned; a busy one will
// be refused by Put. One that the table does not know is no error.
func (t *Table) Ended(id fleet.EnvironmentID) (s Start, idle bool) {
	e := t.environments[id]
	switch {
	case e == nil:
	case e.idle:
		return t.remove(e), true
	default:
		e.ended = true
	}
	return Start{}, false
}

// Retire says that d is no longer current. It returns the idle environments, which the caller must stop; busy ones are refused
// by Put when they are done.
func (t *Table) Retire(d string) []Start {
	dep := t.deployments[d]
	if dep == nil {
		return nil
	}
	dep.retired = true
	return t.removeAll(append(slices.Clone(dep.idle), dep.provisioned...))
}

func (t *Table) removeAll(all []*environment) []Start {
	out := make([]Start, 0, len(all))
	for _, e := range all {
		out = append(out, t.remove(e))
	}
	return out
}

// Expire forgets the environments that have been idle since before cutoff, and returns them. The caller must stop them.
func (t *Table) Expire(cutoff time.Time) []Start {
	return t.removeIf(func(e *environment) bool { return e.since.Before(cutoff) })
}

// Surplus forgets the idle environments of each deployment that hold says no to, and returns them. It is asked, of one that is not
// provisioned, whether an n-th environment of a version is to be held; the one that has been idle longest is the last of a
// deployment. The caller must stop them.
func (t *Table) Surplus(hold func(v *kiln.Version, n int) bool) []Start {
	var out []Start
	for _, dep := range t.deployments {
		for len(dep.idle) > 0 && !hold(dep.idle[0].Version, dep.busy+len(dep.provisioned)+len(dep.idle)) {
			out = append(out, t.remove(dep.idle[0]))
		}
	}
	return out
}

// Busy is how many environments of d are busy, or being started.
func (t *Table) Busy(d string) int {
	if dep := t.deployments[d]; dep != nil {
		return dep.busy
	}
	return 0
}

// Has reports whether there is an environment of d, or one is being started for a call.
func (t *Table) Has(d string) bool { return t.deployments[d] != nil }

// Age forgets the idle environments that are as old as they may become, and returns them. The caller must stop them.
func (t *Table) Age(now time.Time) []Start {
	return t.removeIf(func(e *environment) bool { return !now.Before(e.Until) })
}

// removeIf forgets idle environments, the one that has been idle longest first.
func (t *Table) removeIf(of func(*environment) bool) []Start {
	var found []*environment
	for _, e := range t.ranking {
		if of(e) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *environment) int { return a.since.Compare(b.since) })
	return t.removeAll(found)
}

// Evict forgets the idle environment that is worth least, of those that may is true of, and returns what its start told; of equals,
// the one that has been idle longest. The caller must stop it.
func (t *Table) Evict(may func(s Start, since time.Time) bool) (Start, bool) {
	var least *environment
	for _, e := range t.ranking {
		if (least == nil || e.before(least)) && may(e.Start, e.since) {
			least = e
		}
	}
	if least == nil {
		return Start{}, false
	}
	t.floor = max(t.floor, least.value)
	t.remove(least)
	return least.Start, true
}

// before reports whether e is to be evicted rather than other.
func (e *environment) before(other *environment) bool {
	if e.value != other.value {
		return e.value < other.value
	}
	return e.since.Before(other.since)
}

// Idle is the number of idle environments that are not provisioned.
func (t *Table) Idle() int { return len(t.ranking) }

// ranking is a heap.Interface with the environment that is worth least at its root.
type ranking []*environment

// Len implements heap.Interface.
func (r ranking) Len() int { return len(r) }

// Less implements heap.Interface.
func (r ranking) Less(i, j int) bool { return r[i].before(r[j]) }

// Swap implements heap.Interface.
func (r ranking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].rank, r[j].rank = i, j
}

// Push implements heap.Interface.
func (r *ranking) Push(x any) {
	e := x.(*environment)
	e.rank = len(*r)
	*r = append(*r, e)
}

// Pop implements heap.Interface.
func (r *ranking) Pop() any {
	last := len(*r) - 1
	e := (*r)[last]
	(*r)[last] = nil // so that it can be freed
	*r = (*r)[:last]
	return e
}
