package catalog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

const account kiln.AccountID = "123456789012"

// scenario is a store, a View of it that is running, and what the View retired.
type scenario struct {
	*testing.T
	store   catalog.Store
	view    *catalog.View
	retired []string
}

// newScenario runs a View of store in a synctest bubble.
func newScenario(t *testing.T, store catalog.Store) *scenario {
	s := &scenario{T: t, store: store}
	s.view = catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1",
		Retired: func(d string) { s.retired = append(s.retired, d) }})
	s.run()
	return s
}

// run runs the View until the test ends.
func (s *scenario) run() {
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.view.Run(s.Context()); !errors.Is(err, context.Canceled) {
			s.Errorf("Run ended with %v", err)
		}
	})
	s.Cleanup(running.Wait)
	synctest.Wait()
}

// put stores value under k whatever is there; a nil value deletes.
func put(t testing.TB, store catalog.Store, k catalog.Key, value any) {
	t.Helper()
	old, err := store.Get(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	c := catalog.Change{Key: k, If: old.Revision}
	if value != nil {
		if c.Value, err = json.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func (s *scenario) put(k catalog.Key, value any) {
	s.Helper()
	put(s, s.store, k, value)
	synctest.Wait()
}

func newFunction(name kiln.FunctionName, id, deployment string) *kiln.Function {
	return &kiln.Function{ID: id, Latest: newVersion(name, kiln.LatestVersion, deployment)}
}

func newVersion(name kiln.FunctionName, q kiln.Qualifier, deployment string) kiln.Version {
	return kiln.Version{Account: account, Function: name, Qualifier: q, Deployment: deployment, State: kiln.StateActive,
		Config: kiln.Config{Description: "what it is for", Runtime: "python3.13", Handler: "index.handler", Timeout: 3 * time.Second}}
}

func (s *scenario) wantDeployment(name kiln.FunctionName, q kiln.Qualifier, want string) {
	s.Helper()
	v, err := s.view.Resolve(account, name, q)
	if err != nil {
		s.Errorf("resolve %s:%s: %v", name, q, err)
	} else if v.Deployment != want {
		s.Errorf("%s:%s resolves to %s, want %s", name, q, v.Deployment, want)
	}
}

func (s *scenario) wantNotFound(name kiln.FunctionName, q kiln.Qualifier, message string) {
	s.Helper()
	_, err := s.view.Resolve(account, name, q)
	if kiln.KindOf(err) != kiln.ResourceNotFound || err.Error() != message {
		s.Errorf("resolve %s:%s: got %v, want %s", name, q, err, message)
	}
}

func (s *scenario) wantRetired(want ...string) {
	s.Helper()
	slices.Sort(s.retired)
	if !slices.Equal(s.retired, want) {
		s.Errorf("retired %q, want %q", s.retired, want)
	}
	s.retired = nil
}

func TestWhoCatchesUpFindsWhatWasStoredBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := catalogtest.NewMemory()
		put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id1", "d1"))
		view := catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1"})
		begun := time.Now()
		if view.CatchUp(t.Context(), account, "f"); time.Since(begun) != time.Second {
			t.Errorf("without a watch it waited %v", time.Since(begun))
		}
		caughtUp := make(chan struct{})
		go func() { view.CatchUp(t.Context(), account, "f"); close(caughtUp) }()
		synctest.Wait()
		select {
		case <-caughtUp:
			t.Error("it caught up with nothing")
		default:
		}
		var running sync.WaitGroup
		running.Go(func() { view.Run(t.Context()) }) // it ends with the test
		t.Cleanup(running.Wait)
		<-caughtUp
		if _, err := view.Resolve(account, "f", ""); err != nil {
			t.Error(err)
		}
		begun = time.Now()
		if view.CatchUp(t.Context(), account, "missing"); time.Since(begun) != 0 {
			t.Error("it waited for what is not stored")
		}
	})
}

func TestViewSaysWhatHasBecomeCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var current []string
		store := catalogtest.NewMemory()
		put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id1", "d1"))
		view := catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1",
			Current: func(v *kiln.Version) { current = append(current, v.Deployment) }})
		var running sync.WaitGroup
		running.Go(func() { view.Run(t.Context()) }) // it ends with the test
		t.Cleanup(running.Wait)
		synctest.Wait()
		put(t, store, catalog.VersionKey(account, "f", "id1", 1), newVersion("f", "1", "v1"))
		put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id1", "d1")) // the same deployment
		put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id1", "d2"))
		synctest.Wait()
		put(t, store, catalog.FunctionKey(account, "f"), nil)
		synctest.Wait()
		if want := []string{"d1", "v1", "d2"}; !slices.Equal(current, want) {
			t.Errorf("current were %q, want %q", current, want)
		}
	})
}

func TestViewFollowsAFunctionThroughItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, catalogtest.NewMemory())
		fn := catalog.FunctionKey(account, "f")
		const missing = "Function not found: arn:aws:lambda:us-east-1:123456789012:function:f:"
		s.wantNotFound("f", "", missing+"$LATEST")

		s.put(fn, newFunction("f", "id1", "d1"))
		s.wantDeployment("f", "", "d1")
		s.wantDeployment("f", kiln.LatestVersion, "d1")
		s.wantNotFound("f", "1", missing+"1")

		again := newFunction("f", "id1", "d1")
		again.Latest.RevisionID = "only the revision differs"
		s.put(fn, again)
		s.wantRetired()

		s.put(fn, newFunction("f", "id1", "d2"))
		s.wantDeployment("f", "", "d2")
		s.wantRetired("d1")

		one := catalog.VersionKey(account, "f", "id1", 1)
		s.put(one, newVersion("f", "1", "v1"))
		s.wantDeployment("f", "1", "v1")
		s.wantNotFound("f", "01", missing+"01")
		s.wantNotFound("f", "prod", missing+"prod")

		s.put(fn, nil)
		s.wantRetired("d2")
		s.wantNotFound("f", "1", missing+"1")
		s.put(one, nil)
		s.wantRetired("v1")
	})
}

func TestViewKeepsAnOldNamesakesVersionsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, catalogtest.NewMemory())
		fn := catalog.FunctionKey(account, "f")
		s.put(fn, newFunction("f", "old", "d1"))
		s.put(catalog.VersionKey(account, "f", "old", 1), newVersion("f", "1", "v1"))
		s.put(fn, nil)
		s.put(fn, newFunction("f", "new", "d2"))
		s.wantNotFound("f", "1", "Function not found: arn:aws:lambda:us-east-1:123456789012:function:f:1")
	})
}

func TestViewTakesRecordsInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, catalogtest.NewMemory())
		s.put(catalog.VersionKey(account, "f", "id", 2), newVersion("f", "2", "v2"))
		s.put(catalog.FunctionKey(account, "f"), newFunction("f", "id", "d"))
		s.wantDeployment("f", "2", "v2")
	})
}

func TestViewSurvivesAnUnreadableRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, catalogtest.NewMemory())
		s.put(catalog.FunctionKey(account, "broken"), "no function")
		s.put(catalog.FunctionKey(account, "f"), newFunction("f", "id", "d"))
		s.wantDeployment("f", "", "d")
	})
}

func TestViewIsSyncedOnlyWithEverythingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := catalogtest.NewMemory()
		put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id", "d"))
		view := catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1"})
		select {
		case <-view.Synced():
			t.Fatal("synced before it ran")
		default:
		}
		var running sync.WaitGroup
		running.Go(func() { _ = view.Run(t.Context()) /* it ends with the test */ })
		t.Cleanup(running.Wait)
		<-view.Synced()
		if _, err := view.Resolve(account, "f", ""); err != nil {
			t.Error(err)
		}
	})
}

func TestViewThatRunsAgainForgetsWhatWasDeletedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{Store: catalogtest.NewMemory(), fail: make(chan error)}
		var retired []string
		view := catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1",
			Retired: func(d string) { retired = append(retired, d) }})
		fn := catalog.FunctionKey(account, "gone")
		put(t, store, fn, newFunction("gone", "id", "d1"))
		put(t, store, catalog.FunctionKey(account, "kept"), newFunction("kept", "id", "d2"))
		var running sync.WaitGroup
		running.Go(func() {
			if err := view.Run(t.Context()); !errors.Is(err, errDisk) {
				t.Errorf("Run ended with %v, want the store's error", err)
			}
		})
		synctest.Wait()
		store.fail <- errDisk
		running.Wait()
		put(t, store, fn, nil)
		if _, err := view.Resolve(account, "gone", ""); err != nil {
			t.Errorf("a View that does not run answers from what it has: %v", err)
		}
		running.Go(func() { _ = view.Run(t.Context()) /* it ends with the test */ })
		t.Cleanup(running.Wait)
		synctest.Wait()
		if _, err := view.Resolve(account, "gone", ""); err == nil {
			t.Error("a function deleted between two runs resolves")
		}
		if want := []string{"d1"}; !slices.Equal(retired, want) {
			t.Errorf("retired %q, want %q", retired, want)
		}
	})
}

