package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"kiln"
	"kiln/catalog"
)

// object is a deployment package, or the content of a layer, in the blob store.
type object struct {
	account kiln.AccountID
	digest  kiln.Digest
}

// entry is what the inventory knows of the record of a function, a version, a layer or a layer version.
type entry struct {
	revision catalog.Revision
	account  kiln.AccountID
	// codes are what the record refers to: its own code and, of a function or a version, that of its layers, which may be other
	// accounts'.
	codes []object
	// size is what the record counts for in its account: the length of its own code.
	size int64
	// function is the kiln.Function.ID that the record of a function or a version belongs to.
	function string
	// deleted says that the record is gone. Such an entry stays until shown says that the watch knows it too, so that what the
	// watch shows of the time before does not bring the record back.
	deleted, shown bool
}

// inventory counts what refers to which code, and who uses how much. It learns of a record from the commit of this process that
// wrote it and from the watch, in any order: the newest revision counts.
//
// It decides what code may be deleted. The invariant is: a record of the store that refers to code is counted, or its writer
// holds the code; and code is deleted only while it is marked as going, which it becomes only while neither is so. For that, a
// writer takes a hold before it stores code and another before it commits a record that refers to code, and gives the latter
// back when the record is counted or when it is certain that the commit did not happen. A hold is not granted while the code
// is going. A writer that cannot tell whether its commit happened never gives its hold back; the next process starts without
// it, and counts anew.
//
// This serves one process that writes. Two on one store would have to share their holds.
type inventory struct {
	mu         sync.Mutex
	entries    map[catalog.Key]entry    // +checklocks:mu
	references map[object]int           // +checklocks:mu
	usages     map[kiln.AccountID]usage // +checklocks:mu
	holds      map[object]int           // +checklocks:mu
	// claims is how much code is being committed in addition to what is counted, in bytes.
	claims map[kiln.AccountID]int64 // +checklocks:mu
	// writers counts those that are committing a record: until they are done, an entry of its deletion stays.
	writers map[catalog.Key]int // +checklocks:mu
	// going holds code that is being deleted, with a channel that is closed when that is over.
	going map[object]chan struct{} // +checklocks:mu
	// synced is closed when the watch has shown everything.
	synced chan struct{} // +checklocks:mu
	// blind says that a record could not be read, so that nobody knows what it refers to.
	blind bool // +checklocks:mu
}

// usage is what an account uses: AccountUsage of GetAccountSettings.
type usage struct {
	functions int64
	bytes     int64
}

func newInventory() *inventory {
	n := &inventory{
		holds: make(map[object]int), claims: make(map[kiln.AccountID]int64),
		writers: make(map[catalog.Key]int), going: make(map[object]chan struct{}),
	}
	n.restart()
	return n
}

// restart forgets what was counted, for a watch that begins anew.
func (n *inventory) restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entries, n.references, n.usages = make(map[catalog.Key]entry), make(map[object]int), make(map[kiln.AccountID]usage)
	n.synced, n.blind = make(chan struct{}), false
}

// sync says that the watch has shown everything.
func (n *inventory) sync() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.synced)
}

// show counts what the watch shows of a record, and returns the code that nothing refers to any more.
func (n *inventory) show(k catalog.Key, e entry) []object {
	n.mu.Lock()
	defer n.mu.Unlock()
	e.shown = true
	return n.apply(k, e)
}

// apply counts e unless something newer is known of its record, and returns the code that nothing refers to any more.
//
// +checklocks:n.mu
func (n *inventory) apply(k catalog.Key, e entry) []object {
	old, known := n.entries[k]
	switch {
	case known && e.revision < old.revision:
		n.prune(k)
		return nil
	case known && e.revision == old.revision:
		old.shown = old.shown || e.shown
		n.entries[k] = old
		n.prune(k)
		return nil
	}
	n.entries[k] = e
	n.count(k, e, +1)
	n.count(k, old, -1)
	n.prune(k)
	return n.unused(old.codes)
}

// prune lets go of the entry of a deleted record that nothing can bring back.
//
// +checklocks:n.mu
func (n *inventory) prune(k catalog.Key) {
	if e := n.entries[k]; e.deleted && e.shown && n.writers[k] == 0 {
		delete(n.entries, k)
	}
}

// +checklocks:n.mu
func (n *inventory) count(k catalog.Key, e entry, by int) {
	for _, c := range e.codes {
		n.references[c] += by
		if n.references[c] == 0 {
			delete(n.references, c)
		}
	}
	u := n.usages[e.account]
	u.bytes += int64(by) * e.size
	if isFunctionKey(k) && len(e.codes) > 0 {
		u.functions += int64(by)
	}
	n.usages[e.account] = u
	if u == (usage{}) {
		delete(n.usages, e.account)
	}
}

// unused returns those of codes that nothing refers to.
//
// +checklocks:n.mu
func (n *inventory) unused(codes []object) []object {
	var found []object
	for _, c := range codes {
		if n.isUnused(c) {
			found = append(found, c)
		}
	}
	return found
}

// +checklocks:n.mu
func (n *inventory) isUnused(code object) bool { return n.references[code] == 0 && n.holds[code] == 0 }

