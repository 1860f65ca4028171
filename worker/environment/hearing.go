package environment

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/worker/wire"
)

// hearing takes the frames that come over a control line. Whoever has to know all that was said before some moment calls catchUp:
// what was sent over another line after something was said here may be read first.
type hearing struct {
	raw syscall.RawConn

	mu  sync.Mutex
	buf []byte            // +checklocks:mu what is not a whole frame yet
	to  func(wire.Header) // +checklocks:mu
	err error             // +checklocks:mu the line is at its end
}

func newHearing(c net.Conn) (*hearing, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, errors.New("not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &hearing{raw: raw}, nil
}

// run calls to with every frame until the line ends, and returns why. One call is made at a time.
func (l *hearing) run(to func(wire.Header)) error {
	l.mu.Lock()
	l.to = to
	l.mu.Unlock()
	for {
		var more bool
		var err error
		if e := l.raw.Read(func(fd uintptr) bool {
			more, err = l.take(fd)
			return more || err != nil
		}); e != nil {
			return e
		}
		if err != nil {
			return err
		}
	}
}

// catchUp returns when all that was said before has been taken.
func (l *hearing) catchUp() {
	// An error is the end of the line, which run reports.
	_ = l.raw.Control(func(fd uintptr) {
		for range 64 { // a guest that never stops must not hold up its function
			if more, err := l.take(fd); !more || err != nil {
				return
			}
		}
	})
}

// take reads what is there, and reports whether there was anything.
func (l *hearing) take(fd uintptr) (more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false, l.err
	}
	var chunk [4 << 10]byte
	n, err := unix.Read(int(fd), chunk[:]) // non-blocking: the runtime's poller waits, not this call
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false, nil
	case err != nil:
		l.err = err
	case n == 0:
		l.err = io.EOF
	default:
		l.buf = append(l.buf, chunk[:n]...)
		l.err = l.decode()
	}
	return n > 0, l.err
}

// decode hands on the whole frames that are there.
//
// +checklocks:l.mu
func (l *hearing) decode() error {
	for len(l.buf) > 0 {
		r := bytes.NewReader(l.buf)
		h, _, err := wire.Read(r, 0)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the rest is on its way
		}
		if err != nil {
			return err
		}
		l.buf = l.buf[len(l.buf)-r.Len():]
		l.to(h)
	}
	l.buf = nil
	return nil
}
