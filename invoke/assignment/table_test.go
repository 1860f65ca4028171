package assignment

import (
	"slices"
	"testing"
	"time"

	"kiln/fleet"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// fill makes environments idle, one second apart, in the order given.
func fill(t *Table, d string, ids ...fleet.EnvironmentID) {
	for range ids {
		t.Take(d)
	}
	for i, id := range ids {
		t.Put(d, id, at(i))
	}
}

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
	if got := table.Retire("d"); !slices.Equal(got, []fleet.EnvironmentID{"a", "b"}) {
		t.Errorf("retired %v", got)
	}
	if table.Put("d", busy, at(9)) {
		t.Error("a busy environment of a retired deployment became idle")
	}
	if len(table.deployments) != 0 {
		t.Error("the retired deployment is still remembered")
	}
}

func TestWhatIsIdleTooLongExpiresOldestFirst(t *testing.T) {
	table := NewTable()
	fill(table, "d", "a", "b", "c") // idle since 0, 1, 2
	if got := table.Expire(at(2)); !slices.Equal(got, []fleet.EnvironmentID{"a", "b"}) {
		t.Errorf("expired %v", got)
	}
	if got := table.Expire(at(3)); !slices.Equal(got, []fleet.EnvironmentID{"c"}) {
		t.Errorf("expired %v", got)
	}
	if len(table.deployments) != 0 {
		t.Error("a deployment without environments is still remembered")
	}
}

func TestTheLongestIdleEnvironmentIsEvicted(t *testing.T) {
	table := NewTable()
	fill(table, "young", "a", "b")
	table.Take("old")
	table.Put("old", "c", at(-1))
	for _, want := range []fleet.EnvironmentID{"c", "a", "b"} {
		if id, ok := table.Evict(); !ok || id != want {
			t.Fatalf("evicted %q, %v; want %q", id, ok, want)
		}
	}
	if _, ok := table.Evict(); ok {
		t.Error("evicted from an empty table")
	}
}

func TestPutWithoutTakeIsABrokenInvariant(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an environment that was not busy became idle")
		}
	}()
	NewTable().Put("d", "a", epoch)
}
