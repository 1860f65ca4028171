// Package fairqueue shares something scarce between tenants, and a tenant's share between its keys, by what they hold of it over time.
//
// It is stride scheduling (Waldspurger and Weihl, Stride Scheduling: Deterministic Proportional-Share Resource Management, 1995) with
// a pass that grows while something is held, because nobody knows beforehand for how long it will be: of those who wait, whoever has
// held least is served next. Nobody gathers claims while not waiting: who comes to wait is taken to have held as much as the one who
// was served last, as in start-time fair queueing (Goyal, Vin, Cheng, 1996).
package fairqueue

import (
	"math"
	"time"
)

// Class is what kind of work waits. While both kinds do, each has its share of what is given out.
type Class uint8

// The classes.
const (
	// Foreground is work that somebody waits for.
	Foreground Class = iota
	// Background is work that can wait: a tenth of what is held is for it while Foreground waits too.
	Background
	classes
)

// weights are the shares of the classes.
var weights = [classes]float64{Foreground: 0.9, Background: 0.1}

// Flow names who holds or waits: a key of a tenant.
type Flow struct{ Tenant, Key string }

// Config bounds a Queue.
type Config struct {
	// MaxWaiting is how many may wait. A waiter too many drives out the newest of the flow that has most, which may be itself.
	MaxWaiting int
	// Quantum is how long a flow keeps to itself what it has got, and how far, by that measure, it may get ahead of another that has
	// some too. The longer it is, the less often something changes hands.
	Quantum time.Duration
	// Pause is how long after something has changed hands nothing else does because somebody is ahead; what those lack who hold
	// nothing changes hands after a newcomers' part of that.
	Pause time.Duration
	// Memory is for how long, while nobody is short of anything, what was held is remembered.
	Memory time.Duration
}

// Queue is who holds, and who waits. It decides and does nothing else: no lock, no clock. Its methods take what time it is, which
// must not go backwards.
type Queue[T any] struct {
	cfg     Config
	tenants map[string]*tenant[T]
	// shortage counts the times of shortage, begun is when this one began, and last is when something was wanted last. A ledger of
	// another shortage is blank.
	shortage int
	begun    time.Time
	last     time.Time
	// handed is when something changed hands last.
	handed time.Time
	// floor is what the tenant that was served last had held.
	floor   float64
	waiting [classes]int
	served  [classes]ledger
	// keys is how many there are, and swept how many there were after the last look for those that can be forgotten.
	keys, swept int
}

type tenant[T any] struct {
	name    string
	ledger  ledger
	keys    map[string]*key[T]
	waiting [classes]int
}

type key[T any] struct {
	flow    Flow
	tenant  *tenant[T]
	ledger  ledger
	waiters [classes][]*Waiter[T]
}

// ledger is what has been held: used unit-seconds until since, and held units from then on.
type ledger struct {
	used     float64
	held     float64
	since    time.Time
	shortage int
	// floor is, of a tenant's, what the key that was served last had used.
	floor float64
}

// Waiter is one that waits, or has been served.
type Waiter[T any] struct {
	Item  T
	Flow  Flow
	Class Class
	Since time.Time
}

// New returns an empty queue.
func New[T any](cfg Config) *Queue[T] {
	return &Queue[T]{cfg: cfg, tenants: make(map[string]*tenant[T])}
}

// newcomers is how many times as often something changes hands for those who hold nothing as for others.
const newcomers = 8

// SetPace changes Config.Quantum and Config.Pause.
func (q *Queue[T]) SetPace(quantum, pause time.Duration) { q.cfg.Quantum, q.cfg.Pause = quantum, pause }

// Hold says that f holds so many units more from now on, or fewer.
func (q *Queue[T]) Hold(now time.Time, f Flow, units float64) {
	k := q.key(now, f)
	q.settle(now, &k.ledger)
	q.settle(now, &k.tenant.ledger)
	k.ledger.held += units
	k.tenant.ledger.held += units
	q.forget(k)
}

