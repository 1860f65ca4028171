package pebblestore

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"kiln/catalog"
)

// Keys of the catalog in the database. A record's value is its revision, 8 bytes big endian, and what was committed.
const (
	recordPrefix = "catalog/record/"
	// revisionKey holds the revision of the last commit. Records alone do not tell: the last commit may have deleted them.
	revisionKey  = "catalog/revision"
	revisionSize = 8
)

// records is the catalog.Store in the database.
type records struct {
	pebble  *pebble.DB
	disk    *disk
	reserve reserve
	// requests hands commits to the committer. It has no buffer: who is not taken yet can still turn back.
	requests chan *request
	// quit is closed when the database closes.
	quit chan struct{}
	// readers counts the calls that read the database.
	readers sync.WaitGroup

	mu     sync.Mutex
	closed bool // +checklocks:mu
	// durable is the state that readers may see.
	durable cut  // +checklocks:mu
	feed    feed // +checklocks:mu
}

// cut says what of the database is durable. Pebble shows a write before it is synced, so the records that the committer is
// writing are hidden behind what they were before.
type cut struct {
	revision catalog.Revision
	// at is the feed's position behind the last durable change.
	at uint64
	// hidden holds the records under way as they were; those that did not exist have revision 0.
	hidden map[catalog.Key]catalog.Record
	// turn changes whenever hidden does.
	turn uint64
}

func openRecords(db *pebble.DB, d *disk, r reserve) (*records, error) {
	value, err := getBytes(db, []byte(revisionKey))
	if err != nil {
		return nil, fmt.Errorf("read revision of catalog: %w", err)
	}
	var last catalog.Revision
	if value != nil {
		if last, _, err = decode(value); err != nil {
			return nil, fmt.Errorf("read revision of catalog: %w", err)
		}
	}
	return &records{
		pebble:   db,
		disk:     d,
		reserve:  r,
		requests: make(chan *request),
		quit:     make(chan struct{}),
		durable:  cut{revision: last},
		feed:     newFeed(),
	}, nil
}

// close waits for readers and lets no more in.
func (s *records) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.readers.Wait()
}

// begin lets a reader in unless ctx has ended or the database is closed. A reader that was let in calls s.readers.Done.
func (s *records) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.readers.Add(1)
	return nil
}

func (s *records) now() cut {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// Get implements catalog.Store.
func (s *records) Get(ctx context.Context, k catalog.Key) (catalog.Record, error) {
	if err := s.begin(ctx); err != nil {
		return catalog.Record{}, err
	}
	defer s.readers.Done()
	r, err := getRecord(s.pebble, k)
	if err != nil {
		return catalog.Record{}, err
	}
	// In this order: what is not hidden after it was read was durable by then.
	if old, ok := s.now().hidden[k]; ok {
		return own(old), nil
	}
	return r, nil
}

// own returns r with a Value that nobody else has. It keeps an empty value distinct from nil.
func own(r catalog.Record) catalog.Record {
	if r.Value != nil {
		r.Value = append([]byte{}, r.Value...)
	}
	return r
}

// List implements catalog.Store.
func (s *records) List(ctx context.Context, prefix, after catalog.Key, limit int) ([]catalog.Record, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.readers.Done()
	if limit <= 0 {
		return nil, nil
	}
	var page []catalog.Record
	_, err := s.scan(prefix, after, func(r catalog.Record) bool {
		page = append(page, own(r))
		return len(page) < limit
	})
	return page, err
}

// scan calls fn with the durable records whose key begins with prefix and sorts after the key after, in key order, until fn
// returns false. The Value is valid during the call only. scan returns the cut that it has shown.
func (s *records) scan(prefix, after catalog.Key, fn func(catalog.Record) bool) (c cut, err error) {
	lower := recordKey(prefix)
	if after >= prefix {
		lower = append(recordKey(after), 0)
	}
	it, c, err := s.iterate(&pebble.IterOptions{LowerBound: lower, UpperBound: prefixEnd(recordKey(prefix))})
	if err != nil {
		return c, fmt.Errorf("list records: %w", asCorrupt(err))
	}
	defer func() {
		// Close returns the error that ended the iteration, if one did.
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("list records: %w", asCorrupt(cerr))
		}
	}()
	return c, c.merge(it, c.held(prefix, after), fn)
}

