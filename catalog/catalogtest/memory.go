package catalogtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"kiln/catalog"
)

// NewMemory returns an empty catalog.Store that keeps everything in memory. It is for tests: a deleted record leaves a
// tombstone behind for as long as the store lives, and every commit makes every watcher look at every record.
func NewMemory() catalog.Store {
	return &memory{entries: make(map[catalog.Key]catalog.Record), changed: make(chan struct{})}
}

type memory struct {
	mu sync.Mutex
	// entries holds records, and tombstones: entries with a nil Value and the revision of the deletion.
	entries  map[catalog.Key]catalog.Record // +checklocks:mu
	revision catalog.Revision               // +checklocks:mu
	// changed is closed and replaced by every commit.
	changed chan struct{} // +checklocks:mu
}

func (m *memory) Get(ctx context.Context, k catalog.Key) (catalog.Record, error) {
	if err := ctx.Err(); err != nil {
		return catalog.Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.entries[k]
	if r.Value == nil {
		return catalog.Record{Key: k}, nil
	}
	return handOut(r), nil
}

func (m *memory) List(ctx context.Context, prefix, after catalog.Key, limit int) ([]catalog.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var page []catalog.Record
	for k, r := range m.entries {
		if r.Value != nil && k > after && strings.HasPrefix(string(k), string(prefix)) {
			page = append(page, r)
		}
	}
	slices.SortFunc(page, func(a, b catalog.Record) int { return cmp.Compare(a.Key, b.Key) })
	page = page[:min(len(page), max(limit, 0))]
	for i, r := range page {
		page[i] = handOut(r)
	}
	return page, nil
}

func (m *memory) Commit(ctx context.Context, changes ...catalog.Change) (catalog.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", catalog.ErrRefused, err)
	}
	if err := catalog.Validate(changes); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		if have := m.entries[c.Key]; have.Value == nil && c.If != 0 || have.Value != nil && c.If != have.Revision {
			return 0, catalog.ErrConflict
		}
	}
	m.revision++
	for _, c := range changes {
		if c.Value == nil && c.If == 0 {
			continue // What does not exist stays so: nothing for a watcher to see.
		}
		m.entries[c.Key] = catalog.Record{Key: c.Key, Revision: m.revision, Value: c.Value}
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return m.revision, nil
}

func (m *memory) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	entries, seen, changed := m.since(prefix, 0)
	entries = slices.DeleteFunc(entries, func(r catalog.Record) bool { return r.Value == nil })
	if err := deliver(ctx, entries, fn); err != nil {
		return err
	}
	if err := fn(catalog.Event{Synced: true}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		entries, seen, changed = m.since(prefix, seen)
		if err := deliver(ctx, entries, fn); err != nil {
			return err
		}
	}
}

func deliver(ctx context.Context, entries []catalog.Record, fn func(catalog.Event) error) error {
	for _, r := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(catalog.Event{Record: r}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// since returns the records and tombstones under prefix that are newer than seen, in commit order, with the revision up to
// which they go and the channel that says when there is more.
func (m *memory) since(prefix catalog.Key, seen catalog.Revision) ([]catalog.Record, catalog.Revision, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var entries []catalog.Record
	for k, r := range m.entries {
		if r.Revision > seen && strings.HasPrefix(string(k), string(prefix)) {
			entries = append(entries, handOut(r))
		}
	}
	slices.SortFunc(entries, func(a, b catalog.Record) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Key, b.Key))
	})
	return entries, m.revision, m.changed
}

// handOut returns r with a Value that is the caller's own. An empty value stays distinct from nil, which means deleted.
func handOut(r catalog.Record) catalog.Record {
	if r.Value != nil {
		r.Value = append([]byte{}, r.Value...)
	}
	return r
}
