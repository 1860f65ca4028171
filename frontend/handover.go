package frontend

import (
	"net"
	"sync"
)

// maxWaiting is how many connections wait to be served that were handed over: as many as one environment has.
const maxWaiting = 32

// handover is a listener whose connections were accepted by somebody else.
type handover struct {
	conns chan net.Conn // holds maxWaiting
	done  chan struct{} // closed by Close

	mu     sync.Mutex
	closed bool // +checklocks:mu
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn, maxWaiting), done: make(chan struct{})}
}

// give hands a connection over, or closes it if nobody takes it.
func (h *handover) give(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		select {
		case h.conns <- conn:
			return
		default:
		}
	}
	_ = conn.Close() // who opened it sees its end
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that wait are closed.
func (h *handover) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	close(h.done)
	for {
		select {
		case conn := <-h.conns:
			_ = conn.Close() // who opened it sees its end
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return handoverAddr{} }

type handoverAddr struct{}

func (handoverAddr) Network() string { return "sandbox" }
func (handoverAddr) String() string  { return "sandbox" }
