// Package catalogtest holds what every catalog.Store must do, as tests, with a store in memory that does it.
package catalogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/catalog"
)

const account = "000000000000"

// Run tests the stores that newStore returns. Each call must return an empty store, which newStore's t closes at its end.
func Run(t *testing.T, newStore func(t *testing.T) catalog.Store) {
	tests := []struct {
		name string
		test func(*testing.T, catalog.Store)
	}{
		{"GetOfNothingIsRevisionZero", testGetOfNothing},
		{"CommitChecksTheRevision", testCompareAndSwap},
		{"CommitMakesAllChangesOrNone", testAllOrNothing},
		{"CommitOfNothingDeletedChangesNothing", testDeleteOfNothing},
		{"CommitRefusesWhatIsNotValid", testInvalidCommits},
		{"RevisionsGrowAndAreNeverUsedTwice", testRevisionsGrow},
		{"EmptyValueIsNotADeletion", testEmptyValue},
		{"ListPages", testListPages},
		{"ListKeepsToThePrefix", testListPrefix},
		{"ListSeesCommitsWhole", testListIsConsistent},
		{"ValuesHandedOutStayAsTheyAre", testHandedOutValues},
		{"EndedContextStopsEverything", testEndedContext},
		{"OneOfManyRacingCommitsWins", testRacingCommits},
		{"NoIncrementIsLostUnderContention", testIncrements},
		{"WatchBeginsWithWhatIsStored", testWatchSnapshot},
		{"WatchSeesEveryChangeInOrder", testWatchOrder},
		{"ChangesDuringTheSnapshotComeOnce", testChangesDuringSnapshot},
		{"WatchEndsWithTheCallersError", testWatchError},
		{"WatchEndsWithItsContext", testWatchContext},
		{"WatchersMissNothingUnderLoad", testWatchUnderLoad},
		{"SlowWatcherDelaysNobodyAndCatchesUp", testSlowWatcher},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, newStore(t)) })
	}
}

func key(name string) catalog.Key { return catalog.Key(account + "/function/" + name) }

func put(name, value string, at catalog.Revision) catalog.Change {
	return catalog.Change{Key: key(name), If: at, Value: []byte(value)}
}

func remove(name string, at catalog.Revision) catalog.Change {
	return catalog.Change{Key: key(name), If: at}
}

func commit(t testing.TB, s catalog.Store, changes ...catalog.Change) catalog.Revision {
	t.Helper()
	r, err := s.Commit(t.Context(), changes...)
	if err != nil {
		t.Fatalf("commit of %d changes from %s on: %v", len(changes), changes[0].Key, err)
	}
	return r
}

func wantConflict(t *testing.T, s catalog.Store, changes ...catalog.Change) {
	t.Helper()
	if r, err := s.Commit(t.Context(), changes...); !errors.Is(err, catalog.ErrConflict) {
		t.Fatalf("commit: got revision %d and error %v, want ErrConflict", r, err)
	}
}

func wantRecord(t *testing.T, s catalog.Store, name, value string, at catalog.Revision) {
	t.Helper()
	r, err := s.Get(t.Context(), key(name))
	if err != nil {
		t.Fatal(err)
	}
	if r.Key != key(name) || string(r.Value) != value || r.Revision != at {
		t.Fatalf("got %s = %.40q at %d, want %s = %.40q at %d", r.Key, r.Value, r.Revision, key(name), value, at)
	}
}

func testGetOfNothing(t *testing.T, s catalog.Store) {
	wantRecord(t, s, "f", "", 0)
	if r, err := s.Get(t.Context(), key("f")); err != nil || r.Value != nil {
		t.Fatalf("got value %q and error %v, want nil and nil", r.Value, err)
	}
}