// hold keeps code from being deleted, whether it is stored or not, until release. It waits while the code is going.
func (n *inventory) hold(ctx context.Context, code object) error {
	for {
		going := n.tryHold(code)
		if going == nil {
			return nil
		}
		select {
		case <-going:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *inventory) tryHold(code object) (going <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ch, ok := n.going[code]; ok {
		return ch
	}
	n.holds[code]++
	return nil
}

// release ends a hold, and returns the code if nothing refers to it any more.
func (n *inventory) release(code object) []object {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holds[code]--
	if n.holds[code] == 0 {
		delete(n.holds, code)
	}
	return n.unused([]object{code})
}

// claim is room for code in an account.
type claim struct {
	account kiln.AccountID
	bytes   int64
}

// claim takes the room that writes, which are of one account, need in addition to what is counted. It returns false, and takes
// nothing, if there is not so much within maxTotalCode. What needs no more room is always granted.
func (n *inventory) claim(writes []write) (claim, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var c claim
	for _, w := range writes {
		if w.value != nil {
			c.account = w.refers.account
			c.bytes += max(0, w.refers.size-n.entries[w.key].size)
		}
	}
	if c.bytes > 0 && n.usages[c.account].bytes+n.claims[c.account]+c.bytes > maxTotalCode {
		return claim{}, false
	}
	n.claims[c.account] += c.bytes
	return c, true
}

// unclaim gives room back, once what it was for is counted or was not written.
func (n *inventory) unclaim(c claim) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.claims[c.account] -= c.bytes
	if n.claims[c.account] == 0 {
		delete(n.claims, c.account)
	}
}

// enter says that somebody is about to commit the record under k.
func (n *inventory) enter(k catalog.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writers[k]++
}

// leave says that the record under k was committed as e, or not at all if e is nil. It returns the code that nothing refers to any
// more.
func (n *inventory) leave(k catalog.Key, e *entry) []object {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writers[k]--
	if n.writers[k] == 0 {
		delete(n.writers, k)
	}
	if e == nil {
		n.prune(k)
		return nil
	}
	return n.apply(k, *e)
}

// unusedOf returns those of codes that nothing refers to.
func (n *inventory) unusedOf(codes ...object) []object {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unused(codes)
}

// take marks code as going. It returns false, and marks nothing, if something refers to it or may.
func (n *inventory) take(code object) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.going[code]; ok || !isClosed(n.synced) || n.blind || !n.isUnused(code) {
		return false
	}
	n.going[code] = make(chan struct{})
	return true
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// gone ends what take began.
func (n *inventory) gone(code object) {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.going[code])
	delete(n.going, code)
}

// obscure says that a record cannot be read: no code is deleted until the store has been read anew.
func (n *inventory) obscure() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blind = true
}

// usage returns what an account uses. It waits until that is known.
func (n *inventory) usage(ctx context.Context, a kiln.AccountID) (usage, error) {
	n.mu.Lock()
	synced := n.synced
	n.mu.Unlock()
	select {
	case <-synced:
	case <-ctx.Done():
		return usage{}, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.usages[a], nil
}

// bytes returns how much code an account has stored, as far as it is known.
func (n *inventory) bytes(a kiln.AccountID) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.usages[a].bytes
}

// orphan is what a deleted function has left: the versions of the function with that ID.
type orphan struct {
	account  kiln.AccountID
	name     kiln.FunctionName
	function string
}

// orphans returns what was left by functions that are gone.
func (n *inventory) orphans() map[orphan]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := make(map[orphan]bool)
	for k, e := range n.entries {
		if kindOf(k) != versionKind || e.deleted {
			continue
		}
		o := orphan{e.account, nameOf(k), e.function}
		if n.entries[catalog.FunctionKey(o.account, o.name)].function != o.function {
			found[o] = true
		}
	}
	return found
}

// The kinds of record that the inventory counts, as the catalog's keys spell them.
const (
	functionKind     = "function"
	versionKind      = "version"
	layerKind        = "layer"
	layerVersionKind = "layerversion"
)

func isCounted(k catalog.Key) bool {
	switch kindOf(k) {
	case functionKind, versionKind, layerKind, layerVersionKind:
		return true
	}
	return false
}

func kindOf(k catalog.Key) string { return strings.Split(string(k), "/")[1] }

func isFunctionKey(k catalog.Key) bool { return kindOf(k) == functionKind }

// functionIDOf returns the kiln.Function.ID in a version's key.
func functionIDOf(k catalog.Key) string { return strings.Split(string(k), "/")[3] }

func nameOf(k catalog.Key) kiln.FunctionName {
	return kiln.FunctionName(strings.Split(string(k), "/")[2])
}

// read returns the version that a record holds, nil if it holds none, and its entry.
func read(r catalog.Record) (*kiln.Version, entry, error) {
	switch kindOf(r.Key) {
	case functionKind:
		var f kiln.Function
		if err := json.Unmarshal(r.Value, &f); err != nil {
			return nil, entry{}, fmt.Errorf("read function: %w", err)
		}
		return &f.Latest, entryOf(&f.Latest, f.ID).at(r.Revision), nil
	case versionKind:
		var v kiln.Version
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return nil, entry{}, fmt.Errorf("read version: %w", err)
		}
		return &v, entryOf(&v, functionIDOf(r.Key)).at(r.Revision), nil
	case layerVersionKind:
		var v kiln.LayerVersion
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return nil, entry{}, fmt.Errorf("read layer version: %w", err)
		}
		return nil, layerEntryOf(&v.Layer).at(r.Revision), nil
	}
	return nil, entry{revision: r.Revision}, nil
}

func entryOf(v *kiln.Version, function string) entry {
	e := entry{account: v.Account, codes: []object{{v.Account, v.Code.Digest}}, size: v.Code.Size, function: function}
	for i := range v.Layers {
		e.codes = append(e.codes, contentOf(&v.Layers[i]))
	}
	return e
}

func layerEntryOf(l *kiln.Layer) entry {
	return entry{account: l.Account, codes: []object{contentOf(l)}, size: l.Code.Size}
}

func contentOf(l *kiln.Layer) object { return object{l.Account, l.Code.Digest} }

func (e entry) at(revision catalog.Revision) entry {
	e.revision = revision
	return e
}
