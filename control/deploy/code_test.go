package deploy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

func (n *node) wantStored(want bool, codes ...[]byte) {
	n.Helper()
	for _, c := range codes {
		if got := n.blobs.has(account, kiln.DigestOf(c)); got != want {
			n.Errorf("code %.8s is stored: %v, want %v", kiln.DigestOf(c), got, want)
		}
	}
}

func (n *node) keepEnds() {
	time.Sleep(DefaultKeep) // the bubble's clock
	synctest.Wait()
}

func TestCodeIsDeletedWhenNothingRefersToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		first, second := zipOf("index.py", "f"), zipOf("a", "b")
		_ = must(n.create("f", withPublish))
		n.settleDown()
		_ = must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: second}))
		n.keepEnds()
		n.wantStored(true, first, second)

		if err := n.delete("f", "1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		n.wantStored(true, first) // an invocation may just have resolved it
		n.keepEnds()
		n.wantStored(false, first)
		n.wantStored(true, second)

		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		n.keepEnds()
		n.wantStored(false, second)
	})
}

func TestCodeThatIsUsedAgainInTimeStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		code := zipOf("index.py", "f")
		_ = must(n.create("f"))
		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(DefaultKeep / 2)
		_ = must(n.create("f"))
		n.keepEnds()
		n.wantStored(true, code)
	})
}

func TestAProcessDeletesCodeThatADeadOneStoredForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		n.stop()
		left := zipOf("a", "left over")
		_ = must(n.blobs.Put(t.Context(), account, left))
		n.start()
		n.keepEnds()
		n.wantStored(false, left)
		n.wantStored(true, zipOf("index.py", "f"))
	})
}

func TestCodeOfACreateThatFailedIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		code := zipOf("a", "b")
		err := n.service.withCode(t.Context(), account, must(readArchive(code, functionCode)), func() error { return kiln.Errorf(kiln.ResourceConflict, "lost a race") })
		n.wantError(err, kiln.ResourceConflict, "lost a race")
		n.keepEnds()
		n.wantStored(false, code)
	})
}

func TestACreateWaitsWhileItsCodeIsBeingDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		deleting, proceed := make(chan struct{}), make(chan struct{})
		n.blobs.deleting = func(object) { close(deleting); <-proceed }
		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		<-deleting
		created := make(chan error, 1)
		var creating sync.WaitGroup
		creating.Go(func() { _, err := n.create("f"); created <- err })
		synctest.Wait()
		select {
		case <-created:
			t.Error("created with code that is being deleted")
		default:
		}
		close(proceed)
		if err := <-created; err != nil {
			t.Error(err)
		}
		creating.Wait()
		n.wantStored(true, zipOf("index.py", "f"))
	})
}

func TestNoCodeIsDeletedWhileARecordIsUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.store.Commit(t.Context(), catalog.Change{Key: catalog.FunctionKey(account, "broken"), Value: []byte("{")}))
		_ = must(n.create("f"))
		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		n.keepEnds()
		n.wantStored(true, zipOf("index.py", "f"))
	})
}

// uncertain is a store that commits and then says that it may not have.
type uncertain struct {
	catalog.Store
}

var errDisk = errors.New("the disk is gone")

func (u uncertain) Commit(ctx context.Context, changes ...catalog.Change) (catalog.Revision, error) {
	if _, err := u.Store.Commit(ctx, changes...); err != nil {
		return 0, err
	}
	return 0, errDisk
}

func TestCodeStaysWhenNobodyKnowsWhetherItIsUsed(t *testing.T) {
	s := newService(uncertain{catalogtest.NewMemory()}, newMemoryBlobs())
	code := object{account, "d"}
	f := &kiln.Function{Latest: kiln.Version{Account: account, Function: "f", Config: kiln.Config{Code: kiln.Code{Digest: "d"}}}}
	if _, err := s.commit(t.Context(), functionWrite(f, 0)); !errors.Is(err, errDisk) || !errors.Is(err, errOutcomeUnknown) {
		t.Errorf("commit ended with %v", err)
	}
	s.inventory.sync()
	if s.inventory.take(code) {
		t.Error("the code may be deleted")
	}
}

