package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"kiln"
	"kiln/catalog/ref"
)

// ViewConfig says what a View shows and to whom it tells changes.
type ViewConfig struct {
	Store Source
	// Region appears in the ARNs of errors.
	Region kiln.Region
	// Retired is called with each deployment that is no longer current, because its function was changed or deleted or its
	// version deleted. It is called by Run, one call at a time, and must not block: meanwhile the View gets no newer. Nil means
	// nobody asks.
	Retired func(deployment string)
	// Current is called with each version that has become current, those that were when Run began among them, as Retired is.
	Current func(*kiln.Version)
	// Draw returns random numbers, evenly distributed from 0 to but not including 1, by which aliases with weights choose a version. It
	// is called by many goroutines. Nil means those of math/rand.
	Draw func() float64
	// Reserved is called with the concurrency that is reserved for a function, nil if none is any more, when that has changed, as
	// Retired is.
	Reserved func(a kiln.AccountID, f kiln.FunctionName, places *int)
	// Provisioned is called with all that is provisioned for a function when that has changed, as Retired is.
	Provisioned func(a kiln.AccountID, f kiln.FunctionName, all []Provision)
	// Log gets records that cannot be read. Nil means nobody asks.
	Log *slog.Logger
}

// View is the data plane's memory of the catalog: every version that can be invoked, and every access key. It keeps answering
// from what it has when the store is gone. It is safe for concurrent use, and empty until Run has filled it.
type View struct {
	cfg    ViewConfig
	synced chan struct{}
	once   sync.Once // closes synced
	// provisions are what Provisioned was told last. Run owns it.
	provisions map[functionID][]Provision

	mu   sync.RWMutex
	live *index // +checklocks:mu
	// newer is closed and replaced when live has changed.
	newer chan struct{} // +checklocks:mu
}

// NewView returns an empty View. Run fills it.
func NewView(cfg ViewConfig) *View {
	if cfg.Retired == nil {
		cfg.Retired = func(string) {}
	}
	if cfg.Current == nil {
		cfg.Current = func(*kiln.Version) {}
	}
	if cfg.Draw == nil {
		cfg.Draw = rand.Float64
	}
	if cfg.Reserved == nil {
		cfg.Reserved = func(kiln.AccountID, kiln.FunctionName, *int) {}
	}
	if cfg.Provisioned == nil {
		cfg.Provisioned = func(kiln.AccountID, kiln.FunctionName, []Provision) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &View{cfg: cfg, synced: make(chan struct{}), live: newIndex(), newer: make(chan struct{}), provisions: make(map[functionID][]Provision)}
}

// Synced is closed when the View has everything that was stored when Run began.
func (v *View) Synced() <-chan struct{} { return v.synced }

// Run keeps the View up to date until ctx ends or the store fails, and returns why. It may be run again: meanwhile, and until the
// new run has read everything, the View answers as before.
func (v *View) Run(ctx context.Context) error {
	fresh := newIndex()
	err := v.cfg.Store.Watch(ctx, "", func(e Event) error {
		switch {
		case e.Synced:
			v.replace(fresh)
			fresh = nil
		case fresh != nil:
			v.report(e, fresh.apply(e).err)
		default:
			v.update(e)
		}
		return nil
	})
	return fmt.Errorf("watch the catalog: %w", err)
}

// replace makes fresh what the View answers from.
func (v *View) replace(fresh *index) {
	v.mu.Lock()
	old := v.live
	v.live = fresh
	v.changed()
	v.mu.Unlock()
	v.tellReserved(old, fresh)
	for id := range v.provisions {
		v.tellProvisions(id)
	}
	for id, f := range fresh.functions {
		if len(f.provisioned) > 0 {
			v.tellProvisions(id)
		}
	}
	v.once.Do(func() { close(v.synced) })
	before, current := make(map[string]bool), make(map[string]bool)
	for version := range old.all() {
		before[version.Deployment] = true
	}
	for version := range fresh.all() {
		current[version.Deployment] = true
		if !before[version.Deployment] {
			v.cfg.Current(version)
		}
	}
	for d := range before {
		if !current[d] {
			v.cfg.Retired(d)
		}
	}
}

// tellReserved tells what is reserved in fresh otherwise than in old. What ends comes first, so that never more is reserved than may be.
func (v *View) tellReserved(old, fresh *index) {
	for id, f := range old.functions {
		if f.reserved != nil && fresh.functions[id].reserved == nil {
			v.cfg.Reserved(id.account, id.name, nil)
		}
	}
	for id, f := range fresh.functions {
		if f.reserved != nil && !same(old.functions[id].reserved, f.reserved) {
			v.cfg.Reserved(id.account, id.name, f.reserved)
		}
	}
}

// tellProvisions tells what is provisioned for a function if that is new.
func (v *View) tellProvisions(id functionID) {
	v.mu.RLock()
	all := v.live.provisions(id)
	v.mu.RUnlock()
	if sameProvisions(all, v.provisions[id]) {
		return
	}
	if v.provisions[id] = all; len(all) == 0 {
		delete(v.provisions, id)
	}
	v.cfg.Provisioned(id.account, id.name, all)
}

func same(a, b *int) bool { return a == b || a != nil && b != nil && *a == *b }

func (v *View) update(e Event) {
	v.mu.Lock()
	c := v.live.apply(e)
	v.changed()
	v.mu.Unlock()
	v.report(e, c.err)
	if r := c.reserved; r != nil {
		v.cfg.Reserved(r.function.account, r.function.name, r.places)
	}
	if id, ok := functionOf(e.Key); ok {
		v.tellProvisions(id)
	}
	if c.retired != "" {
		v.cfg.Retired(c.retired)
	}
	if c.current != nil {
		v.cfg.Current(c.current)
	}
}

// report logs a record that cannot be read. The View goes on without it: one broken record must not cost everybody the rest.
func (v *View) report(e Event, err error) {
	if err != nil {
		v.cfg.Log.Error("unreadable record in the catalog", "key", e.Key, "err", err)
	}
}

// changed tells who waits.
//
// +checklocks:v.mu
func (v *View) changed() {
	close(v.newer)
	v.newer = make(chan struct{})
}

// catchUpTime bounds CatchUp. The watch is milliseconds behind the store, if it is not broken.
const catchUpTime = time.Second

// CatchUp waits until the View has what is stored of a function now, as somebody must who was told of a change by the store and then
// finds nothing of it here. It asks the store; without that, or in a second, it gives up.
func (v *View) CatchUp(ctx context.Context, a kiln.AccountID, f kiln.FunctionName) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	stored, err := v.cfg.Store.Get(ctx, FunctionKey(a, f))
	if err != nil {
		return
	}
	for {
		v.mu.RLock()
		has, newer := v.live.functions[functionID{a, f}].revision, v.newer
		v.mu.RUnlock()
		if has >= stored.Revision {
			return
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return
		}
	}
}