// Held is what f holds.
func (q *Queue[T]) Held(f Flow) float64 {
	if t := q.tenants[f.Tenant]; t != nil && t.keys[f.Key] != nil {
		return t.keys[f.Key].ledger.held
	}
	return 0
}

// Short says that something is wanted of which nothing is left. What is held counts from the first time of it on.
func (q *Queue[T]) Short(now time.Time) {
	if q.shortage == 0 || q.relaxed(now) {
		q.shortage++
		q.begun, q.floor = now, 0
	}
	q.last = now
}

// relaxed reports whether nobody has been short for so long that it is forgotten what was held.
func (q *Queue[T]) relaxed(now time.Time) bool {
	return q.Waiting() == 0 && now.Sub(q.last) > q.cfg.Memory
}

// Push makes an item wait behind the others of its flow and class. It returns the waiter, and the one that was driven out because too
// many wait, nil if none was; both may be the same.
func (q *Queue[T]) Push(now time.Time, f Flow, c Class, item T) (w, out *Waiter[T]) {
	q.Short(now)
	w = &Waiter[T]{Item: item, Flow: f, Class: c, Since: now}
	k := q.key(now, f)
	q.enter(now, k)
	k.waiters[c] = append(k.waiters[c], w)
	q.count(k, c, 1)
	if q.Waiting() > q.cfg.MaxWaiting {
		out = q.longest().newest()
		q.Remove(out)
	}
	return w, out
}

// Return makes one that was served wait again, before the others of its flow and class: it could not be served after all.
func (q *Queue[T]) Return(now time.Time, w *Waiter[T]) {
	q.Short(now)
	k := q.key(now, w.Flow)
	q.enter(now, k)
	k.waiters[w.Class] = append([]*Waiter[T]{w}, k.waiters[w.Class]...)
	q.count(k, w.Class, 1)
}

// enter takes away what a key and its tenant have gathered of claims while they did not wait.
func (q *Queue[T]) enter(now time.Time, k *key[T]) {
	q.settle(now, &k.tenant.ledger)
	if k.tenant.waiting == [classes]int{} {
		k.tenant.ledger.used = max(k.tenant.ledger.used, q.floor)
	}
	q.settle(now, &k.ledger)
	if k.waits() == 0 {
		k.ledger.used = max(k.ledger.used, k.tenant.ledger.floor)
	}
}

func (k *key[T]) waits() int { return len(k.waiters[Foreground]) + len(k.waiters[Background]) }

// Remove takes a waiter out, and reports whether it waited.
func (q *Queue[T]) Remove(w *Waiter[T]) bool {
	t := q.tenants[w.Flow.Tenant]
	if t == nil || t.keys[w.Flow.Key] == nil {
		return false
	}
	k := t.keys[w.Flow.Key]
	for i, other := range k.waiters[w.Class] {
		if other == w {
			k.waiters[w.Class] = append(k.waiters[w.Class][:i], k.waiters[w.Class][i+1:]...)
			q.count(k, w.Class, -1)
			q.forget(k)
			return true
		}
	}
	return false
}

// Waiting is how many wait.
func (q *Queue[T]) Waiting() int { return q.waiting[Foreground] + q.waiting[Background] }

// Next takes out the one that is to be served next, nil if nobody waits.
func (q *Queue[T]) Next(now time.Time) *Waiter[T] {
	k, c := q.least(now)
	if k == nil {
		return nil
	}
	return q.serve(now, k, c)
}

// NextOf is Next for something of size units that f has had since got, and could use again at once, where others first have to make
// it theirs. Unless f owes it to whoever is next, it goes to one of f's, or if none waits to nobody. own reports that it does not
// change hands.
func (q *Queue[T]) NextOf(now time.Time, f Flow, units float64, got time.Time) (w *Waiter[T], own bool) {
	least, c := q.least(now)
	if least == nil {
		return nil, true
	}
	k := q.key(now, f)
	defer q.forget(k)
	if k != least && !q.owes(now, k, least, units, got) {
		if len(k.waiters[c]) == 0 {
			return nil, true
		}
		least = k
	}
	if least != k {
		q.handed = now
	}
	return q.serve(now, least, c), least == k
}

