// Package tunnel carries connections over one stream socket between a sandbox and its worker.
//
// The side in the sandbox opens streams, the worker's side takes them. A frame is eight bytes (kind, nothing, 16 bits of stream, 32 bits of
// length, all big-endian) and, for data, as many bytes as it says. Each side may send as much of a stream as the other has room for, a
// window at first and then what it is granted, so that a stream that nobody reads holds up no other.
//
// What comes out of a sandbox is hostile. The worker holds at most MaxStreams windows for it, starts at most three goroutines per stream,
// answers nothing without having taken something, and hangs up on whoever breaks a rule.
package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// MaxStreams is how many connections one tunnel carries at a time.
	MaxStreams = 32
	// window is how much of a stream may be under way in one direction.
	window = 64 << 10
	// maxData bounds the data of one frame, so that streams take turns.
	maxData = 16 << 10
	// headLength is the length of a frame without its data.
	headLength = 8
)

// kind is what a frame says of its stream.
type kind byte

const (
	// open begins a stream.
	open kind = 1 + iota
	// data carries bytes.
	data
	// grant says how many bytes more may be sent.
	grant
	// end says that the sender sends nothing more, and takes nothing more. A stream ends with an end from each side.
	end
)

// ErrFull is returned by Carry when MaxStreams connections are being carried.
var ErrFull = errors.New("too many connections at a time")

// Tunnel is one side of a tunnel. It is safe for concurrent use.
type Tunnel struct {
	line io.ReadWriteCloser

	writeMu sync.Mutex // so that frames are sent whole

	mu      sync.Mutex
	streams map[uint16]*stream // +checklocks:mu
	next    uint16             // +checklocks:mu
	ended   bool               // +checklocks:mu

	carrying sync.WaitGroup
}

// stream is one connection within a tunnel.
type stream struct {
	id    uint16
	local io.ReadWriteCloser
	// mu guards what follows; changed is told of every change.
	mu      sync.Mutex
	changed *sync.Cond
	// room is how much may be sent.
	room int // +checklocks:mu
	// taken is what came and was not handed on yet, and held how much came that was not granted anew.
	taken []byte // +checklocks:mu
	held  int    // +checklocks:mu
	// over says that nothing more will come.
	over bool // +checklocks:mu
	// sent says that our end was sent.
	sent bool // +checklocks:mu
}

// New returns a tunnel over line. Who closes line ends the tunnel.
func New(line io.ReadWriteCloser) *Tunnel {
	return &Tunnel{line: line, streams: make(map[uint16]*stream)}
}

// Serve takes the frames of the other side until the line ends, and returns why: nil if it was closed between two frames. Every stream that
// the other side opens is connected to what accept returns, which must not block; if it is nil, the other side may open none. When Serve
// returns the line is closed and nothing of the tunnel runs any more, if closing a connection ends its reads and writes.
func (t *Tunnel) Serve(accept func() (io.ReadWriteCloser, error)) error {
	defer t.carrying.Wait()
	defer t.end()
	head := make([]byte, headLength)
	for {
		if _, err := io.ReadFull(t.line, head); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		k, id, n := kind(head[0]), binary.BigEndian.Uint16(head[2:]), int(binary.BigEndian.Uint32(head[4:]))
		if err := t.take(k, id, n, accept); err != nil {
			return fmt.Errorf("frame %d of stream %d: %w", k, id, err)
		}
	}
}

// take follows one frame, and reads the data of it.
func (t *Tunnel) take(k kind, id uint16, n int, accept func() (io.ReadWriteCloser, error)) error {
	if k == open {
		return t.accept(id, accept)
	}
	s := t.stream(id)
	if s == nil && k == grant {
		return nil // it may follow an end. Streams are numbered on, so that it is not taken for another's
	}
	if s == nil {
		return errors.New("no such stream")
	}
	switch k {
	case data:
		return s.receive(t.line, n)
	case grant:
		return s.grant(n)
	case end:
		return t.takeEnd(s)
	}
	return errors.New("no such frame")
}

func (t *Tunnel) stream(id uint16) *stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams[id]
}

