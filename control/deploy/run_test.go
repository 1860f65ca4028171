package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

// full is a store that refuses commits while its disk is full.
type full struct {
	catalog.Store
	full    atomic.Bool
	refused atomic.Int32
}

func (f *full) Commit(ctx context.Context, changes ...catalog.Change) (catalog.Revision, error) {
	if f.full.Load() {
		f.refused.Add(1)
		return 0, fmt.Errorf("%w: %w", catalog.ErrRefused, errDisk)
	}
	return f.Store.Commit(ctx, changes...)
}

// newFullNode makes a node whose disk can be full.
func newFullNode(t *testing.T) (*node, *full) {
	disk := &full{Store: catalogtest.NewMemory()}
	n := &node{T: t, store: disk, blobs: newMemoryBlobs()}
	n.start()
	return n, disk
}

func TestAVersionSettlesOnceTheStoreTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, disk := newFullNode(t)
		_ = must(n.create("f"))
		disk.full.Store(true)
		n.settleDown()
		n.wantState(n.configuration("f", ""), "Pending", "")
		time.Sleep(time.Hour) // the bubble's clock
		// At 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 and 63.5 seconds, then every minute.
		if tries := disk.refused.Load(); tries != 65 {
			t.Errorf("tried %d times in an hour, want 65", tries)
		}
		disk.full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		n.wantState(n.configuration("f", ""), "Active", "Successful")
	})
}

func TestLeftVersionsAreRemovedOnceTheStoreTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, disk := newFullNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		n.stop()
		key := catalog.FunctionKey(account, "f")
		function := must(n.store.Get(t.Context(), key))
		_ = must(n.store.Commit(t.Context(), catalog.Change{Key: key, If: function.Revision}))
		disk.full.Store(true)
		n.start()
		if left := must(n.store.List(t.Context(), "", "", 10)); len(left) != 1 || disk.refused.Load() != 1 {
			t.Fatalf("%d records are left after %d tries", len(left), disk.refused.Load())
		}
		disk.full.Store(false)
		time.Sleep(retryDelay(0))
		synctest.Wait()
		if left := must(n.store.List(t.Context(), "", "", 10)); len(left) != 0 {
			t.Errorf("%d records are left", len(left))
		}
		n.keepEnds()
		n.wantStored(false, zipOf("index.py", "f"))
	})
}

func TestCodeOfARefusedCommitIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, disk := newFullNode(t)
		disk.full.Store(true)
		if _, err := n.create("f"); !errors.Is(err, errDisk) || errors.Is(err, errOutcomeUnknown) {
			t.Errorf("create ended with %v", err)
		}
		n.wantStored(true, zipOf("index.py", "f"))
		n.keepEnds()
		n.wantStored(false, zipOf("index.py", "f"))
	})
}

// stuckBlobs is a blob store that deletes nothing.
type stuckBlobs struct{ *memoryBlobs }

func (stuckBlobs) Delete(context.Context, kiln.AccountID, kiln.Digest) error { return errDisk }

func TestCodeThatCouldNotBeDeletedComesAgain(t *testing.T) {
	s := newService(catalogtest.NewMemory(), stuckBlobs{newMemoryBlobs()})
	s.inventory.sync()
	for range 2 {
		if err := s.deleteCode(t.Context(), object{account, "d"}); !errors.Is(err, errDisk) {
			t.Errorf("ended with %v", err)
		}
	}
}

func TestWhatFailsHoldsUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgenda[string]()
		start := time.Now()
		done := make(map[string][]time.Duration)
		failures := 0
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			err := a.run(ctx, work[string]{
				now: time.Now,
				do: func(_ context.Context, item string) error {
					done[item] = append(done[item], time.Since(start))
					if item == "bad" {
						return errDisk
					}
					return nil
				},
				failed: func(error) { failures++ },
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("run ended with %v", err)
			}
		})
		a.add("late", start.Add(5*time.Second))
		a.add("bad", start)
		time.Sleep(3500 * time.Millisecond) // "bad" is due again at 7 s
		a.add("early", time.Now())
		time.Sleep(4 * time.Second)
		cancel()
		running.Wait()
		got, want := fmt.Sprint(done), "map[bad:[0s 1s 3s 7s] early:[3.5s] late:[5s]]"
		if got != want || failures != 4 {
			t.Errorf("%d failures, done %s, want 4 and %s", failures, got, want)
		}
	})
}

func TestEveryRecordIsWithinTheCodeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		size := int64(len(zipOf("index.py", "f")))
		other := catalog.FunctionKey(account, "other")
		n.service.inventory.show(other, entry{revision: 1, account: account, codes: []object{{account, "other"}}, size: maxTotalCode - size})
		_, err := n.create("f", withPublish)
		n.wantError(err, kiln.CodeStorageExceeded, "Code storage limit exceeded.")
		_ = must(n.create("f"))
		n.settleDown()
		_, err = n.publish(api.PublishVersionRequest{FunctionName: new("f")})
		n.wantError(err, kiln.CodeStorageExceeded, "Code storage limit exceeded.")
		_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Timeout: new(int32(9))}))
		n.settleDown()
		n.service.inventory.show(other, entry{revision: 2, deleted: true})
		_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f")}))
		if len(n.service.inventory.claims) != 0 {
			t.Errorf("claims are left: %v", n.service.inventory.claims)
		}
	})
}

func TestCommitsAtTheSameTimeDoNotShareRoom(t *testing.T) {
	n := newInventory()
	of := func(name kiln.FunctionName, size int64) []write {
		v := kiln.Version{Account: account, Function: name, Config: kiln.Config{Code: kiln.Code{Digest: "d", Size: size}}}
		return []write{functionWrite(&kiln.Function{Latest: v}, 0)}
	}
	room, ok := n.claim(of("f", maxTotalCode-1))
	if !ok {
		t.Fatal("no room in an empty account")
	}
	if _, ok := n.claim(of("g", 2)); ok {
		t.Error("two commits share the last byte")
	}
	n.unclaim(room)
	if _, ok := n.claim(of("g", 2)); !ok {
		t.Error("room that was given back is not free")
	}
}
