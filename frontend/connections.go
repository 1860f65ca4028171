package frontend

import (
	"net"
	"net/http"
	"sync"
)

// connections is a listener that bounds how many connections are open at once, and knows when the last has been served.
type connections struct {
	net.Listener
	slots chan struct{} // one element per open connection
	done  chan struct{} // closed by Close
	once  sync.Once
	open  sync.WaitGroup
}

func newConnections(l net.Listener, limit int) *connections {
	return &connections{Listener: l, slots: make(chan struct{}, limit), done: make(chan struct{})}
}

// Accept waits for a free slot, then for a connection.
func (c *connections) Accept() (net.Conn, error) {
	select {
	case c.slots <- struct{}{}:
	case <-c.done:
		return nil, net.ErrClosed
	}
	conn, err := c.Listener.Accept()
	if err != nil {
		<-c.slots
		return nil, err
	}
	c.open.Add(1)
	return conn, nil
}

// Close stops accepting. It may be called more than once.
func (c *connections) Close() error {
	var err error
	c.once.Do(func() {
		close(c.done)
		err = c.Listener.Close()
	})
	return err
}

// track is an http.Server's ConnState. The server reports StateClosed once per connection that it accepted, at the end of the
// goroutine that served it; no handler of ours hijacks one.
func (c *connections) track(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		<-c.slots
		c.open.Done()
	}
}

// Wait returns when every connection has been served. The server must have stopped accepting.
func (c *connections) Wait() { c.open.Wait() }
