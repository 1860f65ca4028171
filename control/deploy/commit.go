package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"kiln"
	"kiln/catalog"
	"kiln/catalog/ref"
)

// maxAttempts bounds how often an operation begins anew because others changed the function at the same time. Each time one of
// them succeeds.
const maxAttempts = 16

var errOutcomeUnknown = errors.New("commit with unknown outcome")

// write is a record to write. One without a value deletes the record.
type write struct {
	key   catalog.Key
	at    catalog.Revision
	value any
	// refers is what the inventory is to know of the value.
	refers entry
}

func functionWrite(f *kiln.Function, at catalog.Revision) write {
	v := &f.Latest
	return write{key: catalog.FunctionKey(v.Account, v.Function), at: at, value: f, refers: entryOf(v, f.ID)}
}

// versionWrite writes v, the new version number n of the function with that ID.
func versionWrite(v kiln.Version, function string, n int) write {
	return write{key: catalog.VersionKey(v.Account, v.Function, function, n), value: v, refers: entryOf(&v, function)}
}

// entry is what the inventory is to know of the record once it was committed.
func (w write) entry(revision catalog.Revision) *entry {
	if w.value == nil {
		return &entry{revision: revision, deleted: true}
	}
	return new(w.refers.at(revision))
}

// commit makes all writes or none. It returns catalog.ErrConflict if nothing was written because a record has changed,
// AWS's error if the account has no room for more code, and errOutcomeUnknown if something may have been written. It does not end
// with ctx once it has begun, because then nobody would know.
func (s *Service) commit(ctx context.Context, writes ...write) (catalog.Revision, error) {
	changes, err := encode(writes)
	if err != nil {
		return 0, err
	}
	room, ok := s.inventory.claim(writes)
	if !ok {
		return 0, errCodeStorage()
	}
	defer s.inventory.unclaim(room)
	if err := s.enter(ctx, writes); err != nil {
		return 0, err
	}
	revision, err := s.cfg.Store.Commit(context.WithoutCancel(ctx), changes...)
	if err != nil && !errors.Is(err, catalog.ErrConflict) && !errors.Is(err, catalog.ErrRefused) {
		return 0, fmt.Errorf("%w: %w", errOutcomeUnknown, err) // the inventory keeps what enter has told it
	}
	for _, w := range writes {
		if err != nil {
			s.leave(w, nil)
		} else {
			s.leave(w, w.entry(revision))
		}
	}
	return revision, err
}

// enter tells the inventory what is about to be written.
func (s *Service) enter(ctx context.Context, writes []write) error {
	for i, w := range writes {
		if err := s.hold(ctx, w.refers.codes); err != nil {
			for _, entered := range writes[:i] {
				s.leave(entered, nil)
			}
			return err
		}
		s.inventory.enter(w.key)
	}
	return nil
}

// leave tells the inventory what became of w: e, or nothing if that is nil. The code is let go only when e is counted.
func (s *Service) leave(w write, e *entry) {
	s.forget(s.inventory.leave(w.key, e))
	s.release(w.refers.codes)
}

func encode(writes []write) ([]catalog.Change, error) {
	changes := make([]catalog.Change, len(writes))
	for i, w := range writes {
		changes[i] = catalog.Change{Key: w.key, If: w.at}
		if w.value == nil {
			continue
		}
		text, err := json.Marshal(w.value)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", w.key, err)
		}
		changes[i].Value = text
	}
	return changes, nil
}

// find reads the function that r names. It fails with AWS's ResourceNotFound, which names r as the caller did.
func (s *Service) find(ctx context.Context, r ref.Ref) (*kiln.Function, catalog.Revision, error) {
	record, err := s.cfg.Store.Get(ctx, catalog.FunctionKey(r.Account, r.Name))
	if err != nil {
		return nil, 0, fmt.Errorf("read function %s: %w", r.Name, err)
	}
	if record.Revision == 0 {
		return nil, 0, r.NotFound(s.cfg.Region)
	}
	var f kiln.Function
	if err := json.Unmarshal(record.Value, &f); err != nil {
		return nil, 0, fmt.Errorf("read function %s: %w", r.Name, err)
	}
	return &f, record.Revision, nil
}

// change lets decide change the function that r names and say what else to write with it, and writes all that. It begins anew with
// the new function when somebody else has changed it.
func (s *Service) change(ctx context.Context, r ref.Ref, decide func(*kiln.Function) ([]write, error)) error {
	for range maxAttempts {
		f, at, err := s.find(ctx, r)
		if err != nil {
			return err
		}
		more, err := decide(f)
		if err != nil {
			return err
		}
		_, err = s.commit(ctx, append(more, functionWrite(f, at))...)
		if !errors.Is(err, catalog.ErrConflict) {
			return err
		}
	}
	return inProgress(r, s.cfg.Region)
}

// findVersion reads the version that r names: $LATEST if r has no qualifier, and what an alias names without its weights.
func (s *Service) findVersion(ctx context.Context, r ref.Ref) (*kiln.Function, *kiln.Version, error) {
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	if r.Qualifier == "" || r.Qualifier == kiln.LatestVersion {
		return f, &f.Latest, nil
	}
	q := r.Qualifier
	if a, ok := f.Aliases[kiln.AliasName(q)]; ok {
		q = a.Version
	}
	if q == kiln.LatestVersion {
		return f, &f.Latest, nil
	}
	n, ok := ref.Number(q)
	if !ok {
		return nil, nil, r.NotFound(s.cfg.Region)
	}
	v, _, err := s.published(ctx, f, n)
	if err != nil {
		return nil, nil, err
	}
	if v == nil {
		return nil, nil, r.NotFound(s.cfg.Region)
	}
	return f, v, nil
}

// published reads version n of f, nil if there is none.
func (s *Service) published(ctx context.Context, f *kiln.Function, n int) (*kiln.Version, catalog.Revision, error) {
	record, err := s.cfg.Store.Get(ctx, catalog.VersionKey(f.Latest.Account, f.Latest.Function, f.ID, n))
	if err != nil {
		return nil, 0, fmt.Errorf("read version %d of %s: %w", n, f.Latest.Function, err)
	}
	if record.Revision == 0 {
		return nil, 0, nil
	}
	var v kiln.Version
	if err := json.Unmarshal(record.Value, &v); err != nil {
		return nil, 0, fmt.Errorf("read version %d of %s: %w", n, f.Latest.Function, err)
	}
	return &v, record.Revision, nil
}
