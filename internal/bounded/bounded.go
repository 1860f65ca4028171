// Package bounded bounds how many connections an HTTP server has open at once.
package bounded

import (
	"net"
	"net/http"
	"sync"
)

// Listener accepts so many connections at a time, and knows when the last has been served.
type Listener struct {
	net.Listener
	slots chan struct{} // one element per open connection
	done  chan struct{} // closed by Close
	once  sync.Once
	open  sync.WaitGroup
}

// New returns a Listener over l that has at most limit connections open. The http.Server that is given it must have Track as its
// ConnState.
func New(l net.Listener, limit int) *Listener {
	return &Listener{Listener: l, slots: make(chan struct{}, limit), done: make(chan struct{})}
}

// Accept waits for a free slot, then for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	l.open.Add(1)
	return conn, nil
}

// Close stops accepting. It may be called more than once.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		close(l.done)
		err = l.Listener.Close()
	})
	return err
}

// Track is an http.Server's ConnState. The server reports StateClosed once per connection that it accepted, at the end of the
// goroutine that served it; no handler may hijack one.
func (l *Listener) Track(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		<-l.slots
		l.open.Done()
	}
}

// Wait returns when every connection has been served. The server must have stopped accepting.
func (l *Listener) Wait() { l.open.Wait() }
