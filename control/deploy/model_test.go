package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

// model is what a function's versions and aliases are to be.
type model struct {
	// latest is the content of $LATEST, and versions are those of the published ones.
	latest   int
	versions map[int]int
	last     int
	aliases  map[string]modelAlias
	// revisions are those that an alias has had, the last being its own.
	revisions map[string][]string
}

type modelAlias struct{ version, other int }

func (m *model) names(v int) bool {
	for _, a := range m.aliases {
		if a.version == v || a.other == v {
			return true
		}
	}
	return false
}

// has reports whether an alias may name a and b, where 0 is no version.
func (m *model) has(a, b int) bool {
	_, okA := m.versions[a]
	_, okB := m.versions[b]
	return okA && a != b && (b == 0 || okB)
}

// TestVersionsAndAliasesAreThoseOfAModel makes operations in any order on functions and on a small model of them.
func TestVersionsAndAliasesAreThoseOfAModel(t *testing.T) {
	n := newModelNode(t)
	functions := 0
	rapid.Check(t, func(rt *rapid.T) {
		functions++
		run := &modelRun{T: rt, node: n, name: fmt.Sprint("f", functions), model: model{
			versions: map[int]int{}, aliases: map[string]modelAlias{}, revisions: map[string][]string{},
		}}
		_ = must(n.create(run.name, func(in *api.CreateFunctionRequest) { in.Description = new("0") }))
		run.settle()
		rt.Repeat(map[string]func(*rapid.T){
			"": run.check, "change": run.change, "publish": run.publish, "delete version": run.deleteVersion,
			"create alias": run.createAlias, "update alias": run.updateAlias, "delete alias": run.deleteAlias,
		})
		if err := n.delete(run.name, ""); err != nil {
			rt.Fatal(err)
		}
	})
}

// newModelNode returns a node that nothing goes on in beside the operations.
func newModelNode(t *testing.T) *node {
	store, blobs := catalogtest.NewMemory(), newMemoryBlobs()
	return &node{T: t, store: store, blobs: blobs, service: newService(store, blobs)}
}

// settleOf lets a function leave Pending and InProgress.
func (n *node) settleOf(name string) {
	if err := n.service.settle(n.Context(), catalog.FunctionKey(account, kiln.FunctionName(name))); err != nil {
		n.Fatal(err)
	}
}

type modelRun struct {
	*rapid.T
	node  *node
	name  string
	model model
}

func (r *modelRun) settle() { r.node.settleOf(r.name) }

func (r *modelRun) version(t *rapid.T, label string) int { return rapid.IntRange(0, 4).Draw(t, label) }

func (r *modelRun) alias(t *rapid.T) string {
	return rapid.SampledFrom([]string{"blue", "green"}).Draw(t, "alias")
}

func (r *modelRun) want(err error, kind kiln.Kind, ok bool) {
	if ok != (err == nil) || !ok && kiln.KindOf(err) != kind {
		r.Fatalf("got %v, want success %v or kind %v; model %+v", err, ok, kind, r.model)
	}
}

func (r *modelRun) change(*rapid.T) {
	r.model.latest++
	_ = must(r.node.configure(api.UpdateFunctionConfigurationRequest{FunctionName: &r.name, Description: new(fmt.Sprint(r.model.latest))}))
	r.settle()
}

func (r *modelRun) publish(*rapid.T) {
	content, there := r.model.versions[r.model.last]
	if !there || content != r.model.latest {
		r.model.last++
		r.model.versions[r.model.last] = r.model.latest
	}
	v := must(r.node.publish(api.PublishVersionRequest{FunctionName: &r.name}))
	if *v.Version != fmt.Sprint(r.model.last) || *v.Description != fmt.Sprint(r.model.versions[r.model.last]) {
		r.Fatalf("published %s of content %s, model %+v", *v.Version, *v.Description, r.model)
	}
}

func (r *modelRun) deleteVersion(t *rapid.T) {
	v := max(1, r.version(t, "version"))
	err := r.node.delete(r.name, fmt.Sprint(v))
	r.want(err, kiln.ResourceConflict, !r.model.names(v))
	if err == nil {
		delete(r.model.versions, v)
	}
}

// routing draws what an alias is to name.
func (r *modelRun) routing(t *rapid.T) (a modelAlias, config *api.AliasRoutingConfiguration) {
	a = modelAlias{version: max(1, r.version(t, "version")), other: r.version(t, "other")}
	config = &api.AliasRoutingConfiguration{}
	if a.other > 0 {
		config = weights(fmt.Sprint(a.other), 0.5)
	}
	return a, config
}

func (r *modelRun) createAlias(t *rapid.T) {
	name := r.alias(t)
	a, config := r.routing(t)
	_, twice := r.model.aliases[name]
	kind := kiln.ResourceNotFound
	switch {
	case a.version == a.other:
		kind = kiln.InvalidParameterValue
	case r.model.has(a.version, a.other):
		kind = kiln.ResourceConflict
	}
	out, err := r.node.createAlias(r.name, name, fmt.Sprint(a.version), func(in *api.CreateAliasRequest) { in.RoutingConfig = config })
	r.want(err, kind, r.model.has(a.version, a.other) && !twice)
	if err == nil {
		r.model.aliases[name], r.model.revisions[name] = a, []string{*out.RevisionId}
	}
}

