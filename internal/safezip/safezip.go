// Package safezip unpacks zip files that an enemy may have made.
//
// A zip is refused as a whole: nothing of it is left on disk. What an archive can cost is bounded before it is spent: entries
// are counted while the directory is read, bytes while they are inflated, whatever the headers say. There is no bound on the
// ratio: Deflate ends at 1,032 to 1, entries may not share bytes, and what comes out counts against Limits.Bytes, so that a
// large file of zeros, which AWS takes, passes and a bomb does not.
package safezip

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// Classes of refusal. Errors wrap one of them; any other error is of reading or writing.
var (
	// ErrFormat is a file that is no zip, is damaged, encrypted, or packed with an unknown method.
	ErrFormat = errors.New("not a readable zip file")
	// ErrTooLarge is a zip whose files are larger than Limits.Bytes together.
	ErrTooLarge = errors.New("unzipped size is too large")
	// ErrUnsafe is a zip with an entry that no honest tool writes, or one that would reach outside its directory.
	ErrUnsafe = errors.New("unsafe zip file")
)

// Limits bound an archive. A field that is 0 means its default.
type Limits struct {
	// Bytes is the size of all files together, 250 MiB by default, which is AWS's limit.
	Bytes int64
	// Entries is the number of files, links and directories, those included that are only part of another's name; 100,000 by
	// default. AWS documents no limit; the largest dependency trees have some 50,000.
	Entries int
}

func (l Limits) withDefaults() Limits {
	return Limits{Bytes: cmp.Or(l.Bytes, 250<<20), Entries: cmp.Or(l.Entries, 100_000)}
}

// Summary is what an archive holds.
type Summary struct {
	// Files is the number of files and symbolic links.
	Files int
	// Bytes is the size of all files together.
	Bytes int64
}

// Check reads the whole archive of size bytes in r and returns an error if Extract would refuse it.
func Check(r io.ReaderAt, size int64, l Limits) (Summary, error) {
	a, err := open(r, size, l)
	if err != nil {
		return Summary{}, err
	}
	for _, e := range a.files {
		if err := a.inflate(io.Discard, e); err != nil {
			return Summary{}, err
		}
	}
	return a.summary(), nil
}

// entry is a file or a symbolic link.
type entry struct {
	*zip.File
	// name is relative to the archive's root, without "." and "..".
	name string
	// target is where a symbolic link points.
	target string
}

// archive is a zip whose directory has passed all checks.
type archive struct {
	limits Limits
	source *meter
	files  []entry
	links  []entry
	tree   tree
	// bytes counts what was inflated so far.
	bytes  int64
	buffer []byte
}

func (a *archive) summary() Summary {
	return Summary{Files: len(a.files) + len(a.links), Bytes: a.bytes}
}

func open(r io.ReaderAt, size int64, l Limits) (*archive, error) {
	l = l.withDefaults()
	a := &archive{limits: l, source: &meter{r: r, limit: l.Entries, on: true}, tree: make(tree), buffer: make([]byte, 128<<10)}
	z, err := zip.NewReader(a.source, size)
	if err != nil {
		return nil, a.readError("directory", err)
	}
	a.source.on = false
	for _, f := range z.File {
		if err := a.add(f); err != nil {
			return nil, fmt.Errorf("%w: entry %.200q: %s", ErrUnsafe, f.Name, err)
		}
	}
	if err := a.checkSizes(z.File); err != nil {
		return nil, err
	}
	if err := a.checkOverlaps(z.File, size); err != nil {
		return nil, err
	}
	return a, a.resolveLinks()
}

// add places an entry in the tree. Its error is a reason to refuse.
func (a *archive) add(f *zip.File) error {
	name, err := cleanName(f.Name)
	if err != nil {
		return err
	}
	if f.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
		return errors.New("has a setuid, setgid or sticky bit")
	}
	kind := f.Mode().Type()
	switch kind {
	case fs.ModeDir:
		if f.UncompressedSize64 != 0 {
			return errors.New("directory has content")
		}
	case fs.ModeSymlink:
		a.links = append(a.links, entry{File: f, name: name})
	case 0:
		a.files = append(a.files, entry{File: f, name: name})
	default:
		return fmt.Errorf("is neither file, directory nor symbolic link (%v)", kind)
	}
	return a.tree.add(name, kind, a.limits.Entries)
}

// checkSizes refuses what cannot be inflated, or only to too much, before any work is spent on it.
func (a *archive) checkSizes(files []*zip.File) error {
	const encrypted = 1<<0 | 1<<6 | 1<<13 // Flags of PKWARE's APPNOTE, 4.4.4.
	left := uint64(a.limits.Bytes)
	for _, f := range files {
		if f.Flags&encrypted != 0 {
			return fmt.Errorf("%w: entry %.200q is encrypted", ErrFormat, f.Name)
		}
		if f.UncompressedSize64 > left {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, a.limits.Bytes)
		}
		left -= f.UncompressedSize64
	}
	return nil
}

