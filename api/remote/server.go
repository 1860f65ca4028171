package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"time"

	"kiln"
	"kiln/api"
	"kiln/internal/local"
)

const (
	// maxConnections is how many requests are served at a time; others wait.
	maxConnections = 256
	// requestTime is how long a request, which its sender has whole, may take to come.
	requestTime = 30 * time.Second
)

// Server serves the operations of handlers to the other processes of the node. Run must be running.
type Server struct {
	listener *net.UnixListener
	handlers map[string]api.Handler
	log      *slog.Logger
}

// NewServer returns a Server on l, which comes from local.Listen and which Run closes. It believes who the caller of a request is: whoever
// may open the socket has authenticated it.
func NewServer(l *net.UnixListener, handlers []api.Handler, log *slog.Logger) *Server {
	s := &Server{listener: l, handlers: make(map[string]api.Handler, len(handlers)), log: log}
	for _, h := range handlers {
		s.handlers[h.Operation.Name] = h
	}
	return s
}

// Run serves until ctx ends, or until the listener fails. An operation that has begun is carried out when its caller has gone away.
func (s *Server) Run(ctx context.Context) error {
	return local.Serve(ctx, s.listener, maxConnections, s.log, func(ctx context.Context, conn *net.UnixConn) {
		if err := s.answer(ctx, conn); err != nil {
			s.log.Warn("answer a request of another process", "err", err)
		}
	})
}

func (s *Server) answer(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	var r request
	if err := json.NewDecoder(io.LimitReader(conn, maxSize)).Decode(&r); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	output, err := s.call(ctx, r)
	a := answer{Output: output}
	if err != nil {
		a.Fault = faultOf(err)
	}
	return json.NewEncoder(conn).Encode(a)
}

func (s *Server) call(ctx context.Context, r request) (json.RawMessage, error) {
	h, ok := s.handlers[r.Operation]
	if !ok {
		return nil, kiln.Errorf(kiln.NotImplemented, "kiln does not implement %.80s", r.Operation)
	}
	in := reflect.New(h.Operation.Input).Interface()
	if err := json.Unmarshal(r.Input, in); err != nil {
		return nil, fmt.Errorf("decode input of %s: %w", r.Operation, err)
	}
	out, err := h.Call(ctx, r.Caller, in)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}