func (t *Tunnel) accept(id uint16, accept func() (io.ReadWriteCloser, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if accept == nil || t.streams[id] != nil || len(t.streams) == MaxStreams {
		return errors.New("it must not be opened")
	}
	local, err := accept()
	if err != nil {
		return err
	}
	t.begin(id, local)
	return nil
}

// begin starts to carry a connection.
//
// +checklocks:t.mu
func (t *Tunnel) begin(id uint16, local io.ReadWriteCloser) *stream {
	s := &stream{id: id, local: local, room: window}
	s.changed = sync.NewCond(&s.mu)
	t.streams[id] = s
	t.carrying.Go(func() { t.handOn(s) })
	t.carrying.Go(func() { t.send(s) })
	return s
}

// Carry opens a stream for a connection, which from then on is the tunnel's. It does not wait for its end. If it fails the connection is
// closed.
func (t *Tunnel) Carry(local io.ReadWriteCloser) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || len(t.streams) == MaxStreams {
		return errors.Join(ErrFull, local.Close())
	}
	for t.streams[t.next] != nil {
		t.next++
	}
	id := t.next
	t.next++
	// The other side must hear of it before it hears from it.
	if err := t.write(open, id, 0, nil); err != nil {
		return errors.Join(err, local.Close())
	}
	t.begin(id, local)
	return nil
}

func (t *Tunnel) write(k kind, id uint16, n int, b []byte) error {
	frame := make([]byte, headLength, headLength+len(b))
	frame[0] = byte(k)
	binary.BigEndian.PutUint16(frame[2:], id)
	binary.BigEndian.PutUint32(frame[4:], uint32(n))
	t.writeMu.Lock()
	defer t.writeMu.Unlock()
	_, err := t.line.Write(append(frame, b...))
	return err
}

// send sends what the local side says until it ends.
func (t *Tunnel) send(s *stream) {
	b := make([]byte, maxData)
	for {
		room := s.awaitRoom()
		if room == 0 {
			break
		}
		n, err := s.local.Read(b[:room])
		if n > 0 {
			s.spend(n) // before the other side can grant it anew
			if t.write(data, s.id, n, b[:n]) != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	t.sendEnd(s)
}

// awaitRoom returns how much may be sent at once, or 0 if the other side takes nothing more.
func (s *stream) awaitRoom() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.room == 0 && !s.over {
		s.changed.Wait()
	}
	if s.over {
		return 0
	}
	return min(s.room, maxData)
}

func (s *stream) spend(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room -= n
}

// handOn hands what comes to the local side, and closes that when nothing more will.
func (t *Tunnel) handOn(s *stream) {
	for {
		b := s.awaitData()
		if len(b) == 0 {
			break
		}
		if _, err := s.local.Write(b); err != nil {
			break
		}
		s.release(len(b)) // before the other side can use it
		if t.write(grant, s.id, len(b), nil) != nil {
			break
		}
	}
	_ = s.local.Close() // there is nobody left to tell; it ends send
	s.discard()
}

// awaitData returns what came, or nothing if nothing more will.
func (s *stream) awaitData() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.taken) == 0 && !s.over {
		s.changed.Wait()
	}
	b := s.taken
	s.taken = nil
	return b
}

// discard waits for the other side's end, and drops what comes until then.
func (s *stream) discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over {
		s.taken = nil
		s.changed.Wait()
	}
}

// receive reads the data of a frame.
func (s *stream) receive(line io.Reader, n int) error {
	if !s.hold(n) {
		return errors.New("more data than there is room for")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(line, b); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, b...)
	s.changed.Broadcast()
	return nil
}

// hold makes room for what comes, unless more comes than may.
func (s *stream) hold(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || n <= 0 || n > maxData || s.held+n > window {
		return false
	}
	s.held += n
	return true
}

func (s *stream) release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
}

func (s *stream) grant(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n <= 0 || s.room+n > window {
		return errors.New("more room than there is")
	}
	s.room += n
	s.changed.Broadcast()
	return nil
}

// takeEnd ends the other side's half of a stream, and the stream if ours has ended.
func (t *Tunnel) takeEnd(s *stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errors.New("it has ended already")
	}
	s.over = true
	s.changed.Broadcast()
	if s.sent {
		delete(t.streams, s.id)
	}
	return nil
}

// sendEnd ends our half of a stream, and the stream if the other's has ended.
func (t *Tunnel) sendEnd(s *stream) {
	_ = t.write(end, s.id, 0, nil) // the line has ended, and Serve says so
	t.mu.Lock()
	defer t.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = true
	if s.over {
		delete(t.streams, s.id)
	}
}

// end ends every stream.
func (t *Tunnel) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	_ = t.line.Close() // so that nobody waits to write; it has ended or broken a rule
	for _, s := range t.streams {
		s.mu.Lock()
		s.over = true
		s.taken = nil
		s.changed.Broadcast()
		s.mu.Unlock()
		_ = s.local.Close() // the connection that it was for has ended
	}
}
