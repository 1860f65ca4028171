package assignment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kiln/fleet"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// never is later than any time of these tests.
var never = at(1 << 30)

// add starts an environment of d that holds 100 MB, took a second to start, and is busy.
func add(t *Table, d string, id fleet.EnvironmentID) {
	addAs(t, d, Start{ID: id, Took: time.Second, MemoryMB: 100, Until: never})
}

func addAs(t *Table, d string, s Start) {
	if _, ok := t.Take(d); ok {
		panic(d + " has an idle environment")
	}
	t.Add(d, s)
}

// fill makes environments idle, one second apart, in the order given.
func fill(t *Table, d string, ids ...fleet.EnvironmentID) {
	for _, id := range ids {
		add(t, d, id)
	}
	for i, id := range ids {
		t.Put(id, at(i))
	}
}

// isEmpty reports whether nothing is remembered.
func isEmpty(t *Table) bool { return len(t.deployments)+len(t.environments)+len(t.ranking) == 0 }

// names are the environments' names.
func names(all []Start) []fleet.EnvironmentID {
	ids := make([]fleet.EnvironmentID, len(all))
	for i, s := range all {
		ids[i] = s.ID
	}
	return ids
}

func anyone(Start, time.Time) bool { return true }

func TestTheNewestIdleEnvironmentIsTakenFirst(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a", "b", "c")
	for _, want := range []fleet.EnvironmentID{"c", "b", "a"} {
		if id, ok := table.Take("d"); !ok || id != want {
			t.Fatalf("took %q, %v; want %q", id, ok, want)
		}
	}
	if id, ok := table.Take("d"); ok {
		t.Errorf("took %q from an empty stack", id)
	}
}

func TestEnvironmentsServeTheirOwnDeploymentOnly(t *testing.T) {
	table := NewTable()
	fill(table, "d1", "a")
	if id, ok := table.Take("d2"); ok {
		t.Errorf("d2 got %q of d1", id)
	}
}

func TestRetiringStopsIdleEnvironmentsAndRefusesBusyOnes(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a", "b", "c")
	busy, _ := table.Take("d")
	if got := names(table.Retire("d")); !slices.Equal(got, []fleet.EnvironmentID{"a", "b"}) {
		t.Errorf("retired %v", got)
	}
	if _, ok := table.Put(busy, at(9)); ok {
		t.Error("a busy environment of a retired deployment became idle")
	}
	if !isEmpty(table) {
		t.Error("the retired deployment is still remembered")
	}
}

func TestWhatIsIdleTooLongExpiresOldestFirst(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a", "b", "c") // idle since 0, 1, 2
	if got := names(table.Expire(at(2))); !slices.Equal(got, []fleet.EnvironmentID{"a", "b"}) {
		t.Errorf("expired %v", got)
	}
	if got := names(table.Expire(at(3))); !slices.Equal(got, []fleet.EnvironmentID{"c"}) {
		t.Errorf("expired %v", got)
	}
	if !isEmpty(table) {
		t.Error("a deployment without environments is still remembered")
	}
}

func TestWhatIsTooOldExpiresAndDoesNotBecomeIdle(t *testing.T) {
	table := NewTable()
	for id, until := range map[fleet.EnvironmentID]time.Time{"a": at(10), "b": at(20), "c": at(30)} {
		addAs(table, "d", Start{ID: id, Until: until})
	}
	if why, ok := table.Put("a", at(10)); ok || why != fleet.Aged {
		t.Error("an environment became idle when it was too old")
	}
	_, ok1 := table.Put("b", at(11))
	_, ok2 := table.Put("c", at(12))
	if !ok1 || !ok2 {
		t.Error("an environment did not become idle though it was not too old")
	}
	if got := table.Age(at(19)); len(got) != 0 {
		t.Errorf("expired %v", got)
	}
	if got := names(table.Age(at(20))); !slices.Equal(got, []fleet.EnvironmentID{"b"}) {
		t.Errorf("expired %v", got)
	}
}