// Resolve returns the version that q selects of a function; an empty q means LatestVersion, and an alias with weights selects one at
// random. The version is shared: nobody may change it, and it lacks its Description, which nothing that runs it needs. The error is AWS's
// ResourceNotFound.
func (v *View) Resolve(a kiln.AccountID, f kiln.FunctionName, q kiln.Qualifier) (*kiln.Version, error) {
	q = cmp.Or(q, kiln.LatestVersion)
	v.mu.RLock()
	found := v.live.resolve(functionID{a, f}, q, v.cfg.Draw)
	v.mu.RUnlock()
	if found == nil {
		return nil, ref.Ref{Account: a, Name: f, Qualifier: q}.NotFound(v.cfg.Region)
	}
	return found, nil
}

// Policy returns the policy of what q names of a function. It is shared: nobody may change it.
func (v *View) Policy(a kiln.AccountID, f kiln.FunctionName, q kiln.Qualifier) kiln.Policy {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return kiln.PolicyOf(v.live.functions[functionID{a, f}].policies, q)
}

// MayLoop reports whether a function may be invoked by itself for ever.
func (v *View) MayLoop(a kiln.AccountID, f kiln.FunctionName) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.live.functions[functionID{a, f}].mayLoop
}

// AccessKey returns the access key of that ID.
func (v *View) AccessKey(id string) (AccessKey, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	k, ok := v.live.accessKeys[id]
	return k, ok
}

// index holds the records that a View answers from. A version appears whether its function is known or not, for records arrive
// in any order; it resolves only through its function.
type index struct {
	functions  map[functionID]function
	versions   map[Key]*kiln.Version
	accessKeys map[string]AccessKey
}

type functionID struct {
	account kiln.AccountID
	name    kiln.FunctionName
}

type function struct {
	id          string
	latest      *kiln.Version
	revision    Revision
	aliases     map[kiln.AliasName]kiln.Alias
	reserved    *int
	provisioned map[kiln.Qualifier]kiln.Provisioned
	policies    map[kiln.Qualifier]kiln.Policy
	mayLoop     bool
}

// functionOf is the function of which k has the record, or a version.
func functionOf(k Key) (functionID, bool) {
	account, rest, _ := strings.Cut(string(k), "/")
	kind, name, _ := strings.Cut(rest, "/")
	name, _, _ = strings.Cut(name, "/")
	return functionID{kiln.AccountID(account), kiln.FunctionName(name)}, kind == "function" || kind == "version"
}