// checkOverlaps refuses entries that share bytes, by which a small file would inflate without bound, or that go beyond the
// archive.
func (a *archive) checkOverlaps(files []*zip.File, size int64) error {
	type span struct{ start, end int64 }
	spans := make([]span, 0, len(files))
	for _, f := range files {
		start, err := f.DataOffset()
		if err != nil {
			return a.readError(f.Name, err)
		}
		if start > size || f.CompressedSize64 > uint64(size-start) {
			return fmt.Errorf("%w: entry %.200q goes beyond the end", ErrFormat, f.Name)
		}
		if f.CompressedSize64 > 0 {
			spans = append(spans, span{start, start + int64(f.CompressedSize64)})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(spans); i++ {
		if spans[i].start < spans[i-1].end {
			return fmt.Errorf("%w: entries overlap", ErrUnsafe)
		}
	}
	return nil
}

// resolveLinks reads the targets of symbolic links and refuses one that leaves the tree, by itself or through others.
func (a *archive) resolveLinks() error {
	for i := range a.links {
		e := &a.links[i]
		if e.UncompressedSize64 > maxName {
			return fmt.Errorf("%w: symbolic link %.200q is too long", ErrUnsafe, e.name)
		}
		var target bytes.Buffer
		if err := a.inflate(&target, *e); err != nil {
			return err
		}
		e.target = target.String()
		if err := checkTarget(e.target); err != nil {
			return fmt.Errorf("%w: symbolic link %.200q: %s", ErrUnsafe, e.name, err)
		}
		a.tree[e.name] = node{kind: fs.ModeSymlink, target: e.target}
	}
	budget := maxSteps
	for _, e := range a.links {
		if err := a.tree.resolve(e.name, &budget); err != nil {
			return fmt.Errorf("%w: symbolic link %.200q: %s", ErrUnsafe, e.name, err)
		}
	}
	return nil
}

// inflate writes the content of e to w and counts it.
func (a *archive) inflate(w io.Writer, e entry) error {
	r, err := e.Open()
	if err != nil {
		return a.readError(e.name, err)
	}
	defer r.Close()
	for {
		n, err := r.Read(a.buffer)
		if a.bytes += int64(n); a.bytes > a.limits.Bytes {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, a.limits.Bytes)
		}
		if _, werr := w.Write(a.buffer[:n]); werr != nil {
			return fmt.Errorf("write %.200q: %w", e.name, werr)
		}
		switch err {
		case nil:
		case io.EOF:
			return nil
		default:
			return a.readError(e.name, err)
		}
	}
}

// readError tells damage from a source that cannot be read and from a directory with too many entries.
func (a *archive) readError(what string, err error) error {
	if a.source.err != nil {
		return a.source.err
	}
	return fmt.Errorf("%w: %.200q: %w", ErrFormat, what, err)
}

// meter reads the archive. While on, it counts the headers in what is read in one run, to stop archive/zip before it has
// allocated for more entries than allowed: it believes neither the count nor the size that the file gives, and reads on for as
// long as headers come.
type meter struct {
	r     io.ReaderAt
	limit int
	on    bool
	// next is where the run goes on, last the end of what was read of it.
	next    int64
	last    []byte
	headers int
	read    int64
	// err is why reading ended, if it is not the archive's fault.
	err error
}

// maxDirectory bounds the bytes read for the directory: names, extra fields and comments are kept in memory.
const maxDirectory = 32 << 20

var header = []byte("PK\x01\x02")

func (m *meter) ReadAt(p []byte, at int64) (int, error) {
	n, err := m.r.ReadAt(p, at)
	if err != nil && err != io.EOF {
		m.err = fmt.Errorf("read zip file: %w", err)
		return n, err
	}
	if m.on {
		if m.err = m.count(p[:n], at); m.err != nil {
			return 0, m.err
		}
	}
	return n, err
}

func (m *meter) count(p []byte, at int64) error {
	if at != m.next {
		m.headers, m.last = 0, nil
	}
	m.next = at + int64(len(p))
	m.read += int64(len(p))
	border := append(slices.Clone(m.last), p[:min(len(p), len(header)-1)]...)
	m.headers += bytes.Count(p, header)
	if len(m.last) > 0 && bytes.Contains(border, header) {
		m.headers++
	}
	m.last = slices.Clone(lastBytes(append(m.last, p...), len(header)-1))
	if m.headers > m.limit || m.read > maxDirectory {
		return fmt.Errorf("%w: more than %d entries or %d bytes of directory", ErrUnsafe, m.limit, maxDirectory)
	}
	return nil
}

func lastBytes(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
