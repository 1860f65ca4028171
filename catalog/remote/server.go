package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"kiln/catalog"
	"kiln/internal/local"
)

const (
	// maxConnections is many times what the processes of a node have open: a watch each, and what they look up at a moment.
	maxConnections = 256
	// requestTime is how long a request, which is one write, may take to come.
	requestTime = 5 * time.Second
	// maxMessage bounds what is told of an error, in bytes.
	maxMessage = 1 << 10
)

// Server serves a catalog.Source to the other processes of the node. Run must be running.
type Server struct {
	listener *net.UnixListener
	source   catalog.Source
	reported func([]catalog.ProvisionStatus)
	log      *slog.Logger
}

// NewServer returns a Server of source on l, which comes from local.Listen and which Run closes. reported is called with what clients
// report.
func NewServer(l *net.UnixListener, source catalog.Source, reported func([]catalog.ProvisionStatus), log *slog.Logger) *Server {
	return &Server{l, source, reported, log}
}

// Run serves until ctx ends, when it ends all watches, or until the listener fails.
func (s *Server) Run(ctx context.Context) error {
	return local.Serve(ctx, s.listener, maxConnections, s.log, func(ctx context.Context, conn *net.UnixConn) {
		if err := s.answer(ctx, conn); errors.Is(err, errProtocol) {
			s.log.Warn("refuse a reader of the catalog", "err", err)
		}
	})
}

// answer reads a request and answers it. Its errors are those of the connection.
func (s *Server) answer(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	op, k, err := readRequest(conn)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(conn)
	if op == opReport {
		return errors.Join(s.take(conn, w), w.Flush())
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	switch op {
	case opGet:
		return errors.Join(s.get(ctx, w, k), w.Flush())
	case opWatch:
		return s.watch(ctx, conn, w, k)
	default:
		return fmt.Errorf("%w: a request of kind %d", errProtocol, op)
	}
}

func (s *Server) get(ctx context.Context, w *bufio.Writer, k catalog.Key) error {
	r, err := s.source.Get(ctx, k)
	if err != nil {
		return writeFailure(w, err)
	}
	return writeEvent(w, kindOf(catalog.Event{Record: r}), r)
}

// watch tells of changes until the reader goes away. Until all that is stored has been told, events are written in large pieces.
func (s *Server) watch(ctx context.Context, conn net.Conn, w *bufio.Writer, prefix catalog.Key) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var listening sync.WaitGroup
	listening.Go(func() {
		defer cancel()
		conn.Read(make([]byte, 1)) // a reader has nothing more to say: this is its end, or that of conn
	})
	synced := false
	err := s.source.Watch(ctx, prefix, func(e catalog.Event) error {
		if err := writeEvent(w, kindOf(e), e.Record); err != nil {
			return err
		}
		if synced = synced || e.Synced; !synced {
			return nil
		}
		return w.Flush()
	})
	if ctx.Err() == nil {
		err = errors.Join(writeFailure(w, err), w.Flush())
	}
	err = errors.Join(err, conn.Close())
	listening.Wait()
	return err
}

// writeFailure tells of an error of the source.
func writeFailure(w *bufio.Writer, err error) error {
	text := err.Error()
	return writeEvent(w, kindFailed, catalog.Record{Value: []byte(text[:min(len(text), maxMessage)])})
}