func newIndex() *index {
	return &index{
		functions:  make(map[functionID]function),
		versions:   make(map[Key]*kiln.Version),
		accessKeys: make(map[string]AccessKey),
	}
}

// change is what applying an event did: the deployment that it made obsolete, "" if none, the version that it made current, nil if
// none, or why the record cannot be read.
type change struct {
	retired string
	current *kiln.Version
	// reserved is what is reserved for a function otherwise than before, nil if nothing is.
	reserved *reservation
	err      error
}

type reservation struct {
	function functionID
	places   *int
}

func (x *index) apply(e Event) change {
	account, rest, _ := strings.Cut(string(e.Key), "/")
	kind, name, _ := strings.Cut(rest, "/")
	switch kind {
	case "function":
		return x.applyFunction(functionID{kiln.AccountID(account), kiln.FunctionName(name)}, e.Revision, e.Value)
	case "version":
		return x.applyVersion(e.Key, e.Value)
	case "accesskey":
		return x.applyAccessKey(AccessKey{ID: name, Account: kiln.AccountID(account)}, e.Value)
	}
	return change{}
}

func (x *index) applyFunction(id functionID, revision Revision, value []byte) change {
	old := x.functions[id]
	if value == nil {
		delete(x.functions, id)
		return superseded(old.latest, nil).reserving(id, old.reserved, nil)
	}
	var f kiln.Function
	if err := json.Unmarshal(value, &f); err != nil {
		return change{err: err}
	}
	latest := compact(f.Latest)
	x.functions[functionID{latest.Account, latest.Function}] = function{
		f.ID, latest, revision, withoutDescriptions(f.Aliases), f.Reserved, f.Provisioned, f.Policies, f.MayLoop,
	}
	return superseded(old.latest, latest).reserving(id, old.reserved, f.Reserved)
}

func (x *index) applyVersion(k Key, value []byte) change {
	old := x.versions[k]
	if value == nil {
		delete(x.versions, k)
		return superseded(old, nil)
	}
	var v kiln.Version
	if err := json.Unmarshal(value, &v); err != nil {
		return change{err: err}
	}
	x.versions[k] = compact(v)
	return superseded(old, x.versions[k])
}

func (x *index) applyAccessKey(owner AccessKey, value []byte) change {
	if value == nil {
		delete(x.accessKeys, owner.ID)
		return change{}
	}
	k := AccessKey{}
	if err := json.Unmarshal(value, &k); err != nil {
		return change{err: err}
	}
	if k.ID != owner.ID || k.Account != owner.Account {
		return change{err: fmt.Errorf("access key of account %q under the name of another", k.Account)}
	}
	x.accessKeys[k.ID] = k
	return change{}
}

// superseded is the change from a version to another; nil is none.
func superseded(old, current *kiln.Version) change {
	switch {
	case old != nil && current != nil && current.Deployment == old.Deployment:
		return change{}
	case old == nil:
		return change{current: current}
	default:
		return change{retired: old.Deployment, current: current}
	}
}

// reserving adds to c what is reserved for a function if that has changed.
func (c change) reserving(id functionID, old, places *int) change {
	if !same(old, places) {
		c.reserved = &reservation{id, places}
	}
	return c
}

func (x *index) resolve(id functionID, q kiln.Qualifier, draw func() float64) *kiln.Version {
	f, ok := x.functions[id]
	if a, named := f.aliases[kiln.AliasName(q)]; named {
		q = a.Version
		if len(a.Weights) > 0 {
			q = a.Choose(draw())
		}
	}
	if !ok || q == kiln.LatestVersion {
		return f.latest
	}
	n, ok := ref.Number(q)
	if !ok {
		return nil
	}
	return x.versions[VersionKey(id.account, id.name, f.id, n)]
}

// withoutDescriptions takes from aliases what the data plane does not need.
func withoutDescriptions(aliases map[kiln.AliasName]kiln.Alias) map[kiln.AliasName]kiln.Alias {
	for name, a := range aliases {
		a.Description, a.RevisionID = "", ""
		aliases[name] = a
	}
	return aliases
}

// all yields every version.
func (x *index) all() iter.Seq[*kiln.Version] {
	return func(yield func(*kiln.Version) bool) {
		for _, f := range x.functions {
			if !yield(f.latest) {
				return
			}
		}
		for _, v := range x.versions {
			if !yield(v) {
				return
			}
		}
	}
}

// compact returns v without what the data plane does not need.
func compact(v kiln.Version) *kiln.Version {
	v.Description = ""
	return &v
}
