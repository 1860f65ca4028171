package safezip

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// item is an entry of an archive that a test builds.
type item struct {
	name, content string
	mode          fs.FileMode // 0644 if 0
	stored        bool
}

func build(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, it := range items {
		h := &zip.FileHeader{Name: it.name, Method: zip.Deflate}
		if it.stored || strings.HasSuffix(it.name, "/") {
			h.Method = zip.Store
		}
		if it.mode == 0 && !strings.HasSuffix(it.name, "/") {
			it.mode = 0o644
		}
		h.SetMode(it.mode)
		addEntry(t, w, h, it.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// addEntry writes an entry with its sizes in front of it, as zip tools do.
func addEntry(t testing.TB, w *zip.Writer, h *zip.FileHeader, content string) {
	t.Helper()
	h.UncompressedSize64 = uint64(len(content))
	h.CRC32 = crc32.ChecksumIEEE([]byte(content))
	packed := []byte(content)
	if h.Method == zip.Deflate {
		packed = deflate(t, content)
	}
	h.CompressedSize64 = uint64(len(packed))
	out, err := w.CreateRaw(h)
	if err == nil && len(packed) > 0 {
		_, err = out.Write(packed)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func deflate(t testing.TB, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	out, err := w.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := z.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := io.ReadAll(raw)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func link(name, target string) item {
	return item{name: name, content: target, mode: fs.ModeSymlink | 0o777}
}

func file(name string) item { return item{name: name, content: "content of " + name} }

// patch changes the n-th header of the directory, 0 being the first.
func patch(z []byte, n int, change func(header []byte)) []byte {
	z = slices.Clone(z)
	at := 0
	for ; n >= 0; n-- {
		at += bytes.Index(z[at:], header) + 1
	}
	change(z[at-1:])
	return z
}

// Offsets in a header of the directory (APPNOTE 4.3.12).
const (
	flagsAt        = 8
	methodAt       = 10
	crcAt          = 16
	packedSizeAt   = 20
	unpackedSizeAt = 24
	localHeaderAt  = 42
)

func set16(at int, v uint16) func([]byte) {
	return func(h []byte) { binary.LittleEndian.PutUint16(h[at:], v) }
}

func set32(at int, v uint32) func([]byte) {
	return func(h []byte) { binary.LittleEndian.PutUint32(h[at:], v) }
}

type hostile struct {
	name string
	zip  []byte
	want error
}

// limits keep the tests small.
var limits = Limits{Bytes: 1 << 20, Entries: 1000}

func hostileArchives(t testing.TB) []hostile {
	z := func(items ...item) []byte { return build(t, items...) }
	two := z(item{name: "a", content: "same", stored: true}, item{name: "b", content: "same", stored: true})
	plain := z(item{name: "a", content: strings.Repeat("content", 100), stored: true})
	packed := z(item{name: "a", content: strings.Repeat("content", 100)})
	return []hostile{
		{"parent", z(file("../a")), ErrUnsafe},
		{"parent inside", z(file("a/../../b")), ErrUnsafe},
		{"parent that stays inside", z(file("a/../b")), ErrUnsafe},
		{"only parent", z(file("..")), ErrUnsafe},
		{"absolute", z(file("/etc/passwd")), ErrUnsafe},
		{"twice absolute", z(file("//etc/passwd")), ErrUnsafe},
		{"backslash", z(file(`..\a`)), ErrUnsafe},
		{"drive", z(file("C:/a")), ErrUnsafe},
		{"drive without slash", z(file("c:a")), ErrUnsafe},
		{"NUL", z(file("a\x00b")), ErrUnsafe},
		{"no name", z(file("")), ErrUnsafe},
		{"root as file", z(file(".")), ErrUnsafe},
		{"long name", z(file(strings.Repeat("a/", maxName/2) + "b")), ErrUnsafe},
		{"long part", z(file(strings.Repeat("a", maxPart+1))), ErrUnsafe},
		{"many parts", z(file(strings.Repeat("a/", maxParts) + "b")), ErrUnsafe},
		{"file twice", z(file("a"), file("a")), ErrUnsafe},
		{"file twice by other names", z(file("a/b"), file("./a//b")), ErrUnsafe},
		{"file and directory", z(file("a"), item{name: "a/"}), ErrUnsafe},
		{"directory and file", z(file("a/b"), file("a")), ErrUnsafe},
		{"below a file", z(file("a"), file("a/b")), ErrUnsafe},
		{"below a link", z(link("a", "b"), item{name: "b/"}, file("a/c")), ErrUnsafe},
		{"setuid", z(item{name: "a", mode: fs.ModeSetuid | 0o755}), ErrUnsafe},
		{"setgid", z(item{name: "a", mode: fs.ModeSetgid | 0o755}), ErrUnsafe},
		{"sticky", z(item{name: "a/", mode: fs.ModeDir | fs.ModeSticky | 0o755}), ErrUnsafe},
		{"block device", z(item{name: "a", mode: fs.ModeDevice | 0o644}), ErrUnsafe},
		{"character device", z(item{name: "a", mode: fs.ModeDevice | fs.ModeCharDevice | 0o644}), ErrUnsafe},
		{"fifo", z(item{name: "a", mode: fs.ModeNamedPipe | 0o644}), ErrUnsafe},
		{"socket", z(item{name: "a", mode: fs.ModeSocket | 0o644}), ErrUnsafe},
		{"link with a slash", bytes.ReplaceAll(z(link("a_", "b")), []byte("a_"), []byte("a/")), ErrUnsafe},
		{"directory with content", z(item{name: "a", content: "x", mode: fs.ModeDir | 0o755}), ErrUnsafe},
		{"absolute link", z(link("a", "/etc/passwd")), ErrUnsafe},
		{"link to parent", z(link("a", "..")), ErrUnsafe},
		{"link above", z(link("a/b/c", "../../../d")), ErrUnsafe},
		{"link without target", z(link("a", "")), ErrUnsafe},
		{"link with NUL", z(link("a", "b\x00c")), ErrUnsafe},
		{"link with backslash", z(link("a", `..\..\b`)), ErrUnsafe},
		{"long link", z(link("a", strings.Repeat("b", maxName+1))), ErrUnsafe},
		{"link to itself", z(link("a", "a")), ErrUnsafe},
		{"link loop", z(link("a", "b/c"), link("b", "a")), ErrUnsafe},
		{"links that lead out together", z(item{name: "t/"}, link("a/b/c", "../../t"), link("d", "a/b/c/../../x")), ErrUnsafe},
		{"links that lead out in the other order", z(link("d", "a/b/c/../../x"), link("a/b/c", "../../t"), item{name: "t/"}), ErrUnsafe},
		{"long way", z(longWay()...), ErrUnsafe},
		{"many entries", z(manyFiles(limits.Entries + 1)...), ErrUnsafe},
		{"many directories in names", z(manyDirs(limits.Entries/50+1, 50)...), ErrUnsafe},
		{"shared bytes", patch(two, 1, set32(localHeaderAt, 0)), ErrUnsafe},
		{"encrypted", patch(plain, 0, set16(flagsAt, 1)), ErrFormat},
		{"unknown method", patch(plain, 0, set16(methodAt, 99)), ErrFormat},
		{"wrong checksum", patch(plain, 0, set32(crcAt, 7)), ErrFormat},
		{"wrong checksum, packed", patch(packed, 0, set32(crcAt, 7)), ErrFormat},
		{"larger than it says", patch(packed, 0, set32(unpackedSizeAt, 10)), ErrFormat},
		{"smaller than it says", patch(packed, 0, set32(unpackedSizeAt, 1000)), ErrFormat},
		{"beyond the end", patch(plain, 0, set32(packedSizeAt, 1<<20)), ErrFormat},
		{"header elsewhere", patch(plain, 0, set32(localHeaderAt, 20)), ErrFormat},
		{"header beyond the end", patch(plain, 0, set32(localHeaderAt, 1<<30)), ErrFormat},
		{"damaged data", damage(packed), ErrFormat},
		{"truncated", plain[:len(plain)-30], ErrFormat},
		{"nothing", nil, ErrFormat},
		{"no zip", bytes.Repeat([]byte("no zip "), 1000), ErrFormat},
		{"too large as it says", z(item{name: "a", content: strings.Repeat("a", 1<<20+1)}), ErrTooLarge},
		{"too large together", z(item{name: "a", content: strings.Repeat("a", 1<<19)}, item{name: "b", content: strings.Repeat("b", 1<<19+1)}), ErrTooLarge},
		{"sizes that overflow", patch(patch(two, 0, set32(unpackedSizeAt, 1<<32-2)), 1, set32(unpackedSizeAt, 1<<32-2)), ErrTooLarge},
	}
}

func manyFiles(n int) (items []item) {
	for i := range n {
		items = append(items, item{name: fmt.Sprintf("d/%d", i), stored: true})
	}
	return items
}

func manyDirs(n, depth int) (items []item) {
	for i := range n {
		items = append(items, item{name: fmt.Sprintf("%d/%s", i, strings.Repeat("d/", depth-1)), mode: fs.ModeDir | 0o755})
	}
	return items
}

// longWay makes links each of which goes through the one before twice: 2^n steps if nobody counts.
func longWay() []item {
	items := []item{{name: "d/"}, link("l0", "d")}
	for i := 1; i < 30; i++ {
		items = append(items, link(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d/../l%d", i-1, i-1)))
	}
	return items
}

func damage(z []byte) []byte {
	z = slices.Clone(z)
	for i := 31; i < 40; i++ {
		z[i] ^= 0x55
	}
	return z
}

func TestHostileArchivesAreRefusedAndLeaveNothing(t *testing.T) {
	for _, h := range hostileArchives(t) {
		t.Run(h.name, func(t *testing.T) {
			if _, err := Check(bytes.NewReader(h.zip), int64(len(h.zip)), limits); !errors.Is(err, h.want) {
				t.Errorf("check: got %v, want %v", err, h.want)
			}
			parent := t.TempDir()
			if _, err := extract(h.zip, filepath.Join(parent, "tree")); !errors.Is(err, h.want) {
				t.Errorf("extract: got %v, want %v", err, h.want)
			}
			wantEmpty(t, parent)
		})
	}
}

func extract(z []byte, dir string) (Summary, error) {
	return Extract(bytes.NewReader(z), int64(len(z)), dir, limits)
}

func wantEmpty(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left, error %v", left, err)
	}
}

func TestMillionEntriesCostLittle(t *testing.T) {
	z := headers(1_000_000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Check(bytes.NewReader(z), int64(len(z)), Limits{}); !errors.Is(err, ErrUnsafe) {
		t.Fatalf("got %v, want ErrUnsafe", err)
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 80<<20 {
		t.Errorf("allocated %d MB", spent>>20)
	}
}

// headers makes an archive of nothing but a directory, whose end gives another count.
func headers(n int) []byte {
	entry := make([]byte, 47)
	copy(entry, header)
	entry[28] = 1 // Length of the name.
	entry[46] = 'a'
	z := bytes.Repeat(entry, n)
	end := make([]byte, 22)
	copy(end, "PK\x05\x06")
	binary.LittleEndian.PutUint16(end[10:], uint16(n))
	binary.LittleEndian.PutUint32(end[12:], uint32(len(z)))
	return append(z, end...)
}

func TestHeadersAreCountedAcrossReads(t *testing.T) {
	z := headers(50)
	for size := range 60 {
		m := &meter{r: bytes.NewReader(z), limit: 1000, on: true}
		for at := 0; at < len(z); at += size + 1 {
			if _, err := m.ReadAt(make([]byte, min(size+1, len(z)-at)), int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		if m.headers != 50 {
			t.Errorf("reads of %d bytes: %d headers", size+1, m.headers)
		}
	}
}

func TestHonestArchivesAreUnpacked(t *testing.T) {
	z := build(t,
		file("index.py"),
		item{name: "bin/tool", content: "#!/bin/sh\n", mode: 0o700},
		item{name: "secret", content: "unreadable", mode: 0o200},
		item{name: "lib/"}, item{name: "lib/"}, item{name: "./"},
		file("./lib/./deep/x.py"),
		item{name: "stored", content: strings.Repeat("s", 1000), stored: true},
		item{name: "empty"},
		item{name: "implied", mode: fs.ModeDir | 0o700},
		file("..name"), file("ab:c"), file("späß"),
		link("lib/up", "../bin/tool"), link("same", "./index.py"), link("through", "lib/up"), link("nowhere", "not/there"),
		link("dir", "lib/"), link("dirs", "dir/../lib/deep"),
	)
	dir := filepath.Join(t.TempDir(), "tree")
	s, err := extract(z, dir)
	if err != nil {
		t.Fatal(err)
	}
	checked, err := Check(bytes.NewReader(z), int64(len(z)), limits)
	if err != nil || checked != s {
		t.Errorf("check says %v, error %v; extract %v", checked, err, s)
	}
	want := map[string]string{
		".": "drwxr-xr-x", "index.py": "-rw-r--r--", "bin": "drwxr-xr-x", "bin/tool": "-rwxr-xr-x", "secret": "-rw-r--r--",
		"lib": "drwxr-xr-x", "lib/deep": "drwxr-xr-x", "lib/deep/x.py": "-rw-r--r--", "stored": "-rw-r--r--", "empty": "-rw-r--r--",
		"implied": "drwxr-xr-x", "..name": "-rw-r--r--", "ab:c": "-rw-r--r--", "späß": "-rw-r--r--",
		"lib/up": "Lrwxrwxrwx", "same": "Lrwxrwxrwx", "through": "Lrwxrwxrwx", "nowhere": "Lrwxrwxrwx", "dir": "Lrwxrwxrwx", "dirs": "Lrwxrwxrwx",
	}
	got := modes(t, dir)
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s has mode %q, want %s", name, got[name], mode)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, content := range map[string]string{"through": "#!/bin/sh\n", "same": "content of index.py", "dirs/x.py": "content of ./lib/./deep/x.py"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != content {
			t.Errorf("%s: %q, error %v", name, b, err)
		}
	}
}

func modes(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		got[rel] = info.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestUnusualFormsAreRead(t *testing.T) {
	var streamed bytes.Buffer
	w := zip.NewWriter(&streamed) // Create writes data descriptors.
	out, err := w.Create("a")
	if err == nil {
		_, err = io.WriteString(out, "streamed")
	}
	if err = errors.Join(err, w.SetComment(strings.Repeat("c", 2000)), w.Close()); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		zip   []byte
		files int
	}{
		{"empty", build(t), 0},
		{"data descriptors and a comment", streamed.Bytes(), 1},
		{"bytes in front", append([]byte("#!/bin/sh\n"), build(t, file("a"))...), 1},
		{"ZIP64", build(t, manyFiles(70_000)...), 70_000},
	}
	for _, tt := range tests {
		s, err := Check(bytes.NewReader(tt.zip), int64(len(tt.zip)), Limits{})
		if err != nil || s.Files != tt.files {
			t.Errorf("%s: got %v, error %v, want %d files", tt.name, s, err, tt.files)
		}
	}
}

func TestLimitIsInclusive(t *testing.T) {
	z := build(t, item{name: "a", content: strings.Repeat("a", 1<<20)})
	if s, err := Check(bytes.NewReader(z), int64(len(z)), limits); err != nil || s.Bytes != 1<<20 {
		t.Errorf("got %v, error %v", s, err)
	}
}

var errDisk = errors.New("disk is gone")

// failingReader fails from an offset on.
type failingReader struct {
	r    io.ReaderAt
	from int64
}

func (f failingReader) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > f.from {
		return 0, errDisk
	}
	return f.r.ReadAt(p, at)
}

func TestUnreadableSourceIsNotADamagedZip(t *testing.T) {
	z := build(t, item{name: "a", content: strings.Repeat("a", 1000), stored: true})
	for _, from := range []int64{0, 100, int64(len(z)) - 1} {
		_, err := Check(failingReader{bytes.NewReader(z), from}, int64(len(z)), limits)
		if !errors.Is(err, errDisk) || errors.Is(err, ErrFormat) {
			t.Errorf("fails from %d on: got %v", from, err)
		}
	}
}

func TestExtractReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := extract(build(t, file("a")), dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	wantEmpty(t, dir)
}

func FuzzCleanName(f *testing.F) {
	for _, name := range []string{"a/b", "../a", "./a//b/", "/a", "a\\b", ".", "C:a", "a/..", strings.Repeat("a/", 100)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := cleanName(name)
		if err != nil {
			return
		}
		if !filepath.IsLocal(clean) || filepath.Clean(clean) != clean {
			t.Errorf("%q became %q", name, clean)
		}
		if again, err := cleanName(clean); err != nil || again != clean {
			t.Errorf("%q became %q, then %q, error %v", name, clean, again, err)
		}
	})
}

func FuzzExtract(f *testing.F) {
	for _, h := range hostileArchives(f) {
		f.Add(h.zip)
	}
	f.Add(build(f, file("a"), link("b/c", "../a"), item{name: "d/"}, item{name: "e", mode: 0o755}))
	f.Fuzz(func(t *testing.T, z []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "tree")
		s, err := extract(z, dir)
		checked, checkErr := Check(bytes.NewReader(z), int64(len(z)), limits)
		if (err == nil) != (checkErr == nil) || s != checked {
			t.Fatalf("extract: %v, %v; check: %v, %v", s, err, checked, checkErr)
		}
		if err != nil {
			wantEmpty(t, parent)
			return
		}
		wantContained(t, dir, s)
	})
}

// wantContained looks at what is on disk: only files, directories and links that stay inside, no more than allowed.
func wantContained(t *testing.T, dir string, s Summary) {
	t.Helper()
	var bytes int64
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.IsDir() {
			bytes += info.Size()
		}
		if m := info.Mode(); m != fs.ModeDir|0o755 && m != 0o644 && m != 0o755 && m.Type() != fs.ModeSymlink {
			t.Errorf("%s has mode %v", name, m)
		}
		if real, err := filepath.EvalSymlinks(name); err == nil && real != dir && !strings.HasPrefix(real, dir+"/") {
			t.Errorf("%s leads to %s", name, real)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes != s.Bytes || bytes > limits.Bytes {
		t.Errorf("%d bytes on disk, summary says %d", bytes, s.Bytes)
	}
}

func BenchmarkExtract(b *testing.B) {
	chunk := make([]byte, 1<<20)
	for i := range chunk {
		chunk[i] = byte(rand.IntN(16)) // Packs to about half.
	}
	var items []item
	for i := range 250 {
		items = append(items, item{name: fmt.Sprintf("node_modules/p%d/dist/index.js", i), content: string(chunk)})
	}
	z := build(b, items...)
	b.SetBytes(250 << 20)
	parent := b.TempDir()
	for b.Loop() {
		dir := filepath.Join(parent, "tree")
		if _, err := Extract(bytes.NewReader(z), int64(len(z)), dir, Limits{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
