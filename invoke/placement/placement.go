// Package placement chooses which of several workers starts an environment, and is one fleet.Worker to those who need not know.
package placement

import (
	"context"
	"errors"
	"slices"
	"sync"

	"kiln"
	"kiln/fleet"
)

// Member is a worker that has joined.
type Member interface {
	fleet.Worker
	// Free is the memory that it has not promised, in MB, as far as is known.
	Free() int
}

// Fleet is a fleet.Worker of all workers that have joined. It is safe for concurrent use.
type Fleet struct {
	ended fleet.Ended

	mu      sync.Mutex
	members map[string]Member              // +checklocks:mu by name
	homes   map[fleet.EnvironmentID]string // +checklocks:mu whose each environment is
	// asked is the memory of the environments that each is being asked to start, which it does not know of yet.
	asked map[string]int // +checklocks:mu in MB
}

var _ fleet.Worker = (*Fleet)(nil)

// New returns a fleet without workers. ended is told of the environments of a worker that has left, and of those that Ended is.
func New(ended fleet.Ended) *Fleet {
	return &Fleet{ended: ended, members: make(map[string]Member), homes: make(map[fleet.EnvironmentID]string), asked: make(map[string]int)}
}

// Join adds a worker under a name that no other has.
func (f *Fleet) Join(name string, m Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members[name] = m
}

// Leave removes a worker that has ended, and tells of all of its environments.
func (f *Fleet) Leave(name string) {
	f.mu.Lock()
	delete(f.members, name)
	var lost []fleet.EnvironmentID
	for id, home := range f.homes {
		if home == name {
			lost = append(lost, id)
			delete(f.homes, id)
		}
	}
	f.mu.Unlock()
	for _, id := range lost {
		f.ended(id)
	}
}

// Ended is fleet.Ended for the workers.
func (f *Fleet) Ended(id fleet.EnvironmentID) {
	f.forget(id)
	f.ended(id)
}

// Members are those that have joined, by name.
func (f *Fleet) Members() map[string]Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]Member, len(f.members))
	for name, m := range f.members {
		out[name] = m
	}
	return out
}

// candidate is a worker to choose from.
type candidate struct {
	name   string
	member Member
	free   int
}

// order puts workers in the order in which they are asked: that with most free memory first, so that they fill evenly.
func order(all []candidate) []candidate {
	slices.SortFunc(all, func(a, b candidate) int {
		if a.free != b.free {
			return b.free - a.free
		}
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return all
}

// errNone is what is answered when nobody has joined.
func errNone() error {
	return kiln.Errorf(kiln.Unavailable, "No worker is there to run the function. Please try again.")
}

// Start implements fleet.Worker. A worker that is unavailable is passed over. If one has no room the error is its, since there would be
// some if others ended.
func (f *Fleet) Start(ctx context.Context, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	refusal := errNone()
	for _, c := range f.candidates() {
		id, err := f.ask(ctx, c, v, why)
		switch {
		case err == nil:
			return id, f.settle(c.name, id)
		case kiln.KindOf(err) != kiln.Unavailable:
			return "", err
		case !errors.Is(refusal, fleet.ErrNoRoom):
			refusal = err
		}
	}
	return "", refusal
}

// candidates are the workers in the order in which they are asked.
func (f *Fleet) candidates() []candidate {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []candidate
	for name, m := range f.members {
		all = append(all, candidate{name, m, m.Free() - f.asked[name]})
	}
	return order(all)
}

// ask asks a worker to start an environment.
func (f *Fleet) ask(ctx context.Context, c candidate, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	f.count(c.name, v.MemoryMB)
	defer f.count(c.name, -v.MemoryMB)
	return c.member.Start(ctx, v, why)
}

func (f *Fleet) count(name string, mb int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked[name] += mb; f.asked[name] == 0 {
		delete(f.asked, name)
	}
}

// settle notes whose an environment is.
func (f *Fleet) settle(name string, id fleet.EnvironmentID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.members[name] == nil {
		return kiln.Errorf(kiln.Unavailable, "The worker that was to run the function has ended. Please try again.")
	}
	f.homes[id] = name
	return nil
}

// home is the worker of an environment, nil if it has none any more.
func (f *Fleet) home(id fleet.EnvironmentID) Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.members[f.homes[id]]
}

func (f *Fleet) forget(id fleet.EnvironmentID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.homes, id)
}

// Invoke implements fleet.Worker.
func (f *Fleet) Invoke(ctx context.Context, id fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	m := f.home(id)
	if m == nil {
		return kiln.Result{}, false, fleet.ErrGone
	}
	res, reusable, err := m.Invoke(ctx, id, inv)
	if !reusable && !res.Unsettled {
		f.forget(id)
	}
	return res, reusable, err
}

// Settle implements fleet.Worker.
func (f *Fleet) Settle(id fleet.EnvironmentID, done func(reusable bool)) {
	m := f.home(id)
	if m == nil {
		done(false)
		return
	}
	m.Settle(id, func(reusable bool) {
		if !reusable {
			f.forget(id)
		}
		done(reusable)
	})
}

// Stop implements fleet.Worker.
func (f *Fleet) Stop(id fleet.EnvironmentID, why fleet.End) {
	m := f.home(id)
	f.forget(id)
	if m != nil {
		m.Stop(id, why)
	}
}