// Take takes out the oldest waiter of f in the foreground that is to have what cannot be given to another, nil if there is none.
func (q *Queue[T]) Take(now time.Time, f Flow, of func(T) bool) *Waiter[T] {
	t := q.tenants[f.Tenant]
	if t == nil || t.keys[f.Key] == nil {
		return nil
	}
	for _, w := range t.keys[f.Key].waiters[Foreground] {
		if of(w.Item) {
			q.last = now
			q.Remove(w)
			return w
		}
	}
	return nil
}

// Owes reports whether from has to hand over to another flow what it has had since got, of size units. When the other holds nothing, it has
// after a quantum, and its last one if it has had a quantum more than the other, or many where somebody holds more. Otherwise it has when it is
// ahead by more than the quantum. It never has too soon after the last time, and always when nobody has been short for long.
func (q *Queue[T]) Owes(now time.Time, from, to Flow, units float64, got time.Time) bool {
	if from == to || q.shortage == 0 || q.relaxed(now) {
		return true
	}
	kf, kt := q.key(now, from), q.key(now, to)
	owes := q.owes(now, kf, kt, units, got)
	q.forget(kf)
	q.forget(kt)
	return owes
}

func (q *Queue[T]) owes(now time.Time, from, to *key[T], units float64, got time.Time) bool {
	rested := now.Sub(q.handed)
	lead, ahead := q.lead(now, from, to), 2*units*q.cfg.Quantum.Seconds() // one of them for holding one more
	if to.ledger.held > 0 {
		return lead > ahead && rested >= q.cfg.Pause
	}
	if now.Sub(got) < q.cfg.Quantum || rested < q.cfg.Pause/newcomers {
		return false
	}
	switch {
	case from.ledger.held > units:
		return true
	case q.holdsMore(units):
		return lead >= patience*ahead // another has more than its last one, and will give up one of them soon
	}
	return lead >= ahead
}

// patience is how many times as far who has only one must be ahead of who has none, where others have more.
const patience = 8

// holdsMore reports whether a flow holds more than units.
func (q *Queue[T]) holdsMore(units float64) bool {
	for _, t := range q.tenants {
		for _, k := range t.keys {
			if k.ledger.held > units {
				return true
			}
		}
	}
	return false
}

// lead is how far a is ahead of b: their tenants, if those differ.
func (q *Queue[T]) lead(now time.Time, a, b *key[T]) float64 {
	if a.tenant != b.tenant {
		return q.pass(now, &a.tenant.ledger) - q.pass(now, &b.tenant.ledger)
	}
	return q.pass(now, &a.ledger) - q.pass(now, &b.ledger)
}

// pass is what will have been used when another quantum is over. By what was used alone everything would go to whoever has used
// least, until that shows, and back again.
func (q *Queue[T]) pass(now time.Time, l *ledger) float64 {
	return q.settle(now, l) + l.held*q.cfg.Quantum.Seconds()
}

// Serving says that something of size units serves class c from now on, or if units is negative no more.
func (q *Queue[T]) Serving(now time.Time, c Class, units float64) {
	q.settle(now, &q.served[c])
	q.served[c].held += units
}

// least is the key that is to be served, and in which class.
func (q *Queue[T]) least(now time.Time) (*key[T], Class) {
	if q.Waiting() == 0 {
		return nil, 0
	}
	c := q.class(now)
	var t *tenant[T]
	for _, other := range q.tenants {
		if other.waiting[c] > 0 && (t == nil || q.before(now, &other.ledger, &t.ledger, other.name < t.name)) {
			t = other
		}
	}
	var k *key[T]
	for _, other := range t.keys {
		if len(other.waiters[c]) > 0 && (k == nil || q.before(now, &other.ledger, &k.ledger, other.flow.Key < k.flow.Key)) {
			k = other
		}
	}
	return k, c
}

// before orders ledgers by their pass. tie decides between equals.
func (q *Queue[T]) before(now time.Time, a, b *ledger, tie bool) bool {
	x, y := q.pass(now, a), q.pass(now, b)
	return x < y || x == y && tie
}