var errDisk = errors.New("the disk is gone")

// failing is a store whose watches end with what comes from fail.
type failing struct {
	catalog.Store
	fail chan error
}

func (f *failing) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		select {
		case err := <-f.fail:
			cancel(err)
		case <-ctx.Done():
		}
	})
	if err := f.Store.Watch(ctx, prefix, fn); err == nil || context.Cause(ctx) == nil {
		return err
	}
	return context.Cause(ctx)
}

func TestViewShowsAccessKeysToTheirOwnersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, catalogtest.NewMemory())
		k := catalog.AccessKeyKey(account, "AKIA1")
		s.put(k, catalog.AccessKey{ID: "AKIA1", Secret: "s", Account: account})
		if got, ok := s.view.AccessKey("AKIA1"); !ok || got.Secret != "s" || got.Account != account {
			t.Errorf("got %+v, %v", got, ok)
		}
		s.put(catalog.AccessKeyKey("999999999999", "AKIA2"), catalog.AccessKey{ID: "AKIA2", Secret: "s", Account: account})
		if got, ok := s.view.AccessKey("AKIA2"); ok {
			t.Errorf("a key stored by one account for another is valid: %+v", got)
		}
		s.put(k, nil)
		if _, ok := s.view.AccessKey("AKIA1"); ok {
			t.Error("a deleted key is valid")
		}
	})
}

func TestViewIsSmallPerFunction(t *testing.T) {
	const n = 20_000
	synctest.Test(t, func(t *testing.T) {
		store := catalogtest.NewMemory()
		for i := range n {
			f := newFunction(kiln.FunctionName(fmt.Sprintf("function-number-%d", i)), fmt.Sprintf("%036d", i), fmt.Sprintf("%036d", i))
			f.Latest.RevisionID = fmt.Sprintf("%036d", i)
			f.Latest.Role = "arn:aws:iam::123456789012:role/service-role/a-role-of-some-length"
			f.Latest.Code.Digest = kiln.DigestOf([]byte(f.ID))
			f.Latest.LogGroup = "/aws/lambda/" + string(f.Latest.Function)
			put(t, store, catalog.FunctionKey(account, f.Latest.Function), f)
		}
		before := heap()
		s := newScenario(t, store)
		perFunction := (heap() - before) / n
		t.Logf("%d bytes per function", perFunction)
		if perFunction > 1500 {
			t.Errorf("a View takes %d bytes per function: 100,000 functions would take more than 150 MB", perFunction)
		}
		s.wantDeployment("function-number-7", "", fmt.Sprintf("%036d", 7))
	})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // sync.Pools let go at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestViewIsReadWhileItChanges(t *testing.T) {
	store := catalogtest.NewMemory()
	put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id", "0"))
	view := catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1"})
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	working.Go(func() { _ = view.Run(ctx) /* it ends with the test */ })
	<-view.Synced()
	for range 4 {
		working.Go(func() {
			for ctx.Err() == nil {
				if v, err := view.Resolve(account, "f", ""); err != nil || v.Function != "f" {
					t.Errorf("resolved %v, %v", v, err)
					return
				}
			}
		})
	}
	for i := range 200 {
		put(t, store, catalog.FunctionKey(account, "f"), newFunction("f", "id", fmt.Sprint(i)))
	}
}

func TestAliasesResolveToTheVersionsThatTheyName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := catalogtest.NewMemory()
		draw := 0.0
		s := &scenario{T: t, store: store, view: catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1", Draw: func() float64 { return draw }})}
		s.run()
		f := newFunction("f", "id1", "latest")
		f.Aliases = map[kiln.AliasName]kiln.Alias{
			"live": {Version: "1"}, "next": {Version: "$LATEST"}, "gone": {Version: "3"},
			"canary": {Version: "1", Weights: map[kiln.Qualifier]float64{"2": 0.1}},
		}
		s.put(catalog.FunctionKey(account, "f"), f)
		s.put(catalog.VersionKey(account, "f", "id1", 1), newVersion("f", "1", "d1"))
		s.put(catalog.VersionKey(account, "f", "id1", 2), newVersion("f", "2", "d2"))
		s.wantDeployment("f", "live", "d1")
		s.wantDeployment("f", "next", "latest")
		s.wantNotFound("f", "gone", "Function not found: arn:aws:lambda:us-east-1:123456789012:function:f:gone")
		s.wantNotFound("f", "none", "Function not found: arn:aws:lambda:us-east-1:123456789012:function:f:none")
		s.wantDeployment("f", "canary", "d2")
		draw = 0.1
		s.wantDeployment("f", "canary", "d1")

		f.Aliases["live"] = kiln.Alias{Version: "2"}
		s.put(catalog.FunctionKey(account, "f"), f)
		s.wantDeployment("f", "live", "d2")
		s.wantRetired() // the version that it named can be named again
		s.put(catalog.FunctionKey(account, "f"), nil)
		s.wantNotFound("f", "live", "Function not found: arn:aws:lambda:us-east-1:123456789012:function:f:live")
	})
}

func TestViewTellsWhatIsReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := catalogtest.NewMemory()
		var told []string
		view := catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1",
			Reserved: func(a kiln.AccountID, f kiln.FunctionName, places *int) {
				if places == nil {
					told = append(told, fmt.Sprintf("%s/%s none", a, f))
				} else {
					told = append(told, fmt.Sprintf("%s/%s %d", a, f, *places))
				}
			}})
		function := func(name kiln.FunctionName, places *int) {
			put(t, store, catalog.FunctionKey(account, name), &kiln.Function{
				ID: "1", Latest: kiln.Version{Account: account, Function: name, Deployment: string(name)}, Reserved: places,
			})
			synctest.Wait()
		}
		function("before", new(7))
		function("deleted", new(1))
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() {
				if err := view.Run(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("Run ended with %v", err)
				}
			})
			synctest.Wait()
			return func() { cancel(); running.Wait() }
		}
		stop := run()
		slices.Sort(told) // records that are there at first are told in any order
		function("f", nil)
		function("f", new(0))
		function("f", new(0))
		function("f", new(3))
		function("f", nil)
		stop()
		put(t, store, catalog.FunctionKey(account, "deleted"), nil)
		function("before", new(8))
		defer run()()
		put(t, store, catalog.FunctionKey(account, "before"), nil)
		synctest.Wait()
		const a = "123456789012/"
		want := []string{a + "before 7", a + "deleted 1", a + "f 0", a + "f 3", a + "f none", a + "deleted none", a + "before 8", a + "before none"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q,\nwant %q", told, want)
		}
	})
}

func TestViewTellsWhatIsProvisioned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := catalogtest.NewMemory()
		var told []string
		s := &scenario{T: t, store: store, view: catalog.NewView(catalog.ViewConfig{Store: store, Region: "us-east-1",
			Provisioned: func(_ kiln.AccountID, f kiln.FunctionName, all []catalog.Provision) {
				line := string(f)
				for _, p := range all {
					line += " " + string(p.Qualifier)
					for _, share := range p.Shares {
						line += fmt.Sprintf(" %s=%d", share.Version.Deployment, share.Places)
					}
				}
				told = append(told, line)
			}})}
		want := func(lines ...string) {
			t.Helper()
			if synctest.Wait(); !slices.Equal(told, lines) {
				t.Errorf("told %q, want %q", told, lines)
			}
			told = nil
		}
		f := newFunction("f", "id1", "latest")
		f.Aliases = map[kiln.AliasName]kiln.Alias{"live": {Version: "1"}}
		f.Provisioned = map[kiln.Qualifier]kiln.Provisioned{"live": {Places: 4}}
		active := func(number kiln.Qualifier, deployment string) kiln.Version {
			v := newVersion("f", number, deployment)
			v.State = kiln.StateActive
			return v
		}
		put(t, store, catalog.VersionKey(account, "f", "id1", 1), active("1", "d1"))
		put(t, store, catalog.FunctionKey(account, "f"), f)
		s.run()
		want("f live d1=4")
		s.put(catalog.FunctionKey(account, "g"), newFunction("g", "id2", "other"))
		s.put(catalog.FunctionKey(account, "f"), f)
		want()
		f.Aliases["live"] = kiln.Alias{Version: "2"}
		s.put(catalog.FunctionKey(account, "f"), f)
		want("f") // until there is the version
		pending := newVersion("f", "2", "d2")
		pending.State = kiln.StatePending
		s.put(catalog.VersionKey(account, "f", "id1", 2), pending)
		want()
		s.put(catalog.VersionKey(account, "f", "id1", 2), active("2", "d2"))
		want("f live d2=4")
		f.Aliases["live"] = kiln.Alias{Version: "2", Weights: map[kiln.Qualifier]float64{"1": 0.25}}
		s.put(catalog.FunctionKey(account, "f"), f)
		want("f live d1=1 d2=3")
		s.put(catalog.FunctionKey(account, "f"), nil)
		want("f")
	})
}
