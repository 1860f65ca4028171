package pebblestore

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"kiln/catalog"
)

// Bounds of what is kept for watchers that are a little behind. A watcher that falls out of it reads the store.
const (
	maxFeedEvents = 4096
	maxFeedBytes  = 4 << 20
)

// feed is the end of the sequence of all changes since the database was opened.
type feed struct {
	events []catalog.Event
	// first is the position of events[0] in the sequence.
	first uint64
	bytes int
	// more is closed and replaced when events come.
	more chan struct{}
}

func newFeed() feed { return feed{more: make(chan struct{})} }

// end is the position of the next event.
func (f *feed) end() uint64 { return f.first + uint64(len(f.events)) }

func (f *feed) add(events []catalog.Event) {
	for _, e := range events {
		f.events = append(f.events, e)
		f.bytes += eventSize(e)
		for f.bytes > maxFeedBytes || len(f.events) > maxFeedEvents {
			f.bytes -= eventSize(f.events[0])
			f.events[0] = catalog.Event{} // Lets go of the value: the array lives on.
			f.events = f.events[1:]
			f.first++
		}
	}
	close(f.more)
	f.more = make(chan struct{})
}

func eventSize(e catalog.Event) int { return len(e.Key) + len(e.Value) }

// since returns events from position at on, and false if they are no longer there.
func (f *feed) since(at uint64) ([]catalog.Event, bool) {
	const most = 64 // Few enough that a slow watcher keeps little alive.
	if at < f.first {
		return nil, false
	}
	rest := f.events[at-f.first:]
	return slices.Clone(rest[:min(len(rest), most)]), true
}

// since returns the feed's events from position at on, and the channel that says when there are more. ok is false if the feed
// does not go back so far.
func (s *records) since(at uint64) (events []catalog.Event, more <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, ok = s.feed.since(at)
	return events, s.feed.more, ok
}

// watcher is one Watch.
type watcher struct {
	store  *records
	prefix catalog.Key
	fn     func(catalog.Event) error
	// known holds the revision of each record as fn has last seen it. It tells which records were deleted while the watcher was
	// behind, and which events of the feed fn has seen already.
	known map[catalog.Key]catalog.Revision
	// at is the position in the feed of the next event to look at.
	at uint64
}

// Watch implements catalog.Store. It returns ErrClosed when the database closes.
func (s *records) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	w := &watcher{store: s, prefix: prefix, fn: fn, known: make(map[catalog.Key]catalog.Revision)}
	if err := w.begin(ctx); err != nil {
		return err
	}
	if err := w.send(ctx, catalog.Event{Synced: true}); err != nil {
		return err
	}
	for {
		if err := w.step(ctx); err != nil {
			return err
		}
	}
}

func (w *watcher) step(ctx context.Context) error {
	events, more, ok := w.store.since(w.at)
	switch {
	case !ok:
		return w.catchUp(ctx)
	case len(events) > 0:
		return w.replay(ctx, events)
	}
	select {
	case <-more:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.store.quit:
		return ErrClosed
	}
}

// begin sends all that is stored. It reads page by page, so that nothing in the database is held while fn runs; what changes
// meanwhile comes again through the feed, from the position before the first page on.
func (w *watcher) begin(ctx context.Context) error {
	w.at = w.store.now().at
	const pageSize = 64
	for after := catalog.Key(""); ; {
		page, err := w.store.List(ctx, w.prefix, after, pageSize)
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := w.send(ctx, catalog.Event{Record: r}); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1].Key
	}
}

// replay sends what fn has not seen of events.
func (w *watcher) replay(ctx context.Context, events []catalog.Event) error {
	for _, e := range events {
		w.at++
		seen := w.known[e.Key]
		old := e.Revision <= seen || e.Value == nil && seen == 0
		if old || !strings.HasPrefix(string(e.Key), string(w.prefix)) {
			continue
		}
		if err := w.send(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// catchUp sends the newest state of what changed while the watcher was too far behind the feed: writes in the order of their
// revisions, then deletions, whose own revisions are lost, under the revision of the state that lacks them. It holds keys
// and revisions only, and reads values one by one. A record that was changed again in the meantime is left to the feed, which
// the watcher follows from that state on.
func (w *watcher) catchUp(ctx context.Context) error {
	changed, deleted, err := w.missed(ctx)
	if err != nil {
		return err
	}
	for _, c := range changed {
		r, err := w.store.Get(ctx, c.Key)
		if err != nil {
			return err
		}
		if r.Revision != c.Revision {
			continue
		}
		if err := w.send(ctx, catalog.Event{Record: r}); err != nil {
			return err
		}
	}
	for _, r := range deleted {
		if err := w.send(ctx, catalog.Event{Record: r}); err != nil {
			return err
		}
	}
	return nil
}

// missed compares what is stored with what fn knows, and returns records without values. It moves w.at on to that state.
func (w *watcher) missed(ctx context.Context) (changed, deleted []catalog.Record, err error) {
	if err := w.store.begin(ctx); err != nil {
		return nil, nil, err
	}
	defer w.store.readers.Done()
	stored := make(map[catalog.Key]bool, len(w.known))
	c, err := w.store.scan(w.prefix, "", func(r catalog.Record) bool {
		stored[r.Key] = true
		if r.Revision > w.known[r.Key] {
			changed = append(changed, catalog.Record{Key: r.Key, Revision: r.Revision})
		}
		return true
	})
	if err != nil {
		return nil, nil, err
	}
	for k := range w.known {
		if !stored[k] {
			deleted = append(deleted, catalog.Record{Key: k, Revision: c.revision})
		}
	}
	slices.SortFunc(changed, func(a, b catalog.Record) int { return cmp.Compare(a.Revision, b.Revision) })
	slices.SortFunc(deleted, func(a, b catalog.Record) int { return cmp.Compare(a.Key, b.Key) })
	w.at = c.at
	return changed, deleted, nil
}

// send gives e to fn and notes it.
func (w *watcher) send(ctx context.Context, e catalog.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case e.Synced:
	case e.Value == nil:
		delete(w.known, e.Key)
	default:
		w.known[e.Key] = e.Revision
	}
	return w.fn(e)
}
