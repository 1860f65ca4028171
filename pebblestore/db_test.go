package pebblestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

// childDir names the variable by which a test starts its own binary as a process that writes to the database there.
const childDir = "PEBBLESTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string, o Options) *DB {
	t.Helper()
	d, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// openFor opens a database that is closed at the end of t.
func openFor(t testing.TB, dir string, o Options) *DB {
	t.Helper()
	d := open(t, dir, o)
	t.Cleanup(func() { closeDB(t, d) })
	return d
}

func closeDB(t testing.TB, d *DB) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func put(name, value string, at catalog.Revision) catalog.Change {
	return catalog.Change{Key: key(name), If: at, Value: []byte(value)}
}

func key(name string) catalog.Key { return catalog.Key("000000000000/function/" + name) }

func commit(t testing.TB, s catalog.Store, changes ...catalog.Change) catalog.Revision {
	t.Helper()
	r, err := s.Commit(t.Context(), changes...)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return r
}

func get(t testing.TB, s catalog.Store, name string) catalog.Record {
	t.Helper()
	r, err := s.Get(t.Context(), key(name))
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return r
}

func TestCatalogIsAStore(t *testing.T) {
	catalogtest.Run(t, func(t *testing.T) catalog.Store { return openFor(t, t.TempDir(), Options{}).Catalog() })
}

func TestReopenedDatabaseHasItAllAndGoesOnWithRevisions(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	r1 := commit(t, d.Catalog(), put("a", "1", 0), put("b", "1", 0))
	r2 := commit(t, d.Catalog(), catalog.Change{Key: key("b"), If: r1})
	closeDB(t, d)
	d = openFor(t, dir, Options{})
	if a := get(t, d.Catalog(), "a"); string(a.Value) != "1" || a.Revision != r1 {
		t.Errorf("got %v, want a = 1 at %d", a, r1)
	}
	if b := get(t, d.Catalog(), "b"); b.Revision != 0 {
		t.Errorf("got %v, want no b", b)
	}
	// The deletion was the last commit: no record has its revision.
	if r3 := commit(t, d.Catalog(), put("b", "2", 0)); r3 <= r2 {
		t.Errorf("revision %d follows %d", r3, r2)
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	openFor(t, dir, Options{})
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); mode != fs.ModeDir|0o700 {
		t.Errorf("directory has mode %v", mode)
	}
}

func TestSecondOpenIsRefusedInThisProcessAndAnother(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: got %v, want ErrLocked", err)
	}
	out, err := childCommand(dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("second process: got %v, %s", err, out)
	}
	closeDB(t, d)
	closeDB(t, open(t, dir, Options{}))
}

func TestCallsAfterCloseReturnErrClosed(t *testing.T) {
	d := open(t, t.TempDir(), Options{})
	s := d.Catalog()
	watched := make(chan error, 1)
	synced := make(chan struct{})
	go func() {
		watched <- s.Watch(t.Context(), "", func(catalog.Event) error { close(synced); return nil })
	}()
	<-synced
	closeDB(t, d)
	_, getErr := s.Get(t.Context(), key("a"))
	_, listErr := s.List(t.Context(), "", "", 1)
	_, commitErr := s.Commit(t.Context(), put("a", "1", 0))
	watchErr := s.Watch(t.Context(), "", func(catalog.Event) error { return nil })
	for op, err := range map[string]error{
		"get": getErr, "list": listErr, "commit": commitErr, "watch": watchErr, "running watch": <-watched,
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", op, err)
		}
	}
}

func TestDatabaseOfAnotherFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	if err := d.pebble.Set([]byte(formatKey), []byte("2"), nil); err != nil {
		t.Fatal(err)
	}
	closeDB(t, d)
	for range 2 { // The first refusal must leave it closed.
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), `format "2"`) {
			t.Errorf("got %v, want a word about format 2", err)
		}
	}
}

func TestOpenOfThousandRecordsIsQuick(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	fill(t, d.Catalog(), 1000)
	closeDB(t, d)
	start := time.Now()
	d = openFor(t, dir, Options{})
	took := time.Since(start)
	if page, err := d.Catalog().List(t.Context(), "", "", 2000); err != nil || len(page) != 1000 {
		t.Fatalf("got %d records, error %v", len(page), err)
	}
	t.Logf("open with 1,000 records of 2 KB: %v", took)
	if took > time.Second {
		t.Errorf("open took %v", took)
	}
}