func testCompareAndSwap(t *testing.T, s catalog.Store) {
	wantConflict(t, s, put("f", "1", 1))
	r1 := commit(t, s, put("f", "1", 0))
	wantRecord(t, s, "f", "1", r1)
	wantConflict(t, s, put("f", "2", 0))
	wantConflict(t, s, put("f", "2", r1+1))
	r2 := commit(t, s, put("f", "2", r1))
	wantRecord(t, s, "f", "2", r2)
	wantConflict(t, s, put("f", "3", r1))
	wantConflict(t, s, remove("f", r1))
	wantConflict(t, s, remove("f", 0))
	commit(t, s, remove("f", r2))
	wantRecord(t, s, "f", "", 0)
	wantConflict(t, s, put("f", "3", r2))
	wantRecord(t, s, "f", "4", commit(t, s, put("f", "4", 0)))
}

func testAllOrNothing(t *testing.T, s catalog.Store) {
	r1 := commit(t, s, put("a", "1", 0), put("b", "1", 0))
	wantRecord(t, s, "a", "1", r1)
	wantRecord(t, s, "b", "1", r1)
	wantConflict(t, s, put("a", "2", r1), put("b", "2", 0))
	wantConflict(t, s, put("c", "2", 0), remove("a", r1), put("b", "2", r1+1))
	wantRecord(t, s, "a", "1", r1)
	wantRecord(t, s, "b", "1", r1)
	wantRecord(t, s, "c", "", 0)
	r2 := commit(t, s, remove("a", r1), put("b", "2", r1), put("c", "2", 0))
	wantRecord(t, s, "a", "", 0)
	wantRecord(t, s, "b", "2", r2)
	wantRecord(t, s, "c", "2", r2)
}

func testDeleteOfNothing(t *testing.T, s catalog.Store) {
	w := watch(t, s, "")
	w.wantSynced(t)
	wantConflict(t, s, remove("f", 7))
	commit(t, s, remove("f", 0))
	r := commit(t, s, remove("f", 0), put("g", "1", 0))
	wantRecord(t, s, "f", "", 0)
	w.want(t, "g", "1", r)
}

func testInvalidCommits(t *testing.T, s catalog.Store) {
	tests := map[string][]catalog.Change{
		"no change":     nil,
		"one key twice": {put("f", "1", 0), put("f", "2", 0)},
		"two accounts":  {put("f", "1", 0), {Key: "111111111111/function/f", Value: []byte("1")}},
		"no account":    {{Key: "/function/f", Value: []byte("1")}},
		"only account":  {{Key: account, Value: []byte("1")}},
		"empty key":     {{Value: []byte("1")}},
		"long key":      {put(strings.Repeat("f", catalog.MaxKey), "1", 0)},
		"large value":   {put("f", strings.Repeat("1", catalog.MaxValue+catalog.MaxSealing+1), 0)},
		"large commit":  manyChanges(catalog.MaxCommit/catalog.MaxValue+1, catalog.MaxValue),
		"many changes":  manyChanges(catalog.MaxChanges+1, 1),
	}
	for name, changes := range tests {
		if r, err := s.Commit(t.Context(), changes...); !errors.Is(err, catalog.ErrRefused) || errors.Is(err, catalog.ErrConflict) {
			t.Errorf("%s: got revision %d and error %v, want ErrRefused and no conflict", name, r, err)
		}
	}
	if page, err := s.List(t.Context(), "", "", 10); err != nil || len(page) != 0 {
		t.Errorf("refused commits left %d records, error %v", len(page), err)
	}
	large := strings.Repeat("1", catalog.MaxValue)
	wantRecord(t, s, "f", large, commit(t, s, put("f", large, 0)))
	wantRecord(t, s, "0", "1", commit(t, s, manyChanges(catalog.MaxChanges, 1)...))
}

// manyChanges makes n records with values of size bytes.
func manyChanges(n, size int) []catalog.Change {
	changes := make([]catalog.Change, n)
	for i := range changes {
		changes[i] = put(fmt.Sprint(i), strings.Repeat("1", size), 0)
	}
	return changes
}

func testRevisionsGrow(t *testing.T, s catalog.Store) {
	var last catalog.Revision
	for range 5 {
		for _, name := range []string{"a", "b"} {
			r := commit(t, s, put(name, "1", 0))
			if r <= last {
				t.Fatalf("revision %d follows %d", r, last)
			}
			if last = commit(t, s, remove(name, r)); last <= r {
				t.Fatalf("revision %d of a deletion follows %d", last, r)
			}
		}
	}
}