func TestTheInventoryKnowsTheNewestOfEachRecord(t *testing.T) {
	const key = catalog.Key("123456789012/function/f")
	code, other := object{account, "d"}, object{account, "other"}
	at := func(revision catalog.Revision, c object) entry {
		return entry{revision: revision, codes: []object{c}, size: 1}
	}
	deleted := func(revision catalog.Revision) entry { return entry{revision: revision, deleted: true} }
	for _, tt := range []struct {
		name  string
		steps func(n *inventory)
		free  bool
		known int // entries left
	}{
		{"nothing", func(*inventory) {}, true, 0},
		{"shown", func(n *inventory) { n.show(key, at(5, code)) }, false, 1},
		{"shown, then with other code", func(n *inventory) { n.show(key, at(5, code)); n.show(key, at(6, other)) }, true, 1},
		{"shown late", func(n *inventory) { n.show(key, at(6, code)); n.show(key, at(5, other)) }, false, 1},
		{"shown and deleted", func(n *inventory) { n.show(key, at(5, code)); n.show(key, deleted(6)) }, true, 0},
		{"committed", func(n *inventory) { n.enter(key); n.leave(key, new(at(5, code))) }, false, 1},
		{"committed and shown", func(n *inventory) { n.enter(key); n.leave(key, new(at(5, code))); n.show(key, at(5, code)) }, false, 1},
		{"shown before it was known to be committed", func(n *inventory) { n.enter(key); n.show(key, at(5, code)); n.leave(key, new(at(5, code))) }, false, 1},
		{"not committed", func(n *inventory) { n.enter(key); n.leave(key, nil) }, true, 0},
		{"deleted, and not shown", func(n *inventory) {
			n.show(key, at(5, code))
			n.enter(key)
			n.leave(key, new(deleted(6)))
		}, true, 1},
		{"deleted, and its past shown after that", func(n *inventory) {
			n.enter(key)
			n.leave(key, new(deleted(6)))
			n.show(key, at(5, code))
		}, true, 1},
		{"deleted, and shown", func(n *inventory) {
			n.enter(key)
			n.leave(key, new(deleted(6)))
			n.show(key, deleted(6))
		}, true, 0},
		{"deleted and shown before its writer comes back", func(n *inventory) {
			n.enter(key)
			n.show(key, deleted(6))
			n.leave(key, new(at(5, code)))
		}, true, 0},
		{"held", func(n *inventory) { n.tryHold(code) }, false, 0},
		{"held and released", func(n *inventory) { n.tryHold(code); n.release(code) }, true, 0},
		{"held twice", func(n *inventory) { n.tryHold(code); n.tryHold(code); n.release(code) }, false, 0},
		{"not everything shown", func(n *inventory) { n.restart() }, false, 0},
		{"a record unreadable", func(n *inventory) { n.obscure() }, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newInventory()
			n.sync()
			tt.steps(n)
			if len(n.entries) != tt.known {
				t.Errorf("%d entries are left, want %d: %v", len(n.entries), tt.known, n.entries)
			}
			if free := n.take(code); free != tt.free {
				t.Errorf("the code may be deleted: %v, want %v", free, tt.free)
			}
			if len(n.writers) != 0 {
				t.Errorf("writers are left: %v", n.writers)
			}
		})
	}
}

// checkedBlobs fails the test when code is deleted that a record refers to.
type checkedBlobs struct {
	*memoryBlobs
	store catalog.Store
	t     *testing.T
}

func (b checkedBlobs) Delete(ctx context.Context, a kiln.AccountID, d kiln.Digest) error {
	err := b.memoryBlobs.Delete(ctx, a, d)
	records, listErr := b.store.List(ctx, "", "", 1000)
	if listErr != nil && ctx.Err() == nil {
		b.t.Error(listErr)
	}
	for _, r := range records {
		if _, known, err := read(r); err == nil && slices.Contains(known.codes, object{a, d}) {
			b.t.Errorf("deleted the code of %s", r.Key)
		}
	}
	return err
}

func TestNoCodeIsLostHoweverOperationsMeet(t *testing.T) {
	store := catalogtest.NewMemory()
	blobs := checkedBlobs{newMemoryBlobs(), store, t}
	s := New(Config{Store: store, Blobs: blobs, Region: "us-east-1", Settle: 1, Keep: 1, CodeURL: func(kiln.AccountID, kiln.Digest) string { return "" }})
	ctx, cancel := context.WithCancel(t.Context())
	var running, working sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	n := &node{T: t, store: store, service: s}
	for worker := range 6 {
		working.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 150 {
				n.step(random)
			}
		})
	}
	working.Wait()
	records := must(store.List(t.Context(), "", "", 1000))
	for _, r := range records {
		_, known, err := read(r)
		lost := slices.ContainsFunc(known.codes, func(o object) bool { return !blobs.has(o.account, o.digest) })
		if err != nil || lost {
			t.Errorf("%s has no code, %v", r.Key, err)
		}
	}
}

// step does something with one of a few functions and a few packages, so that everybody meets everybody.
func (n *node) step(random *rand.Rand) {
	name, code := fmt.Sprint("f", random.IntN(2)), zipOf("a", fmt.Sprint(random.IntN(3)))
	var err error
	layers := []string{fmt.Sprintf("arn:aws:lambda:us-east-1:%s:layer:l:%d", account, 1+random.IntN(20))}
	switch random.IntN(8) {
	case 0:
		_, err = n.create(name, func(in *api.CreateFunctionRequest) {
			in.Code.ZipFile, in.Publish = code, new(random.IntN(2) == 0)
		})
	case 1:
		_, err = n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: &name, ZipFile: code, Publish: new(random.IntN(2) == 0)})
	case 2:
		_, err = n.publish(api.PublishVersionRequest{FunctionName: &name})
	case 3:
		err = n.delete(name, fmt.Sprint(1+random.IntN(3)))
	case 4:
		err = n.delete(name, "")
	case 5:
		_, err = n.publishLayer("l", code)
	case 6:
		err = n.deleteLayer("l", 1+random.Int64N(20))
	case 7:
		_, err = n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: &name, Layers: layers})
		if err != nil && strings.HasSuffix(err.Error(), "does not exist.") {
			err = nil
		}
	}
	if k := kiln.KindOf(err); err != nil && k != kiln.ResourceNotFound && k != kiln.ResourceConflict && k != kiln.TooManyRequests {
		n.Error(err)
	}
}