func fill(t testing.TB, s catalog.Store, n int) {
	value := strings.Repeat("v", 2<<10)
	var changes []catalog.Change
	for i := range n {
		changes = append(changes, put(fmt.Sprintf("f%06d", i), value, 0))
	}
	for chunk := range slices.Chunk(changes, 500) {
		commit(t, s, chunk...)
	}
}

// TestAcknowledgedCommitsSurviveKill kills a process that commits, at random moments, and looks for what it had acknowledged.
func TestAcknowledgedCommitsSurviveKill(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	acknowledged := make(map[string]string)
	for round := range rounds {
		killedWriter(t, dir, 1+rand.IntN(300), acknowledged)
		d := open(t, dir, Options{})
		for name, value := range acknowledged {
			x, y := get(t, d.Catalog(), name+"-x"), get(t, d.Catalog(), name+"-y")
			if string(x.Value) < value {
				t.Fatalf("round %d: %s is %q, %q was acknowledged", round, name, x.Value, value)
			}
			if string(x.Value) != string(y.Value) || x.Revision != y.Revision {
				t.Fatalf("round %d: half a commit: %v, %v", round, x, y)
			}
		}
		closeDB(t, d)
	}
	t.Logf("%d kills, %d records acknowledged", rounds, len(acknowledged))
}

// killedWriter runs a child until it has acknowledged n commits, kills it and notes all that it acknowledged.
func killedWriter(t *testing.T, dir string, n int, acknowledged map[string]string) {
	c := childCommand(dir)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && len(value) == 12 { // Whole lines only.
			acknowledged[name] = max(acknowledged[name], value)
		}
		if i == n {
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = c.Wait()
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("child ended by itself: %v", err)
	}
}

func childCommand(dir string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childDir+"="+dir)
	return c
}