func testEmptyValue(t *testing.T, s catalog.Store) {
	w := watch(t, s, "")
	w.wantSynced(t)
	r := commit(t, s, put("f", "", 0))
	wantRecord(t, s, "f", "", r)
	if got, err := s.Get(t.Context(), key("f")); err != nil || got.Value == nil {
		t.Errorf("get: value is nil, error %v", err)
	}
	if page, err := s.List(t.Context(), "", "", 1); err != nil || len(page) != 1 || page[0].Value == nil {
		t.Errorf("list: got %v, error %v, want one record with a value", page, err)
	}
	if e := w.next(t); e.Value == nil {
		t.Error("watch: value is nil")
	}
}

func testListPages(t *testing.T, s catalog.Store) {
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("f%02d", i)
		commit(t, s, put(name, name, 0))
		want = append(want, name)
	}
	for _, limit := range []int{1, 7, 24, 25, 26} {
		var got []string
		for after := catalog.Key(""); ; {
			page, err := s.List(t.Context(), key(""), after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("got %d records, limit %d", len(page), limit)
			}
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				got = append(got, string(r.Value))
			}
			after = page[len(page)-1].Key
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pages of %d: got %v, want %v", limit, got, want)
		}
	}
	for _, limit := range []int{0, -1} {
		if page, err := s.List(t.Context(), "", "", limit); err != nil || len(page) != 0 {
			t.Errorf("limit %d: got %d records, error %v", limit, len(page), err)
		}
	}
}