// class is the class that is to be served.
func (q *Queue[T]) class(now time.Time) Class {
	switch {
	case q.waiting[Background] == 0:
		return Foreground
	case q.waiting[Foreground] == 0:
		return Background
	}
	used := func(c Class) float64 { return q.settle(now, &q.served[c]) / weights[c] }
	if used(Background) < used(Foreground) {
		return Background
	}
	return Foreground
}

// serve takes the oldest waiter of a key out.
func (q *Queue[T]) serve(now time.Time, k *key[T], c Class) *Waiter[T] {
	q.last = now
	q.floor = max(q.floor, q.settle(now, &k.tenant.ledger))
	k.tenant.ledger.floor = max(k.tenant.ledger.floor, q.settle(now, &k.ledger))
	w := k.waiters[c][0]
	k.waiters[c][0] = nil
	k.waiters[c] = k.waiters[c][1:]
	q.count(k, c, -1)
	q.forget(k)
	return w
}

// settle brings a ledger up to now, and returns what was used.
func (q *Queue[T]) settle(now time.Time, l *ledger) float64 {
	if l.shortage != q.shortage {
		*l = ledger{held: l.held, since: q.begun, shortage: q.shortage}
	}
	l.used += l.held * max(0, now.Sub(l.since).Seconds())
	l.since = now
	return l.used
}

func (q *Queue[T]) count(k *key[T], c Class, n int) {
	q.waiting[c] += n
	k.tenant.waiting[c] += n
}

// key returns the key of a flow, a new one if there is none.
func (q *Queue[T]) key(now time.Time, f Flow) *key[T] {
	t := q.tenants[f.Tenant]
	if t == nil {
		t = &tenant[T]{name: f.Tenant, keys: make(map[string]*key[T]), ledger: ledger{used: q.floor, since: now, shortage: q.shortage}}
		q.tenants[f.Tenant] = t
	}
	k := t.keys[f.Key]
	if k == nil {
		q.settle(now, &t.ledger)
		k = &key[T]{flow: f, tenant: t, ledger: ledger{used: t.ledger.floor, since: now, shortage: q.shortage}}
		t.keys[f.Key] = k
		q.keys++
	}
	return k
}

// forget drops a key that neither holds nor waits, unless it is ahead of where it would begin anew.
func (q *Queue[T]) forget(k *key[T]) {
	if k.ledger.held == 0 && k.waits() == 0 && k.ledger.used <= k.tenant.ledger.floor {
		q.drop(k)
	}
	if q.keys > 2*q.swept+q.cfg.MaxWaiting {
		q.sweep()
	}
}

// sweep forgets all keys that neither hold nor wait. Those that it does wrong are few: who has waited and held since the last sweep.
func (q *Queue[T]) sweep() {
	for _, t := range q.tenants {
		for _, k := range t.keys {
			if k.ledger.held == 0 && k.waits() == 0 {
				q.drop(k)
			}
		}
	}
	q.swept = q.keys
}

func (q *Queue[T]) drop(k *key[T]) {
	t := k.tenant
	if t.keys[k.flow.Key] != k {
		return
	}
	delete(t.keys, k.flow.Key)
	q.keys--
	if len(t.keys) == 0 {
		delete(q.tenants, t.name)
	}
}

// longest is the key that most wait of, in the tenant that most wait of.
func (q *Queue[T]) longest() *key[T] {
	var t *tenant[T]
	most := math.MinInt
	for _, other := range q.tenants {
		if n := other.waiting[Foreground] + other.waiting[Background]; n > most {
			t, most = other, n
		}
	}
	var k *key[T]
	most = math.MinInt
	for _, other := range t.keys {
		if n := other.waits(); n > most {
			k, most = other, n
		}
	}
	return k
}

// newest is the waiter of the key that came last, of the background if there is one.
func (k *key[T]) newest() *Waiter[T] {
	c := Foreground
	if len(k.waiters[Background]) > 0 {
		c = Background
	}
	return k.waiters[c][len(k.waiters[c])-1]
}