// child commits pairs of records from several writers for as long as it lives, and prints each commit that was acknowledged.
func child(dir string) error {
	d, err := Open(dir, Options{MemTableBytes: 256 << 10}) // Small, so that kills meet flushes and new logs.
	if err != nil {
		return err
	}
	var mu sync.Mutex
	errs := make(chan error)
	for w := range 4 {
		go func() {
			for {
				line, err := childCommit(d.Catalog(), fmt.Sprintf("w%d-%d", w, rand.IntN(20)))
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				_, err = io.WriteString(os.Stdout, line+"\n")
				mu.Unlock()
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

func childCommit(s catalog.Store, name string) (string, error) {
	ctx := context.Background()
	x, err := s.Get(ctx, key(name+"-x"))
	if err != nil {
		return "", err
	}
	var n int
	if x.Revision != 0 {
		if _, err := fmt.Sscanf(string(x.Value[:12]), "%d", &n); err != nil {
			return "", err
		}
	}
	value := fmt.Sprintf("%012d", n+1) + strings.Repeat(".", rand.IntN(4096))
	_, err = s.Commit(ctx, put(name+"-x", value, x.Revision), put(name+"-y", value, x.Revision))
	return name + " " + value[:12], err
}

// faultyFS is the machine's file system with faults that a test switches on.
type faultyFS struct {
	vfs.FS
	// fault is called with the operation and the file before each write or sync, if set.
	fault atomic.Pointer[func(op, name string) error]
	free  atomic.Uint64
}

func newFaultyFS() *faultyFS {
	f := &faultyFS{FS: vfs.Default}
	f.free.Store(1 << 40)
	return f
}

func (f *faultyFS) inject(fault func(op, name string) error) { f.fault.Store(&fault) }

func (f *faultyFS) check(op, name string) error {
	if fault := f.fault.Load(); fault != nil {
		return (*fault)(op, filepath.Base(name))
	}
	return nil
}

func (f *faultyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.check("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return &faultyFile{File: file, fs: f, name: name}, err
}

func (f *faultyFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.check("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.ReuseForWrite(old, name, c)
	return &faultyFile{File: file, fs: f, name: name}, err
}

func (f *faultyFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	return &faultyFile{File: file, fs: f, name: "dir"}, err
}

func (f *faultyFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free.Load()}, nil
}

type faultyFile struct {
	vfs.File
	fs   *faultyFS
	name string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.check("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) Sync() error { return errors.Join(f.fs.check("sync", f.name), f.File.Sync()) }
func (f *faultyFile) SyncData() error {
	return errors.Join(f.fs.check("sync", f.name), f.File.SyncData())
}

// failOn returns a fault for one operation on files whose name contains part.
func failOn(op, part string, err error) func(string, string) error {
	return func(o, name string) error {
		if o == op && strings.Contains(name, part) {
			return err
		}
		return nil
	}
}

// TestFailedDiskAcknowledgesNothingAndCanStillBeRead also covers the failures that Pebble answers with a panic: those at the
// change to a new log.
func TestFailedDiskAcknowledgesNothingAndCanStillBeRead(t *testing.T) {
	tests := []struct{ op, file string }{
		{"sync", ".log"}, {"write", ".log"}, {"create", ".log"}, {"sync", "dir"},
		{"sync", "MANIFEST"}, {"write", "MANIFEST"}, {"sync", ".sst"},
	}
	for _, tt := range tests {
		t.Run(tt.op+" "+tt.file, func(t *testing.T) {
			dir := t.TempDir()
			faulty := newFaultyFS()
			d := open(t, dir, Options{fs: faulty, MemTableBytes: 256 << 10})
			s := d.Catalog()
			before := commit(t, s, put("before", "1", 0))
			faulty.inject(failOn(tt.op, tt.file, syscall.EIO))
			acknowledged, err := commitUntilFailure(t, s)
			if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("commit: got %v, want ErrFailed of EIO", err)
			}
			if tt.file == ".log" && tt.op == "sync" && errors.Is(err, catalog.ErrRefused) {
				t.Error("a commit that may be on the disk says that it is not")
			}
			<-d.Failed()
			faulty.inject(failOn("", "", nil))
			if _, err := s.Commit(t.Context(), put("after", "1", 0)); !errors.Is(err, ErrFailed) || !errors.Is(err, catalog.ErrRefused) {
				t.Errorf("commit once the disk works again: got %v, want ErrRefused for ErrFailed", err)
			}
			if r := get(t, s, "before"); r.Revision != before {
				t.Errorf("got %v, want revision %d", r, before)
			}
			page, err := s.List(t.Context(), "", "", 1<<20)
			if err != nil || len(page) != acknowledged+1 {
				t.Errorf("%d records can be read, error %v; %d were acknowledged", len(page), err, acknowledged+1)
			}
			if err := d.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("close: got %v, want ErrFailed", err)
			}
			if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
				t.Errorf("open again in this process: got %v, want ErrLocked", err)
			}
			wantWholeCopy(t, dir, acknowledged+1)
		})
	}
}

// commitUntilFailure commits enough for flushes and new logs, and returns how many commits succeeded before the first that
// did not.
func commitUntilFailure(t *testing.T, s catalog.Store) (int, error) {
	value := strings.Repeat("v", 16<<10)
	for n := range 2000 {
		if _, err := s.Commit(t.Context(), put(fmt.Sprintf("f%06d", n), value, 0)); err != nil {
			return n, err
		}
	}
	t.Fatal("no commit failed")
	return 0, nil
}

// wantWholeCopy opens a copy of dir, as a process does that comes after the one whose disk failed.
func wantWholeCopy(t *testing.T, dir string, atLeast int) {
	t.Helper()
	c := t.TempDir()
	if err := os.CopyFS(c, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	page, err := openFor(t, c, Options{}).Catalog().List(t.Context(), "", "", 1<<20)
	if err != nil || len(page) < atLeast {
		t.Errorf("after a restart there are %d records, error %v; %d were acknowledged", len(page), err, atLeast)
	}
}

func TestOpenOnFailingDiskReturnsTheError(t *testing.T) {
	for _, file := range []string{"MANIFEST", ".log", "dir"} {
		faulty := newFaultyFS()
		faulty.inject(failOn("sync", file, syscall.EIO))
		if _, err := Open(t.TempDir(), Options{fs: faulty}); !errors.Is(err, syscall.EIO) {
			t.Errorf("sync of %s fails: got %v, want EIO", file, err)
		}
	}
}

func TestFullDiskRefusesCommitsUntilThereIsSpace(t *testing.T) {
	faulty := newFaultyFS()
	s := openFor(t, t.TempDir(), Options{fs: faulty}).Catalog()
	faulty.free.Store(1 << 20)
	if _, err := s.Commit(t.Context(), put("a", "1", 0)); !errors.Is(err, ErrFull) || !errors.Is(err, catalog.ErrRefused) {
		t.Fatalf("got %v, want ErrRefused for ErrFull", err)
	}
	if r := get(t, s, "a"); r.Revision != 0 {
		t.Fatalf("a refused commit left %v", r)
	}
	faulty.free.Store(1 << 30)
	commit(t, s, put("a", "1", 0))
}

func TestDeletionsUseHalfOfTheReserve(t *testing.T) {
	faulty := newFaultyFS()
	s := openFor(t, t.TempDir(), Options{fs: faulty, ReserveBytes: 64 << 20}).Catalog()
	at := commit(t, s, put("a", "1", 0), put("b", "1", 0))
	a, b := catalog.Change{Key: key("a"), If: at}, catalog.Change{Key: key("b"), If: at}
	faulty.free.Store(64<<20 - 1)
	if _, err := s.Commit(t.Context(), a, put("b", "2", at)); !errors.Is(err, ErrFull) {
		t.Errorf("deletion with something written: got %v, want ErrFull", err)
	}
	faulty.free.Store(32 << 20)
	commit(t, s, a)
	faulty.free.Store(32<<20 - 1)
	if _, err := s.Commit(t.Context(), b); !errors.Is(err, ErrFull) {
		t.Errorf("deletion below half of the reserve: got %v, want ErrFull", err)
	}
	if r := get(t, s, "a"); r.Revision != 0 {
		t.Errorf("got %v, want no a", r)
	}
	if r := get(t, s, "b"); r.Revision != at {
		t.Errorf("got %v, want b as it was", r)
	}
}

func TestDeletionsAreNotHeldUpByWritesOfTheirGroup(t *testing.T) {
	faulty := newFaultyFS()
	d := openFor(t, t.TempDir(), Options{fs: faulty})
	at := commit(t, d.catalog, put("a", "1", 0))
	faulty.free.Store(40 << 20)
	group := requests(put("b", "1", 0), catalog.Change{Key: key("a"), If: at})
	d.catalog.commit(group)
	if !errors.Is(group[0].err, ErrFull) || group[1].err != nil {
		t.Errorf("write ended with %v, deletion with %v", group[0].err, group[1].err)
	}
}

// requests makes one request of each change, for a test that does the work of the idle committer.
func requests(changes ...catalog.Change) []*request {
	group := make([]*request, len(changes))
	for i, c := range changes {
		group[i] = &request{changes: []catalog.Change{c}, done: make(chan struct{})}
	}
	return group
}

func TestBatchesThatAreNotStoredAreClosed(t *testing.T) {
	errStage, errDisk := errors.New("no room in the batch"), errors.New("disk is gone")
	for name, stop := range map[string]func(*records, *writes){
		"half staged":   func(_ *records, w *writes) { w.err = errStage },
		"disk failed":   func(s *records, _ *writes) { s.disk.fail(errDisk) },
		"nothing to do": func(s *records, w *writes) { w.revision = s.now().revision },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir(), Options{})
			w := d.catalog.newWrites()
			d.catalog.decide(w, requests(put("a", "1", 0)))
			if w.batch.Empty() {
				t.Fatal("nothing was staged")
			}
			stop(d.catalog, w)
			err := d.catalog.store(w)
			if failed := name != "nothing to do"; errors.Is(err, catalog.ErrRefused) != failed {
				t.Errorf("store ended with %v", err)
			}
			if !w.batch.Empty() { // Closing empties it.
				t.Error("the batch is open")
			}
			if err := d.Close(); err != nil && !errors.Is(err, errDisk) {
				t.Errorf("close: %v", err)
			}
		})
	}
}

func TestNothingIsVisibleBeforeItIsDurable(t *testing.T) {
	faulty := newFaultyFS()
	s := openFor(t, t.TempDir(), Options{fs: faulty}).Catalog()
	events := make(chan catalog.Event)
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		err := s.Watch(ctx, "", func(e catalog.Event) error {
			select {
			case events <- e:
			case <-ctx.Done():
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch: %v", err)
		}
	})
	defer watching.Wait()
	defer cancel()
	<-events
	syncing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	faulty.inject(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, ".log") {
			once.Do(func() { close(syncing); <-goOn })
		}
		return nil
	})
	committed := make(chan error, 1)
	go func() {
		_, err := s.Commit(t.Context(), put("a", "1", 0))
		committed <- err
	}()
	<-syncing
	if r := get(t, s, "a"); r.Revision != 0 {
		t.Errorf("%v can be read before its sync", r)
	}
	select {
	case e := <-events:
		t.Errorf("%v is watched before its sync", e)
	case err := <-committed:
		t.Errorf("acknowledged before its sync: %v", err)
	default:
	}
	close(goOn)
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if r := get(t, s, "a"); r.Revision == 0 {
		t.Error("an acknowledged commit cannot be read")
	}
	if e := <-events; e.Key != key("a") {
		t.Errorf("got event %v", e)
	}
}