func TestWhatIsWorthLeastIsEvictedFirst(t *testing.T) {
	const fast, slow = 100 * time.Millisecond, time.Second
	type idle struct {
		id    fleet.EnvironmentID
		took  time.Duration
		mb    int
		since int
	}
	for name, c := range map[string]struct {
		idle []idle
		want []fleet.EnvironmentID
	}{
		"equals by the time of their last use":   {[]idle{{"new", fast, 128, 9}, {"old", fast, 128, 1}, {"mid", fast, 128, 5}}, []fleet.EnvironmentID{"old", "mid", "new"}},
		"what starts fast before what is slow":   {[]idle{{"slow", slow, 128, 1}, {"fast", fast, 128, 9}}, []fleet.EnvironmentID{"fast", "slow"}},
		"what holds much before what is small":   {[]idle{{"small", fast, 128, 1}, {"large", fast, 3008, 9}}, []fleet.EnvironmentID{"large", "small"}},
		"time for memory":                        {[]idle{{"large", slow, 1280, 9}, {"small", fast, 128, 1}}, []fleet.EnvironmentID{"small", "large"}},
		"what no start was timed of before else": {[]idle{{"timed", fast, 128, 1}, {"untimed", 0, 128, 9}}, []fleet.EnvironmentID{"untimed", "timed"}},
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable()
			for _, i := range c.idle {
				d := "deployment of " + string(i.id)
				addAs(table, d, Start{ID: i.id, Took: i.took, MemoryMB: i.mb, Until: never})
				table.Put(i.id, at(i.since))
			}
			for _, want := range c.want {
				if s, ok := table.Evict(anyone); !ok || s.ID != want {
					t.Fatalf("evicted %q, %v; want %q", s.ID, ok, want)
				}
			}
			if _, ok := table.Evict(anyone); ok || !isEmpty(table) {
				t.Error("more was evicted than there was")
			}
		})
	}
}

func TestOnlyWhatMayBeIsEvicted(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a", "b", "c")
	s, ok := table.Evict(func(s Start, since time.Time) bool { return s.ID != "a" && since.Before(at(2)) })
	if !ok || s.ID != "b" {
		t.Errorf("evicted %q, want b", s.ID)
	}
	if s, ok := table.Evict(func(Start, time.Time) bool { return false }); ok {
		t.Errorf("evicted %q, which may not be", s.ID)
	}
}

func TestWhatIsNotUsedLosesItsWorthWithEachEviction(t *testing.T) {
	table := NewTable()
	addAs(table, "dear", Start{ID: "dear", Took: 3 * time.Second, MemoryMB: 100, Until: never})
	table.Put("dear", at(0))
	evictions := 0
	for i := 1; i < 100; i++ {
		id := fleet.EnvironmentID(fmt.Sprint("cheap", i))
		addAs(table, string(id), Start{ID: id, Took: time.Second, MemoryMB: 100, Until: never})
		table.Put(id, at(i))
		victim, _ := table.Evict(anyone)
		if victim.ID == "dear" {
			break
		}
		evictions++
	}
	if evictions < 2 || evictions > 4 {
		t.Errorf("an environment that takes three times as long to start outlived %d others", evictions)
	}
	add(table, "used", "used")
	table.Put("used", at(200))
	for i := range 50 {
		id, ok := table.Take("used")
		if !ok {
			t.Fatalf("an environment was evicted though it was used after each of %d evictions", i)
		}
		table.Put(id, at(201+i))
		other := fleet.EnvironmentID(fmt.Sprint("other", i))
		add(table, string(other), other)
		table.Put(other, at(200))
		table.Evict(anyone)
	}
}

func TestAnEnvironmentThatEndsIsForgotten(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a", "b", "c")
	table.Ended("b")
	table.Ended("unknown")
	for _, want := range []fleet.EnvironmentID{"c", "a"} {
		if id, _ := table.Take("d"); id != want {
			t.Errorf("took %q, want %q", id, want)
		}
	}
	table.Ended("a")
	if _, ok := table.Put("a", at(9)); ok {
		t.Error("an environment became idle that had ended while it was busy")
	}
	table.Drop("c")
	if !isEmpty(table) {
		t.Error("ended environments are still remembered")
	}
}

func TestPutWithoutTakeIsABrokenInvariant(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a")
	defer func() {
		if recover() == nil {
			t.Error("an environment that was not busy became idle")
		}
	}()
	table.Put("a", epoch)
}

// BenchmarkEvict evicts one environment of 10,000 and puts another in its place.
func BenchmarkEvict(b *testing.B) {
	table := NewTable()
	next := 0
	put := func() {
		id := fleet.EnvironmentID(fmt.Sprint("e", next))
		addAs(table, fmt.Sprint("d", next), Start{ID: id, Took: time.Duration(next%97) * time.Millisecond, MemoryMB: 128 << (next % 5), Until: never})
		table.Put(id, at(next))
		next++
	}
	for range 10_000 {
		put()
	}
	for b.Loop() {
		table.Evict(anyone)
		put()
	}
}