func (r *modelRun) updateAlias(t *rapid.T) {
	name := r.alias(t)
	a, config := r.routing(t)
	_, there := r.model.aliases[name]
	in := api.UpdateAliasRequest{FunctionName: &r.name, Name: &name, FunctionVersion: new(fmt.Sprint(a.version)), RoutingConfig: config}
	stale := false
	if known := r.model.revisions[name]; there && rapid.Bool().Draw(t, "guarded") {
		i := rapid.IntRange(0, len(known)-1).Draw(t, "revision")
		in.RevisionId, stale = &known[i], i < len(known)-1
	}
	kind := kiln.ResourceNotFound
	switch {
	case !there:
	case stale:
		kind = kiln.PreconditionFailed
	case a.version == a.other:
		kind = kiln.InvalidParameterValue
	}
	out, err := r.node.updateAlias(in)
	r.want(err, kind, there && !stale && r.model.has(a.version, a.other))
	if err == nil {
		r.model.aliases[name] = a
		r.model.revisions[name] = append(r.model.revisions[name], *out.RevisionId)
	}
}

func (r *modelRun) deleteAlias(t *rapid.T) {
	name := r.alias(t)
	r.want(r.node.deleteAlias(r.name, name), 0, true)
	delete(r.model.aliases, name)
	delete(r.model.revisions, name)
}

func (r *modelRun) check(*rapid.T) {
	want := []string{"$LATEST"}
	for _, v := range slices.Sorted(maps.Keys(r.model.versions)) {
		want = append(want, fmt.Sprint(v))
		if c := r.node.configuration(r.name, fmt.Sprint(v)); *c.Description != fmt.Sprint(r.model.versions[v]) {
			r.Fatalf("version %d has content %s, model %+v", v, *c.Description, r.model)
		}
	}
	if got := r.node.versions(r.name); !slices.Equal(got, want) {
		r.Fatalf("versions %v, want %v", got, want)
	}
	if got, want := r.node.aliases(r.name, "", 50), slices.Sorted(maps.Keys(r.model.aliases)); !slices.Equal(got, want) {
		r.Fatalf("aliases %v, want %v", got, want)
	}
	for name, a := range r.model.aliases {
		got := must(r.node.getAlias(r.name, name))
		known := r.model.revisions[name]
		if *got.FunctionVersion != fmt.Sprint(a.version) || *got.RevisionId != known[len(known)-1] || (got.RoutingConfig != nil) != (a.other > 0) {
			r.Fatalf("alias %s is %+v, model %+v", name, got, a)
		}
	}
}

// aliasInput is an operation on one alias: an update to a version if that is not 0, guarded by a revision unless that is "", or else
// a read.
type aliasInput struct {
	version  int
	revision string
}

// aliasOutput is what it answered. stale is the answer to a guard that does not hold.
type aliasOutput struct {
	version  int
	revision string
	stale    bool
}

// register is one alias, to which operations happen at once.
var register = porcupine.Model{
	Init: func() any { return aliasOutput{version: 1} },
	Step: func(state, input, output any) (bool, any) {
		now, in, out := state.(aliasOutput), input.(aliasInput), output.(aliasOutput)
		switch {
		case in.version == 0:
			return now.revision == "" || out == now, out
		case in.revision != "" && in.revision != now.revision:
			return out.stale, now
		default:
			return !out.stale && out.version == in.version, out
		}
	},
}

// TestConcurrentChangesOfAnAliasAreLinearizable reads and moves one alias from many goroutines, half of the moves guarded by the revision
// that was read before.
func TestConcurrentChangesOfAnAliasAreLinearizable(t *testing.T) {
	n := newModelNode(t)
	_ = must(n.create("f"))
	n.settleOf("f")
	_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f")}))
	_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Description: new("second")}))
	n.settleOf("f")
	_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f")}))
	_ = must(n.createAlias("f", "live", "1"))
	first := must(n.getAlias("f", "live"))
	var mu sync.Mutex
	history := []porcupine.Operation{{Output: aliasOutput{version: 1, revision: *first.RevisionId}, Input: aliasInput{}}}
	begun := time.Now()
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			for i := range 40 {
				read := n.observe(&mu, &history, begun, client, aliasInput{})
				in := aliasInput{version: 1 + (client+i)%2}
				if i%2 == 0 {
					in.revision = read.revision
				}
				n.observe(&mu, &history, begun, client, in)
			}
		})
	}
	wg.Wait()
	stale := 0
	for _, o := range history {
		if o.Output.(aliasOutput).stale {
			stale++
		}
	}
	if stale == 0 {
		t.Error("no guard was tried with a revision that had gone")
	}
	if !porcupine.CheckOperations(register, history) {
		t.Error("the history is not linearizable")
	}
	t.Logf("%d operations, %d of them refused as stale", len(history), stale)
}

// observe does an operation on f's alias live, and notes when it began and ended.
func (n *node) observe(mu *sync.Mutex, history *[]porcupine.Operation, begun time.Time, client int, in aliasInput) aliasOutput {
	op := porcupine.Operation{ClientId: client + 1, Input: in, Call: int64(time.Since(begun)) + 1}
	var a *api.AliasConfiguration
	var err error
	if in.version == 0 {
		a, err = n.getAlias("f", "live")
	} else {
		a, err = n.updateAlias(api.UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), FunctionVersion: new(fmt.Sprint(in.version)), RevisionId: optional(in.revision)})
	}
	op.Return = int64(time.Since(begun)) + 1
	out := aliasOutput{stale: kiln.KindOf(err) == kiln.PreconditionFailed}
	switch {
	case err == nil:
		out.version, err = strconv.Atoi(*a.FunctionVersion)
		out.revision = *a.RevisionId
	case kiln.KindOf(err) == kiln.ResourceConflict: // it gave up, for others were first each time: nothing happened
		return out
	case out.stale:
		err = nil
	}
	if err != nil {
		n.Error(err)
	}
	op.Output = out
	mu.Lock()
	defer mu.Unlock()
	*history = append(*history, op)
	return out
}