func TestCommitThatHangsEndsWithItsContext(t *testing.T) {
	faulty := newFaultyFS()
	s := openFor(t, t.TempDir(), Options{fs: faulty}).Catalog()
	ctx, cancel := context.WithCancel(t.Context())
	goOn := make(chan struct{})
	defer close(goOn)
	faulty.inject(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, ".log") {
			cancel()
			<-goOn
		}
		return nil
	})
	if _, err := s.Commit(ctx, put("a", "1", 0)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
}

func TestDamagedFilesAreErrors(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	fill(t, d.Catalog(), 500)
	closeDB(t, d)
	d = open(t, dir, Options{}) // Writes the log's records to a table.
	closeDB(t, d)
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables: %v, error %v", tables, err)
	}
	for _, table := range tables {
		flipBytes(t, table)
	}
	d, err = Open(dir, Options{})
	if err == nil {
		_, err = d.Catalog().List(t.Context(), "", "", 1000)
		closeDB(t, d)
	}
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// flipBytes damages a file all over its first half, which holds the data.
func flipBytes(t *testing.T, name string) {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 64; i < len(b)/2; i += 512 {
		b[i] ^= 0xff
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFeedIsBounded(t *testing.T) {
	f := newFeed()
	value := make([]byte, 10<<10)
	for i := range 10_000 {
		f.add([]catalog.Event{{Record: catalog.Record{Key: "k", Revision: catalog.Revision(i + 1), Value: value}}})
		if f.bytes > maxFeedBytes || len(f.events) > maxFeedEvents {
			t.Fatalf("feed holds %d events of %d bytes", len(f.events), f.bytes)
		}
	}
	if f.end() != 10_000 {
		t.Errorf("feed ends at %d", f.end())
	}
	if _, ok := f.since(f.first - 1); ok {
		t.Error("feed has an event that it let go")
	}
	events, ok := f.since(f.first)
	if !ok || len(events) == 0 || events[0].Revision != catalog.Revision(f.first+1) {
		t.Errorf("first event is %v, position %d", events, f.first)
	}
	if events, ok := f.since(f.end()); !ok || len(events) != 0 {
		t.Errorf("%d events at the end, %v", len(events), ok)
	}
}

func TestDamagedValueIsCorrupt(t *testing.T) {
	for _, stored := range [][]byte{nil, {}, make([]byte, revisionSize-1), make([]byte, revisionSize)} {
		if _, _, err := decode(stored); !errors.Is(err, ErrCorrupt) {
			t.Errorf("decode of %d bytes: got %v, want ErrCorrupt", len(stored), err)
		}
	}
	r, value, err := decode(encode(7, []byte("x")))
	if r != 7 || string(value) != "x" || err != nil {
		t.Errorf("got %d, %q, %v", r, value, err)
	}
}
