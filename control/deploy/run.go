package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"kiln"
	"kiln/catalog"
)

// follow feeds the inventory and the agendas from the store, and closes synced when they know everything.
func (s *Service) follow(ctx context.Context, synced chan<- struct{}) error {
	s.inventory.restart()
	err := s.cfg.Store.Watch(ctx, "", func(e catalog.Event) error {
		if e.Synced {
			s.inventory.sync()
			close(synced)
			return nil
		}
		s.see(e)
		return nil
	})
	return fmt.Errorf("watch the catalog: %w", err)
}

// see takes note of a record's change.
func (s *Service) see(e catalog.Event) {
	if !isCounted(e.Key) {
		return
	}
	if e.Value == nil {
		s.forget(s.inventory.show(e.Key, entry{revision: e.Revision, deleted: true}))
		return
	}
	v, known, err := read(e.Record)
	if err != nil {
		s.inventory.obscure()
		s.cfg.Log.Error("unreadable record in the catalog", "key", e.Key, "err", err)
		return
	}
	s.forget(s.inventory.show(e.Key, known))
	if v != nil && unsettled(v) {
		now := s.cfg.Now()
		// now carries the monotonic clock, which the time in a record does not: a clock that is set back holds nobody up.
		s.unsettled.add(e.Key, now.Add(settleAt(v, now, s.cfg.Settle).Sub(now)))
	}
}

// forget puts code that nothing refers to on the agenda.
func (s *Service) forget(codes []object) {
	for _, c := range codes {
		s.unreferenced.add(c, s.cfg.Now().Add(s.cfg.Keep))
	}
}

// willRetry logs what failed beside the operations.
func (s *Service) willRetry(err error) {
	s.cfg.Log.Error("work beside the operations will be tried again", "err", err)
}

// settle lets the record under k leave Pending or InProgress. If it is changed meanwhile, the watch brings it here again.
func (s *Service) settle(ctx context.Context, k catalog.Key) error {
	r, err := s.cfg.Store.Get(ctx, k)
	if err != nil {
		return fmt.Errorf("read %s: %w", k, err)
	}
	if r.Revision == 0 {
		return nil
	}
	w, ok, err := settledRecord(r, s.cfg.NewID())
	if err != nil {
		s.cfg.Log.Error("unreadable record in the catalog", "key", k, "err", err)
		return nil
	}
	if !ok {
		return nil
	}
	if _, err := s.commit(ctx, w); err != nil && !errors.Is(err, catalog.ErrConflict) {
		return fmt.Errorf("settle %s: %w", k, err)
	}
	return nil
}

// settledRecord returns what to write in place of r so that it is settled, and false if it is.
func settledRecord(r catalog.Record, revision string) (write, bool, error) {
	if !isFunctionKey(r.Key) {
		var v kiln.Version
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return write{}, false, err
		}
		next, ok := settled(v, revision)
		return write{key: r.Key, at: r.Revision, value: next, refers: entryOf(&next, functionIDOf(r.Key))}, ok, nil
	}
	var f kiln.Function
	if err := json.Unmarshal(r.Value, &f); err != nil {
		return write{}, false, err
	}
	latest, ok := settled(f.Latest, revision)
	f.Latest = latest
	return functionWrite(&f, r.Revision), ok, nil
}

// tidy lets removeLeftovers succeed once synced is closed.
func (s *Service) tidy(ctx context.Context, synced <-chan struct{}) error {
	select {
	case <-synced:
	case <-ctx.Done():
		return ctx.Err()
	}
	for failures := 0; ; failures++ {
		err := s.removeLeftovers(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		s.willRetry(err)
		if err := wait(ctx, retryDelay(failures), nil); err != nil {
			return err
		}
	}
}

// removeLeftovers removes what processes that died have left: versions of functions that are gone, and code that nothing refers
// to.
func (s *Service) removeLeftovers(ctx context.Context) error {
	for o := range s.inventory.orphans() {
		if err := s.removeOrphan(ctx, o); err != nil {
			return fmt.Errorf("remove the versions of deleted function %s: %w", o.name, err)
		}
	}
	err := s.cfg.Blobs.List(ctx, func(a kiln.AccountID, d kiln.Digest) error {
		s.forget(s.inventory.unusedOf(object{a, d}))
		return nil
	})
	if err != nil {
		return fmt.Errorf("list stored code: %w", err)
	}
	return nil
}

// removeOrphan removes the versions of a function unless it is there after all. A function that is gone does not come back: one
// of the same name has another ID.
func (s *Service) removeOrphan(ctx context.Context, o orphan) error {
	r, err := s.cfg.Store.Get(ctx, catalog.FunctionKey(o.account, o.name))
	if err != nil {
		return err
	}
	if r.Revision != 0 {
		var f kiln.Function
		if err := json.Unmarshal(r.Value, &f); err != nil || f.ID == o.function {
			return err
		}
	}
	return s.removeVersions(ctx, o)
}

// removeVersions deletes all versions of a function whose own record is gone.
func (s *Service) removeVersions(ctx context.Context, o orphan) error {
	prefix := catalog.VersionPrefix(o.account, o.name, o.function)
	for {
		page, err := s.cfg.Store.List(ctx, prefix, "", catalog.MaxChanges)
		if err != nil || len(page) == 0 {
			return err
		}
		writes := make([]write, len(page))
		for i, r := range page {
			writes[i] = write{key: r.Key, at: r.Revision}
		}
		// A version that is settled meanwhile is read again.
		if _, err := s.commit(ctx, writes...); err != nil && !errors.Is(err, catalog.ErrConflict) {
			return err
		}
	}
}

// deleteCode deletes code if nothing refers to it.
func (s *Service) deleteCode(ctx context.Context, code object) error {
	if !s.inventory.take(code) {
		return nil
	}
	defer s.inventory.gone(code)
	if err := s.cfg.Blobs.Delete(ctx, code.account, code.digest); err != nil {
		return fmt.Errorf("delete unused code %s of %s: %w", code.digest, code.account, err)
	}
	return nil
}
