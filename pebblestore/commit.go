package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// refused marks the error of a commit of which nothing was written.
func refused(err error) error { return fmt.Errorf("%w: %w", catalog.ErrRefused, err) }

// Commit implements catalog.Store. When ctx ends while the disk is at work, Commit returns ctx's error, and the changes may have
// been made.
func (s *records) Commit(ctx context.Context, changes ...catalog.Change) (catalog.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, refused(err)
	}
	if err := catalog.Validate(changes); err != nil {
		return 0, err
	}
	r := &request{changes: changes, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return 0, refused(ctx.Err())
	case <-s.quit:
		return 0, refused(ErrClosed)
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
	w := s.newWrites()
	s.decide(w, group)
	err := s.store(w)
	for _, r := range group {
		// A conflict too may be with a request of this group, which was not stored.
		if err != nil && !errors.Is(r.err, catalog.ErrRefused) {
			r.revision, r.err = 0, err
		}
		close(r.done)
	}
}

// newWrites returns writes with nothing in them yet. Pass them to store, which closes them.
func (s *records) newWrites() *writes {
	return &writes{
		batch:    s.pebble.NewBatch(),
		stored:   s.pebble,
		before:   make(map[catalog.Key]catalog.Record),
		staged:   make(map[catalog.Key]catalog.Revision),
		revision: s.now().revision,
	}
}

// decide puts into w those requests that hold and for which the disk has room.
func (s *records) decide(w *writes, group []*request) {
	left, err := s.reserve.available()
	for _, r := range group {
		if err != nil {
			r.err = refused(fmt.Errorf("read free space of disk: %w", err))
		} else {
			r.err = s.reserve.check(left, r.changes)
		}
		if r.err == nil {
			r.revision, r.err = w.add(r.changes)
		}
	}
}

// store makes what was staged durable, then visible. It closes the batch.
func (s *records) store(w *writes) error {
	err := w.err
	if err == nil {
		err = s.disk.failure() // What was under way when the disk failed must stay hidden.
	}
	if err != nil {
		return errors.Join(refused(err), w.batch.Close())
	}
	if w.revision == s.now().revision {
		return w.batch.Close()
	}
	s.hide(w.before)
	// When the disk fails, write goes on behind run's back and has the batch: nobody else may close it.
	if err := s.disk.run(w.write); err != nil {
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
			return 0, refused(err)
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

// write makes the batch durable and closes it.
func (w *writes) write() error {
	err := w.batch.Set([]byte(revisionKey), encode(w.revision, nil), nil)
	if err == nil {
		err = w.batch.Commit(pebble.Sync)
	}
	return errors.Join(err, w.batch.Close())
}

// reserve is the space on the disk that commits must leave free.
type reserve struct {
	bytes     uint64
	available func() (uint64, error)
}

// check returns an error that wraps ErrFull unless changes can be stored with left bytes free. Deletions may use half of the
// reserve: they are the way out of a full disk.
func (r reserve) check(left uint64, changes []catalog.Change) error {
	keep := r.bytes
	if !slices.ContainsFunc(changes, func(c catalog.Change) bool { return c.Value != nil }) {
		keep /= 2
	}
	if left < keep {
		return refused(fmt.Errorf("%w: %d MB left, %d MB are kept free", ErrFull, left>>20, keep>>20))
	}
	return nil
}
