package pebblestore

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"kiln/catalog"
)

// maxGroup bounds what is written with one sync, in bytes: more would make everybody in the group wait for the disk's
// throughput, while less would make them wait for its latency.
const maxGroup = 1 << 20

// request is one Commit on its way through the committer.
type request struct {
	changes []catalog.Change
	// done is closed when the fields below are set.
	done     chan struct{}
	revision catalog.Revision
	err      error
}

func (r *request) size() (n int) {
	for _, c := range r.changes {
		n += len(c.Key) + len(c.Value)
	}
	return n
}

// Commit implements catalog.Store. When ctx ends while the disk is at work, Commit returns ctx's error, and the changes may have
// been made.
func (s *records) Commit(ctx context.Context, changes ...catalog.Change) (catalog.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := catalog.Validate(changes); err != nil {
		return 0, err
	}
	r := &request{changes: changes, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.quit:
		return 0, ErrClosed
	}
	select {
	case <-r.done:
		return r.revision, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run is the committer.
func (s *records) run() {
	for {
		select {
		case r := <-s.requests:
			s.commit(s.gather(r))
		case <-s.quit:
			return
		}
	}
}

// gather returns first and what else is waiting.
func (s *records) gather(first *request) []*request {
	group := []*request{first}
	for size := first.size(); size < maxGroup; {
		select {
		case r := <-s.requests:
			group = append(group, r)
			size += r.size()
		default:
			return group
		}
	}
	return group
}

// commit decides a group of requests, stores what holds and answers all.
func (s *records) commit(group []*request) {
	w := &writes{
		batch:    s.pebble.NewBatch(),
		stored:   s.pebble,
		before:   make(map[catalog.Key]catalog.Record),
		staged:   make(map[catalog.Key]catalog.Revision),
		revision: s.now().revision,
	}
	for _, r := range group {
		r.revision, r.err = w.add(r.changes)
	}
	err := w.err
	if err == nil {
		err = s.reserve.check()
	}
	if err == nil {
		err = s.store(w)
	}
	for _, r := range group {
		if err != nil {
			// A conflict too may be with a request of this group, which was not stored.
			r.revision, r.err = 0, err
		}
		close(r.done)
	}
}

// store makes what was staged durable, then visible.
func (s *records) store(w *writes) error {
	if w.revision == s.now().revision {
		return w.batch.Close()
	}
	if err := s.disk.failure(); err != nil {
		return err // What was under way when the disk failed must stay hidden.
	}
	s.hide(w.before)
	err := s.disk.run(func() error {
		if err := w.batch.Set([]byte(revisionKey), encode(w.revision, nil), nil); err != nil {
			return err
		}
		if err := w.batch.Commit(pebble.Sync); err != nil {
			return err
		}
		return w.batch.Close()
	})
	if err != nil {
		s.disk.fail(err) // Whatever it was: what is stored is unknown, and stays hidden.
		return fmt.Errorf("store commit: %w", s.disk.failure())
	}
	s.publish(w)
	return nil
}

// hide shows readers the records in before as they are there, whatever is written to them.
func (s *records) hide(before map[catalog.Key]catalog.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable.hidden = before
	s.durable.turn++
}

// publish moves readers and watchers on to what w has stored.
func (s *records) publish(w *writes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feed.add(w.events)
	s.durable = cut{revision: w.revision, at: s.feed.end(), turn: s.durable.turn + 1}
}

// writes is what a group of requests is about to write.
type writes struct {
	batch  *pebble.Batch
	stored pebble.Reader
	// before holds the records that were looked at, as they are stored.
	before map[catalog.Key]catalog.Record
	// staged holds the revisions of the records in the batch, 0 for a deletion.
	staged   map[catalog.Key]catalog.Revision
	events   []catalog.Event
	revision catalog.Revision
	// err is why the batch must not be stored: it has a part of a request.
	err error
}

// add puts changes into the batch if they hold, and returns their revision.
func (w *writes) add(changes []catalog.Change) (catalog.Revision, error) {
	for _, c := range changes {
		at, err := w.at(c.Key)
		if err != nil {
			return 0, err
		}
		if at != c.If {
			return 0, catalog.ErrConflict
		}
	}
	next := w.revision + 1
	for _, c := range changes {
		if c.Value == nil && c.If == 0 {
			continue // What does not exist stays so: nothing for a watcher to see.
		}
		if err := w.stage(next, c); err != nil {
			w.err = fmt.Errorf("stage record %s: %w", c.Key, err)
			return 0, w.err
		}
	}
	w.revision = next
	return next, nil
}

// at returns the revision of the record under k.
func (w *writes) at(k catalog.Key) (catalog.Revision, error) {
	if r, ok := w.staged[k]; ok {
		return r, nil
	}
	r, ok := w.before[k]
	if ok {
		return r.Revision, nil
	}
	r, err := getRecord(w.stored, k)
	if err == nil {
		w.before[k] = r
	}
	return r.Revision, err
}

func (w *writes) stage(at catalog.Revision, c catalog.Change) error {
	w.events = append(w.events, catalog.Event{Record: catalog.Record{Key: c.Key, Revision: at, Value: c.Value}})
	if c.Value == nil {
		w.staged[c.Key] = 0
		return w.batch.Delete(recordKey(c.Key), nil)
	}
	w.staged[c.Key] = at
	return w.batch.Set(recordKey(c.Key), encode(at, c.Value), nil)
}

// reserve is the space on the disk that commits must leave free.
type reserve struct {
	bytes     uint64
	available func() (uint64, error)
}

func (r reserve) check() error {
	left, err := r.available()
	if err != nil {
		return fmt.Errorf("read free space of disk: %w", err)
	}
	if left < r.bytes {
		return fmt.Errorf("%w: %d MB left, %d MB are kept free", ErrFull, left>>20, r.bytes>>20)
	}
	return nil
}