func testListPrefix(t *testing.T, s catalog.Store) {
	keys := []catalog.Key{"1/function/a", "1/function/b", "1/function/b/x", "1/function/\xff\xff", "1/functionc", "2/function/a"}
	for _, k := range keys {
		commit(t, s, catalog.Change{Key: k, Value: []byte(k)})
	}
	tests := []struct {
		name          string
		prefix, after catalog.Key
		want          []catalog.Key
	}{
		{"all", "", "", keys},
		{"an account", "1/", "", keys[:5]},
		{"a kind", "1/function/", "", keys[:4]},
		{"ends in 0xff", "1/function/\xff", "", keys[3:4]},
		{"only 0xff", "\xff\xff", "", nil},
		{"a record is in its own prefix", "1/function/b", "", keys[1:3]},
		{"nothing", "3/", "", nil},
		{"after a record", "1/function/", "1/function/a", keys[1:4]},
		{"after no record", "1/function/", "1/function/a/", keys[1:4]},
		{"after before the prefix", "1/function/", "0/", keys[:4]},
		{"after behind the prefix", "1/function/", "2/", nil},
	}
	for _, tt := range tests {
		page, err := s.List(t.Context(), tt.prefix, tt.after, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []catalog.Key
		for _, r := range page {
			if r.Revision == 0 || string(r.Value) != string(r.Key) {
				t.Errorf("%s: got record %v", tt.name, r)
			}
			got = append(got, r.Key)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// testListIsConsistent lists two records that are always committed together, one of which comes and goes.
func testListIsConsistent(t *testing.T, s catalog.Store) {
	var done atomic.Bool
	inParallel(2, func(i int) {
		if i == 0 {
			defer done.Store(true)
			comeAndGo(t, s)
			return
		}
		for !done.Load() && !t.Failed() {
			page, err := s.List(t.Context(), "", "", 3)
			if err != nil {
				t.Errorf("list: %v", err)
			}
			switch {
			case len(page) == 0:
			case string(page[0].Value) == "alone" && len(page) == 1:
			case string(page[0].Value) == "with z" && len(page) == 2 && page[1].Revision == page[0].Revision:
			default:
				t.Errorf("list sees half a commit: %v", page)
			}
		}
	})
}

func comeAndGo(t *testing.T, s catalog.Store) {
	for range 250 {
		r, err := s.Commit(t.Context(), put("a", "with z", 0), put("z", "", 0))
		if err == nil {
			r, err = s.Commit(t.Context(), put("a", "alone", r), remove("z", r))
		}
		if err == nil {
			_, err = s.Commit(t.Context(), remove("a", r))
		}
		if err != nil {
			t.Errorf("commit: %v", err)
			return
		}
	}
}

func testHandedOutValues(t *testing.T, s catalog.Store) {
	r := commit(t, s, put("a", "one", 0), put("b", "two", 0))
	got, err := s.Get(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.List(t.Context(), "", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, put("a", "ONE", r), put("b", "TWO", r))
	if string(got.Value) != "one" || string(page[0].Value) != "one" || string(page[1].Value) != "two" {
		t.Fatalf("a later commit changed what was handed out: %v, %v", got, page)
	}
	if page, err = s.List(t.Context(), "", "", 2); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Get(t.Context(), key("a")); err != nil {
		t.Fatal(err)
	}
	copy(got.Value, "xxx")
	_ = append(page[0].Value, "yyy"...) // Must not run into the next record's value.
	copy(page[0].Value, "xxx")
	wantRecord(t, s, "a", "ONE", page[0].Revision)
	if string(page[1].Value) != "TWO" {
		t.Fatalf("records of a page share memory: %v", page)
	}
}

func testEndedContext(t *testing.T, s catalog.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, key("f"))
	_, listErr := s.List(ctx, "", "", 1)
	_, commitErr := s.Commit(ctx, put("f", "1", 0))
	watchErr := s.Watch(ctx, "", func(catalog.Event) error { return nil })
	for op, err := range map[string]error{"get": getErr, "list": listErr, "commit": commitErr, "watch": watchErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got error %v, want context.Canceled", op, err)
		}
	}
	if !errors.Is(commitErr, catalog.ErrRefused) {
		t.Errorf("commit: got error %v, want ErrRefused", commitErr)
	}
	wantRecord(t, s, "f", "", 0)
}

func testRacingCommits(t *testing.T, s catalog.Store) {
	const racers = 16
	at := catalog.Revision(0)
	for range 10 {
		won := make(chan catalog.Revision, racers)
		inParallel(racers, func(i int) {
			r, err := s.Commit(t.Context(), put("f", fmt.Sprint(i), at), put(fmt.Sprintf("racer%d", i), "", revisionOf(t, s, i)))
			if err == nil {
				won <- r
			} else if !errors.Is(err, catalog.ErrConflict) {
				t.Errorf("commit: %v", err)
			}
		})
		if len(won) != 1 {
			t.Fatalf("%d of %d commits from one revision won", len(won), racers)
		}
		at = <-won
	}
}

func revisionOf(t *testing.T, s catalog.Store, racer int) catalog.Revision {
	r, err := s.Get(t.Context(), key(fmt.Sprintf("racer%d", racer)))
	if err != nil {
		t.Errorf("get: %v", err)
	}
	return r.Revision
}

func testIncrements(t *testing.T, s catalog.Store) {
	const writers, increments = 8, 25
	inParallel(writers, func(int) {
		for range increments {
			increment(t, s)
		}
	})
	for _, name := range []string{"a", "b"} {
		r, err := s.Get(t.Context(), key(name))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Value) != writers*increments {
			t.Errorf("%s counts %d increments, want %d", name, len(r.Value), writers*increments)
		}
	}
}

// increment makes the values of two records one byte longer.
func increment(t *testing.T, s catalog.Store) {
	for {
		a, errA := s.Get(t.Context(), key("a"))
		b, errB := s.Get(t.Context(), key("b"))
		if err := errors.Join(errA, errB); err != nil {
			t.Errorf("get: %v", err)
			return
		}
		_, err := s.Commit(t.Context(), put("a", string(a.Value)+"+", a.Revision), put("b", string(b.Value)+"+", b.Revision))
		if err == nil {
			return
		}
		if !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("commit: %v", err)
			return
		}
	}
}

func testWatchSnapshot(t *testing.T, s catalog.Store) {
	ra := commit(t, s, put("a", "1", 0))
	commit(t, s, catalog.Change{Key: "111111111111/function/a", Value: []byte("other account")})
	rb := commit(t, s, put("b", "1", 0))
	commit(t, s, remove("a", ra))
	rc := commit(t, s, put("c", "1", 0))
	rc = commit(t, s, put("c", "2", rc))
	w := watch(t, s, key(""))
	got := map[catalog.Key]catalog.Record{}
	for range 2 {
		e := w.next(t)
		got[e.Key] = e.Record
	}
	w.wantSynced(t)
	if b, c := got[key("b")], got[key("c")]; string(b.Value) != "1" || b.Revision != rb || string(c.Value) != "2" || c.Revision != rc {
		t.Fatalf("got %v, want b at %d and c at %d", got, rb, rc)
	}
}

func testWatchOrder(t *testing.T, s catalog.Store) {
	all, some := watch(t, s, ""), watch(t, s, key("b"))
	all.wantSynced(t)
	some.wantSynced(t)
	a := commit(t, s, put("a", "1", 0))
	all.want(t, "a", "1", a)
	b := commit(t, s, put("b", "1", 0))
	all.want(t, "b", "1", b)
	some.want(t, "b", "1", b)
	a = commit(t, s, put("a", "2", a))
	all.want(t, "a", "2", a)
	gone := commit(t, s, remove("b", b))
	for _, w := range []*watcher{all, some} {
		if e := w.next(t); e.Key != key("b") || e.Value != nil || e.Revision != gone {
			t.Fatalf("got %v, want the deletion of b at %d", e, gone)
		}
	}
	b = commit(t, s, put("b", "2", 0), put("bb", "2", 0))
	for _, w := range []*watcher{all, some} {
		x, y := w.next(t), w.next(t)
		if x.Revision != b || y.Revision != b || min(x.Key, y.Key) != key("b") || max(x.Key, y.Key) != key("bb") {
			t.Fatalf("got %v and %v, want b and bb at %d", x, y, b)
		}
	}
}

// testChangesDuringSnapshot changes records while the first one is being delivered. No state may come twice, and the last one
// must come, be it with the snapshot or behind it.
func testChangesDuringSnapshot(t *testing.T, s catalog.Store) {
	at := commit(t, s, manyChanges(300, 1)...)
	revisions := make(map[catalog.Key]catalog.Revision)
	values := make(map[catalog.Key]string)
	err := s.Watch(t.Context(), "", func(e catalog.Event) error {
		switch {
		case e.Synced:
			commit(t, s, put("end", "", 0)) // Comes behind all that the watcher has yet to see.
			return nil
		case e.Revision <= revisions[e.Key]:
			return fmt.Errorf("%s at revision %d after %d", e.Key, e.Revision, revisions[e.Key])
		case len(revisions) == 0:
			first := strings.TrimPrefix(string(e.Key), string(key("")))
			commit(t, s, put(first, "2", at), put("99", "2", at), remove("98", at), put("new", "2", 0))
		}
		revisions[e.Key] = e.Revision
		if values[e.Key] = string(e.Value); e.Value == nil {
			delete(values, e.Key)
		}
		if e.Key == key("end") {
			return errEnd
		}
		return nil
	})
	if !errors.Is(err, errEnd) {
		t.Fatalf("watch: %v", err)
	}
	if want := stored(t, s); !maps.Equal(values, want) {
		t.Errorf("the watcher has %d records, the store %d, or they differ", len(values), len(want))
	}
}

func testWatchError(t *testing.T, s catalog.Store) {
	commit(t, s, put("f", "1", 0))
	enough := errors.New("enough")
	for _, at := range []string{"record", "synced", "change"} {
		calls := 0
		err := s.Watch(t.Context(), "", func(e catalog.Event) error {
			calls++
			if e.Synced && at == "change" {
				commit(t, s, put("g", "1", 0)) // From within fn: a store must not hold a lock while it calls.
			}
			if (calls == 1) == (at == "record") && e.Synced == (at == "synced") {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("error from the %s: got %v", at, err)
		}
	}
}

func testWatchContext(t *testing.T, s catalog.Store) {
	cause := map[string]func(context.CancelFunc) func(catalog.Event) error{
		"at a record": func(cancel context.CancelFunc) func(catalog.Event) error {
			return func(catalog.Event) error { cancel(); return nil }
		},
		"while it waits": func(cancel context.CancelFunc) func(catalog.Event) error {
			return func(e catalog.Event) error {
				if e.Synced {
					go cancel()
				}
				return nil
			}
		},
	}
	commit(t, s, put("f", "1", 0), put("g", "1", 0))
	for name, fn := range cause {
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.Watch(ctx, "", fn(cancel)); !errors.Is(err, context.Canceled) {
			t.Errorf("ended %s: got %v, want context.Canceled", name, err)
		}
		cancel()
	}
}

// testWatchUnderLoad starts watchers while writers create, change and delete. Whenever a watcher began, what it saw must add up
// to what is stored.
func testWatchUnderLoad(t *testing.T, s catalog.Store) {
	const writers, rounds, watchers = 4, 60, 6
	var watching sync.WaitGroup
	defer watching.Wait()
	seen := make([]map[catalog.Key]string, watchers)
	errs := make(chan error, watchers)
	startWatcher := func(i int) {
		watching.Go(func() {
			var err error
			if seen[i], err = follow(t.Context(), s, key("end")); err != nil {
				errs <- err
			}
		})
	}
	startWatcher(0)
	inParallel(writers, func(w int) {
		for i := range rounds {
			if w == 0 && i%10 == 9 && i/10+1 < watchers {
				startWatcher(i/10 + 1)
			}
			churn(t, s, w, i)
		}
	})
	commit(t, s, put("end", "", 0))
	watching.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	want := stored(t, s)
	for i, got := range seen {
		if !maps.Equal(got, want) {
			t.Errorf("watcher %d has %d records, the store %d, or they differ", i, len(got), len(want))
		}
	}
}

// churn creates, changes or deletes a pair of records of writer w.
func churn(t *testing.T, s catalog.Store, w, i int) {
	x, y := fmt.Sprintf("w%d-%d-x", w, i%7), fmt.Sprintf("w%d-%d-y", w, i%7)
	r, err := s.Get(t.Context(), key(x))
	if err != nil {
		t.Errorf("get: %v", err)
		return
	}
	changes := []catalog.Change{put(x, fmt.Sprint(i), r.Revision), put(y, fmt.Sprint(i), r.Revision)}
	if r.Revision != 0 && i%3 == 0 {
		changes = []catalog.Change{remove(x, r.Revision), remove(y, r.Revision)}
	}
	if _, err := s.Commit(t.Context(), changes...); err != nil {
		t.Errorf("commit of a writer's own records: %v", err)
	}
}

var errEnd = errors.New("end of the watch")

// follow watches s until the record under end shows up, and returns what it has seen by then.
func follow(ctx context.Context, s catalog.Store, end catalog.Key) (map[catalog.Key]string, error) {
	state := make(map[catalog.Key]string)
	revisions := make(map[catalog.Key]catalog.Revision)
	ended, synced := false, 0
	err := s.Watch(ctx, "", func(e catalog.Event) error {
		switch {
		case e.Synced && e.Key != "":
			return fmt.Errorf("synced with key %s", e.Key)
		case e.Synced:
			synced++
		case e.Revision <= revisions[e.Key]:
			return fmt.Errorf("%s at revision %d after %d", e.Key, e.Revision, revisions[e.Key])
		case e.Value == nil:
			delete(state, e.Key)
		default:
			state[e.Key] = string(e.Value)
		}
		revisions[e.Key] = e.Revision
		if ended = ended || e.Key == end; ended && synced > 0 {
			return errEnd
		}
		return nil
	})
	if !errors.Is(err, errEnd) {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if synced != 1 {
		return nil, fmt.Errorf("synced %d times", synced)
	}
	return state, nil
}

func stored(t *testing.T, s catalog.Store) map[catalog.Key]string {
	page, err := s.List(t.Context(), "", "", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[catalog.Key]string)
	for _, r := range page {
		all[r.Key] = string(r.Value)
	}
	return all
}

// testSlowWatcher holds one watcher in its callback while far more is committed than a store may keep for it.
func testSlowWatcher(t *testing.T, s catalog.Store) {
	const commits, size, most = 1000, 64 << 10, 40 << 20 // 64 MB in all
	victims := commit(t, s, put("victim", "1", 0), put("again", "1", 0))
	ready := make(chan struct{})
	release := sync.OnceFunc(func() { close(ready) })
	slow := &watcher{events: make(chan catalog.Event, 64), done: make(chan struct{})}
	slow.start(t, s, "", func(e catalog.Event) {
		if e.Synced {
			<-ready
		}
	})
	t.Cleanup(release) // Before the watcher's own, which waits for it.
	for range 3 {
		slow.next(t)
	}
	before := heap()
	fast := watch(t, s, "")
	for e := fast.next(t); !e.Synced; e = fast.next(t) {
	}
	commit(t, s, remove("victim", victims), remove("again", victims))
	fast.next(t)
	fast.next(t)
	var at [10]catalog.Revision
	for i := range commits {
		name := fmt.Sprint(i % len(at))
		at[i%len(at)] = commit(t, s, put(name, string(bytes.Repeat([]byte{byte(i)}, size)), at[i%len(at)]))
		if e := fast.next(t); e.Revision != at[i%len(at)] {
			t.Fatalf("the fast watcher got revision %d, want %d", e.Revision, at[i%len(at)])
		}
	}
	if now := heap(); now > before+most {
		t.Errorf("the heap grew by %d MB for a watcher that stands still", (now-before)>>20)
	}
	commit(t, s, put("again", "2", 0))
	release()
	wantCaughtUp(t, s, slow)
}

// wantCaughtUp reads the events of slow, and compares what they add up to with what is stored.
func wantCaughtUp(t *testing.T, s catalog.Store, slow *watcher) {
	t.Helper()
	state := map[catalog.Key]string{key("victim"): "1", key("again"): "1"}
	read := func(end catalog.Key) {
		for last := catalog.Revision(0); ; {
			e := slow.next(t)
			if e.Revision < last {
				t.Fatalf("revision %d after %d", e.Revision, last)
			}
			last = e.Revision
			if e.Value == nil {
				delete(state, e.Key)
			} else {
				state[e.Key] = string(e.Value)
			}
			if e.Key == end && e.Value != nil {
				return
			}
		}
	}
	read(key("again"))
	commit(t, s, put("end", "", 0)) // Comes behind all that the watcher has to catch up with.
	read(key("end"))
	if want := stored(t, s); !maps.Equal(state, want) {
		t.Errorf("the slow watcher has %q, want %q", keysOf(state), keysOf(want))
	}
}

func keysOf(m map[catalog.Key]string) []catalog.Key { return slices.Sorted(maps.Keys(m)) }

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watcher is a Watch in the background whose events are read one by one.
type watcher struct {
	events chan catalog.Event
	done   chan struct{}
}

// watch starts a watcher, which ends with the test.
func watch(t *testing.T, s catalog.Store, prefix catalog.Key) *watcher {
	w := &watcher{events: make(chan catalog.Event), done: make(chan struct{})}
	w.start(t, s, prefix, func(catalog.Event) {})
	return w
}

// start runs the watch; after is called with each event once it was sent.
func (w *watcher) start(t *testing.T, s catalog.Store, prefix catalog.Key, after func(catalog.Event)) {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(w.done)
		err := s.Watch(ctx, prefix, func(e catalog.Event) error {
			select {
			case w.events <- e:
				after(e)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
}

func (w *watcher) next(t *testing.T) catalog.Event {
	t.Helper()
	select {
	case e := <-w.events:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event for 30 s")
		return catalog.Event{}
	}
}

func (w *watcher) want(t *testing.T, name, value string, at catalog.Revision) {
	t.Helper()
	if e := w.next(t); e.Key != key(name) || string(e.Value) != value || e.Value == nil || e.Revision != at || e.Synced {
		t.Fatalf("got %v, want %s = %q at %d", e, name, value, at)
	}
}

func (w *watcher) wantSynced(t *testing.T) {
	t.Helper()
	if e := w.next(t); !e.Synced || e.Key != "" || e.Value != nil {
		t.Fatalf("got %v, want synced", e)
	}
}

// inParallel calls f with 0 to n-1 at the same time and waits for all.
func inParallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
