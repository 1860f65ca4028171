package assignment

import (
	"time"

	"kiln/fleet"
)

// Table remembers which environments are idle and how many are busy, by deployment. It decides and does nothing else: no lock,
// no clock, no I/O.
type Table struct {
	deployments map[string]*deployment
}

type deployment struct {
	// idle is a stack: the newest is taken first, so that what a burst needed grows old and ends.
	idle    []idle
	busy    int
	retired bool
}

type idle struct {
	id    fleet.EnvironmentID
	since time.Time
}

// NewTable returns an empty table.
func NewTable() *Table { return &Table{deployments: make(map[string]*deployment)} }

// Take returns the environment of d that became idle last, and counts it as busy. If there is none, ok is false and the caller
// is counted as busy all the same: it will start one, and must call Put or Drop in the end.
func (t *Table) Take(d string) (id fleet.EnvironmentID, ok bool) {
	dep := t.deployments[d]
	if dep == nil {
		dep = &deployment{}
		t.deployments[d] = dep
	}
	dep.busy++
	last := len(dep.idle) - 1
	if last < 0 {
		return "", false
	}
	id = dep.idle[last].id
	dep.idle = dep.idle[:last]
	return id, true
}

// Put makes a busy environment idle. If it returns false the deployment was retired and the caller must stop the environment.
func (t *Table) Put(d string, id fleet.EnvironmentID, now time.Time) bool {
	dep := t.leave(d)
	if dep.retired {
		return false
	}
	dep.idle = append(dep.idle, idle{id, now})
	t.deployments[d] = dep
	return true
}

// Drop forgets a busy environment that ended.
func (t *Table) Drop(d string) { t.leave(d) }

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
	if dep := t.deployments[d]; dep.busy == 0 && len(dep.idle) == 0 {
		delete(t.deployments, d)
	}
}

// Retire says that d is no longer current. It returns the idle environments, which the caller must stop; busy ones are refused
// by Put when they are done.
func (t *Table) Retire(d string) []fleet.EnvironmentID {
	dep := t.deployments[d]
	if dep == nil {
		return nil
	}
	dep.retired = true
	out := make([]fleet.EnvironmentID, 0, len(dep.idle))
	for _, i := range dep.idle {
		out = append(out, i.id)
	}
	dep.idle = nil
	t.forget(d)
	return out
}

// Expire returns the environments that have been idle since before cutoff, and forgets them. The caller must stop them.
func (t *Table) Expire(cutoff time.Time) []fleet.EnvironmentID {
	var out []fleet.EnvironmentID
	for d, dep := range t.deployments {
		n := 0
		for n < len(dep.idle) && dep.idle[n].since.Before(cutoff) {
			out = append(out, dep.idle[n].id)
			n++
		}
		dep.idle = dep.idle[n:]
		t.forget(d)
	}
	return out
}

// Evict forgets the environment that has been idle longest of all and returns it. The caller must stop it.
func (t *Table) Evict() (fleet.EnvironmentID, bool) {
	var oldest *deployment
	var name string
	for d, dep := range t.deployments {
		if len(dep.idle) > 0 && (oldest == nil || dep.idle[0].since.Before(oldest.idle[0].since)) {
			oldest, name = dep, d
		}
	}
	if oldest == nil {
		return "", false
	}
	id := oldest.idle[0].id
	oldest.idle = oldest.idle[1:]
	t.forget(name)
	return id, true
}

// Idle is the number of idle environments.
func (t *Table) Idle() int {
	n := 0
	for _, dep := range t.deployments {
		n += len(dep.idle)
	}
	return n
}