// iterate returns an iterator and the cut that belongs to it: had the cut changed meanwhile, the iterator might show more than
// the cut hides.
func (s *records) iterate(o *pebble.IterOptions) (*pebble.Iterator, cut, error) {
	for {
		before := s.now()
		it, err := s.pebble.NewIter(o)
		if err != nil || before.turn == s.now().turn {
			return it, before, err
		}
		if err := it.Close(); err != nil {
			return nil, cut{}, err
		}
	}
}

// held returns the hidden records that exist and are asked for, in key order.
func (c cut) held(prefix, after catalog.Key) []catalog.Record {
	var held []catalog.Record
	for k, r := range c.hidden {
		if r.Revision != 0 && k > after && strings.HasPrefix(string(k), string(prefix)) {
			held = append(held, r)
		}
	}
	slices.SortFunc(held, func(a, b catalog.Record) int { return cmp.Compare(a.Key, b.Key) })
	return held
}

// merge calls fn with the records of it that are not hidden, and with those held, in key order.
func (c cut) merge(it *pebble.Iterator, held []catalog.Record, fn func(catalog.Record) bool) error {
	for ok := it.First(); ok; ok = it.Next() {
		k := catalog.Key(strings.TrimPrefix(string(it.Key()), recordPrefix))
		for ; len(held) > 0 && held[0].Key < k; held = held[1:] {
			if !fn(held[0]) {
				return nil
			}
		}
		if _, hidden := c.hidden[k]; hidden {
			continue
		}
		r, err := current(it, k)
		if err != nil || !fn(r) {
			return err
		}
	}
	for ; len(held) > 0 && fn(held[0]); held = held[1:] {
	}
	return nil
}

// current returns the record that it stands on.
func current(it *pebble.Iterator, k catalog.Key) (catalog.Record, error) {
	r := catalog.Record{Key: k}
	value, err := it.ValueAndErr()
	if err == nil {
		r.Revision, r.Value, err = decode(value)
	}
	if err != nil {
		return r, fmt.Errorf("read record %s: %w", k, asCorrupt(err))
	}
	return r, nil
}

// getRecord returns the record under k, with revision 0 if there is none.
func getRecord(from pebble.Reader, k catalog.Key) (catalog.Record, error) {
	r := catalog.Record{Key: k}
	value, err := getBytes(from, recordKey(k))
	if err == nil && value != nil {
		r.Revision, r.Value, err = decode(value)
	}
	if err != nil {
		return catalog.Record{}, fmt.Errorf("read record %s: %w", k, err)
	}
	return r, nil
}

func recordKey(k catalog.Key) []byte { return append([]byte(recordPrefix), k...) }

func encode(r catalog.Revision, value []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, revisionSize+len(value)), uint64(r)), value...)
}

// decode splits a stored value. The result shares memory with it and is not nil.
func decode(stored []byte) (catalog.Revision, []byte, error) {
	if len(stored) < revisionSize {
		return 0, nil, fmt.Errorf("%w: value of %d bytes", ErrCorrupt, len(stored))
	}
	r := catalog.Revision(binary.BigEndian.Uint64(stored))
	if r == 0 {
		return 0, nil, fmt.Errorf("%w: revision 0", ErrCorrupt)
	}
	return r, stored[revisionSize:], nil
}

// prefixEnd returns the first key behind all that begin with prefix, which has a byte below 0xff.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte{}, prefix...)
	for i := len(end) - 1; ; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
}
