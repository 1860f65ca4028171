package remote_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
	"kiln/catalog/remote"
	"kiln/internal/local"
)

// patience is how long a test waits for what must come, and takes a moment.
const patience = 30 * time.Second

// seen is a store whose readers come over a socket: Get and Watch go there, what writes or lists does not.
type seen struct {
	catalog.Store
	catalog.Source
}

func (s seen) Get(ctx context.Context, k catalog.Key) (catalog.Record, error) {
	return s.Source.Get(ctx, k)
}

func (s seen) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	return s.Source.Watch(ctx, prefix, fn)
}

// socket returns a path that is short enough for a socket.
func socket(t testing.TB) string {
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "catalog")
}

// serve serves source at path until the function that it returns is called, or the test ends.
func serve(t testing.TB, path string, source catalog.Source) (stop func()) {
	t.Helper()
	return serveReports(t, path, source, func([]catalog.ProvisionStatus) { t.Error("reported") })
}

// serveReports is serve, and calls reported with what is reported.
func serveReports(t testing.TB, path string, source catalog.Source, reported func([]catalog.ProvisionStatus)) (stop func()) {
	t.Helper()
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := remote.NewServer(l, source, reported, slog.New(slog.DiscardHandler)).Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

func TestAStoreIsTheSameOverASocket(t *testing.T) {
	catalogtest.Run(t, func(t *testing.T) catalog.Store {
		store, path := catalogtest.NewMemory(), socket(t)
		serve(t, path, store)
		return seen{store, remote.NewClient(path)}
	})
}

// wait waits for an event of a test.
func wait[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
	return v
}

const account kiln.AccountID = "123456789012"

// save stores function f in a deployment of that name.
func save(t testing.TB, store catalog.Store, f kiln.FunctionName, deployment string) {
	t.Helper()
	k := catalog.FunctionKey(account, f)
	old, err := store.Get(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(kiln.Function{ID: "1", Latest: kiln.Version{
		Account: account, Function: f, Qualifier: kiln.LatestVersion, State: kiln.StateActive, Deployment: deployment,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Commit(t.Context(), catalog.Change{Key: k, If: old.Revision, Value: value}); err != nil {
		t.Fatal(err)
	}
}

// follower is a View over a socket, run again whenever it ends, and what it has told.
type follower struct {
	*catalog.View
	current, retired chan string
	ended            chan error
	again            chan struct{}
}

func follow(t testing.TB, source catalog.Source) *follower {
	f := &follower{
		current: make(chan string, 16), retired: make(chan string, 16), ended: make(chan error), again: make(chan struct{}),
	}
	f.View = catalog.NewView(catalog.ViewConfig{
		Store: source, Region: "us-east-1",
		Current: func(v *kiln.Version) { f.current <- v.Deployment },
		Retired: func(deployment string) { f.retired <- deployment },
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			err := f.Run(ctx)
			if ctx.Err() != nil {
				return
			}
			select {
			case f.ended <- err:
			case <-ctx.Done():
				return
			}
			select {
			case <-f.again:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return f
}

func TestAViewServesOnWithoutTheStoreAndMissesNothingMeanwhile(t *testing.T) {
	store, path := catalogtest.NewMemory(), socket(t)
	stop := serve(t, path, store)
	save(t, store, "stays", "stays-1")
	save(t, store, "changes", "changes-1")
	view := follow(t, remote.NewClient(path))
	wait(t, "snapshot", view.Synced())
	wait(t, "first function", view.current)
	wait(t, "second function", view.current)

	stop()
	if err := wait(t, "end of the watch", view.ended); err == nil {
		t.Error("the watch ended without an error")
	}
	begun := time.Now()
	view.CatchUp(t.Context(), account, "changes")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("to ask a store that is gone took %v", took)
	}
	if v, err := view.Resolve(account, "changes", ""); err != nil || v.Deployment != "changes-1" {
		t.Errorf("without the store: got %v, %v", v, err)
	}
	save(t, store, "changes", "changes-2")

	serve(t, path, store)
	close(view.again)
	if got := wait(t, "new deployment", view.current); got != "changes-2" {
		t.Errorf("%s has become current, want changes-2 only", got)
	}
	if got := wait(t, "old deployment", view.retired); got != "changes-1" {
		t.Errorf("%s is retired, want changes-1 only", got)
	}
}

// failing is a source that has failed.
type failing struct{}

func (failing) Get(context.Context, catalog.Key) (catalog.Record, error) {
	return catalog.Record{}, errors.New("the disk is gone")
}

func (failing) Watch(context.Context, catalog.Key, func(catalog.Event) error) error {
	return errors.New("the disk is gone")
}

func TestAFailureOfTheStoreIsTold(t *testing.T) {
	path := socket(t)
	serve(t, path, failing{})
	client := remote.NewClient(path)
	const want = "catalog of another process: the store's process: the disk is gone"
	if _, err := client.Get(t.Context(), "a/b"); err == nil || err.Error() != want {
		t.Errorf("get: %v", err)
	}
	if err := client.Watch(t.Context(), "", func(catalog.Event) error { return nil }); err == nil || err.Error() != want {
		t.Errorf("watch: %v", err)
	}
}

// answering serves one connection at path with the bytes given, whatever is asked.
func answering(t *testing.T, path string, answer []byte) {
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, err := io.ReadFull(conn, make([]byte, len("g\x00\x03a/b"))); err != nil {
			t.Error(err)
		}
		if _, err := conn.Write(answer); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { running.Wait(); l.Close() })
}

// event is an event with those lengths and without key and value.
func event(kind byte, key, value uint32) []byte {
	b := binary.BigEndian.AppendUint64([]byte{kind}, 1)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, key), value)
}

func TestAnAnswerThatIsNoneIsAnError(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":            nil,
		"half a header":      event('r', 3, 1)[:5],
		"no value":           append(event('r', 3, 10), "a/b"...),
		"another kind":       event('x', 0, 0),
		"synced for a get":   event('s', 0, 0),
		"a key too long":     event('r', catalog.MaxKey+1, 0),
		"a value too long":   event('r', 3, catalog.MaxValue+catalog.MaxSealing+1),
		"all that fits in 4": event('r', 1<<32-1, 1<<32-1),
	} {
		t.Run(name, func(t *testing.T) {
			path := socket(t)
			answering(t, path, answer)
			if r, err := remote.NewClient(path).Get(t.Context(), "a/b"); err == nil {
				t.Errorf("got %v and no error", r)
			}
		})
	}
}

func TestARequestThatIsNoneIsHungUpOn(t *testing.T) {
	path := socket(t)
	serve(t, path, catalogtest.NewMemory())
	for name, request := range map[string]string{
		"another kind": "x\x00\x00", "a key too long": "g\xff\xff", "a report too long": "p\x00\x00\xff\xff\xff\xff", "no report": "p\x00\x00\x00\x00\x00\x01x",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := local.Dial(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

// counting counts the watches of a source that run.
type counting struct {
	catalog.Source
	ended chan struct{}
}

func (c counting) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	defer func() { c.ended <- struct{}{} }()
	return c.Source.Watch(ctx, prefix, fn)
}

func TestTheWatchOfAReaderThatWentAwayEnds(t *testing.T) {
	path := socket(t)
	source := counting{catalogtest.NewMemory(), make(chan struct{}, 1)}
	serve(t, path, source)
	errEnough := errors.New("enough")
	err := remote.NewClient(path).Watch(t.Context(), "", func(catalog.Event) error { return errEnough })
	if err != errEnough {
		t.Errorf("watch: %v", err)
	}
	wait(t, "end of the watch", source.ended)
}

// BenchmarkGet is what it costs to ask over the socket: a connection, a request and an answer.
func BenchmarkGet(b *testing.B) {
	path := socket(b)
	serve(b, path, catalogtest.NewMemory())
	client := remote.NewClient(path)
	for b.Loop() {
		if _, err := client.Get(b.Context(), "a/b"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestReportsComeAsTheyAre(t *testing.T) {
	path := socket(t)
	var got []catalog.ProvisionStatus
	stop := serveReports(t, path, catalogtest.NewMemory(), func(all []catalog.ProvisionStatus) { got = all })
	client := remote.NewClient(path)
	want := []catalog.ProvisionStatus{{
		Account: account, Function: "f", Qualifier: "live", Asked: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Shares: map[kiln.Qualifier]int{"1": 2, "2": 3}, Available: 4, Missing: 1, Failure: "none",
	}}
	if err := client.Report(t.Context(), want); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v: got %+v", err, got)
	}
	stop()
	if err := client.Report(t.Context(), want); err == nil {
		t.Error("no error where nobody serves")
	}
}
