// Package remote takes a catalog.Source from one process of a node to another, over a unix socket.
//
// A connection carries one request and its answer, and is closed by whoever has no more to say. A request is a byte that says what is
// asked (opGet, opWatch, opReport), the length of a key in two bytes, and the key; to opReport there is no key, and the length of a report
// in four bytes and the report follow. An answer is a sequence of events, each a byte that says what it is, the revision in eight bytes,
// the lengths of key and value in four bytes each, key and value. All numbers are big-endian. To opGet and opReport there is one event; to
// opWatch there are as many as come, and none is ever passed over: a connection that breaks ends the Watch.
package remote

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"kiln/catalog"
)

// What is asked.
const (
	opGet    = 'g'
	opWatch  = 'w'
	opReport = 'p'
)

// What an event is.
const (
	// kindRecord is a record with its value.
	kindRecord = 'r'
	// kindAbsent is one that does not exist, or any more.
	kindAbsent = 'a'
	// kindSynced is catalog.Event.Synced.
	kindSynced = 's'
	// kindFailed has the source's error as its value, and is the last.
	kindFailed = 'f'
)

// header is the length of what comes before an event's key.
const header = 1 + 8 + 4 + 4

// errProtocol is wrapped by the errors about what cannot have come from this package.
var errProtocol = errors.New("not the protocol of a catalog")

// writeRequest sends a request with one write.
func writeRequest(w io.Writer, op byte, k catalog.Key, body []byte) error {
	if len(k) > catalog.MaxKey {
		return fmt.Errorf("key %.80q... of %d bytes: at most %d", k, len(k), catalog.MaxKey)
	}
	b := binary.BigEndian.AppendUint16([]byte{op}, uint16(len(k)))
	_, err := w.Write(append(append(b, k...), body...))
	return err
}

func readRequest(r io.Reader) (op byte, k catalog.Key, err error) {
	var h [3]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, "", err
	}
	n := binary.BigEndian.Uint16(h[1:])
	if n > catalog.MaxKey {
		return 0, "", fmt.Errorf("%w: a key of %d bytes", errProtocol, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	return h[0], catalog.Key(b), nil
}

// writeEvent writes an event of that kind.
func writeEvent(w *bufio.Writer, kind byte, r catalog.Record) error {
	b := binary.BigEndian.AppendUint64(append(w.AvailableBuffer(), kind), uint64(r.Revision))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Key)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Value)))
	w.Write(b) // a bufio.Writer keeps its first error
	w.WriteString(string(r.Key))
	_, err := w.Write(r.Value)
	return err
}

// kindOf is the kind of what a source tells.
func kindOf(e catalog.Event) byte {
	switch {
	case e.Synced:
		return kindSynced
	case e.Value == nil:
		return kindAbsent
	default:
		return kindRecord
	}
}

// readEvent reads what writeEvent has written. The error of kindFailed is returned as an error.
func readEvent(r *bufio.Reader) (catalog.Event, error) {
	var h [header]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return catalog.Event{}, whole(err)
	}
	nk, nv := binary.BigEndian.Uint32(h[9:]), binary.BigEndian.Uint32(h[13:])
	if nk > catalog.MaxKey || nv > catalog.MaxValue+catalog.MaxSealing {
		return catalog.Event{}, fmt.Errorf("%w: a key of %d bytes, a value of %d", errProtocol, nk, nv)
	}
	b := make([]byte, nk+nv)
	if _, err := io.ReadFull(r, b); err != nil {
		return catalog.Event{}, whole(err)
	}
	record := catalog.Record{Key: catalog.Key(b[:nk]), Revision: catalog.Revision(binary.BigEndian.Uint64(h[1:]))}
	switch h[0] {
	case kindRecord:
		record.Value = b[nk:]
	case kindSynced:
		return catalog.Event{Synced: true}, nil
	case kindAbsent:
	case kindFailed:
		return catalog.Event{}, fmt.Errorf("the store's process: %s", b[nk:])
	default:
		return catalog.Event{}, fmt.Errorf("%w: an event of kind %d", errProtocol, h[0])
	}
	return catalog.Event{Record: record}, nil
}

// whole makes of an end that came between two events what it is: one that came too early.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
