package remote

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/rpc"
	"sync"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/internal/local"
)

// maxConnections is how many processes may use a worker at a time: one does, and another while it takes its place.
const maxConnections = 8

// answerTime is how long answers may take to be sent when nothing runs any more.
const answerTime = time.Second

// Config says what a Server serves.
type Config struct {
	// Listener comes from local.Listen. Run closes it.
	Listener *net.UnixListener
	Worker   fleet.Worker
	// Free is the memory that is not promised to environments, in MB.
	Free func() int
	// Lookup finds credentials that the worker's environments have.
	Lookup func(id string) Bearer
	// Drain is how long invocations that run may take when Run's context has ended.
	Drain time.Duration
	Log   *slog.Logger
}

// Server serves a worker to the other processes of the node. Run must be running.
type Server struct {
	cfg Config

	mu       sync.Mutex
	sessions map[*session]bool // +checklocks:mu
	running  int               // +checklocks:mu calls that a drain waits for
	draining bool              // +checklocks:mu
	idle     chan struct{}     // closed when nothing runs while draining
	serving  sync.WaitGroup    // of sessions, the last of which Run outlives
}

// NewServer returns a server, which serves nothing until Run.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, sessions: make(map[*session]bool), idle: make(chan struct{})}
}

// Ended is fleet.Ended: it tells whoever has started the environment.
func (s *Server) Ended(id fleet.EnvironmentID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		session.tell(id)
	}
}

// Run serves until ctx ends. Then it starts no more environments, and gives those invocations that run their time.
func (s *Server) Run(ctx context.Context) error {
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.drain(); cancel() })
	defer stop()
	return local.Serve(serving, s.cfg.Listener, maxConnections, s.cfg.Log, func(ctx context.Context, conn *net.UnixConn) {
		if err := s.serve(ctx, conn); err != nil {
			s.cfg.Log.Error("serve a worker", "err", err)
		}
	})
}

// serve answers the calls of a connection until it ends.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) error {
	c := &closing{Conn: conn, closed: make(chan struct{})}
	se := &session{
		server: s, conn: conn, ctx: context.WithoutCancel(ctx), hung: c.closed,
		environments: make(map[fleet.EnvironmentID]bool), wake: make(chan struct{}, 1),
	}
	calls := rpc.NewServer()
	if err := calls.RegisterName(service, se); err != nil {
		return err
	}
	s.enter(se)
	defer s.leave(se)
	var serving sync.WaitGroup
	serving.Go(func() { calls.ServeConn(c) })
	<-c.closed
	se.end()
	serving.Wait()
	se.end() // what was being started meanwhile
	return nil
}

// begin counts a call that a drain waits for, unless there is one.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.running++
	return true
}

func (s *Server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if s.draining && s.running == 0 {
		close(s.idle)
	}
}

// drain lets nothing begin any more, and waits for what runs.
func (s *Server) drain() {
	s.mu.Lock()
	s.draining = true
	if s.running == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
	case <-time.After(s.cfg.Drain):
		return
	}
	// Answers are on their way when their calls have ended: a connection that brings no more calls ends after the last answer.
	s.mu.Lock()
	for session := range s.sessions {
		_ = session.conn.CloseRead() // otherwise it has ended
	}
	s.mu.Unlock()
	answered := make(chan struct{})
	go func() { defer close(answered); s.serving.Wait() }() // it ends with the last session, which Run waits for
	select {
	case <-answered:
	case <-time.After(answerTime):
	}
}

func (s *Server) enter(se *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[se] = true
	s.serving.Add(1)
}

func (s *Server) leave(se *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, se)
	s.serving.Done()
}

// closing is a connection that tells when nothing can be read from it any more.
type closing struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

// Read implements net.Conn.
func (c *closing) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.once.Do(func() { close(c.closed) })
	}
	return n, err
}

// session are the calls of one connection.
type session struct {
	server *Server
	conn   *net.UnixConn
	// ctx does not end with the server's, for what runs then has time to end: net/rpc gives calls none.
	ctx  context.Context
	hung <-chan struct{}
	wake chan struct{}

	mu           sync.Mutex
	environments map[fleet.EnvironmentID]bool // +checklocks:mu
	ended        []fleet.EnvironmentID        // +checklocks:mu at most as many as there were environments
}

// Start answers fleet.Worker.Start.
func (s *session) Start(in Starting, out *Started) error {
	if !s.server.begin() {
		out.Fault = &Fault{Kind: kiln.Unavailable, Message: "The worker is shutting down."}
		return nil
	}
	defer s.server.finish()
	id, err := s.server.cfg.Worker.Start(s.ctx, &in.Version, in.Why)
	*out = Started{ID: id, Free: s.server.cfg.Free(), Fault: faultOf(err)}
	if err == nil {
		s.mu.Lock()
		s.environments[id] = true
		s.mu.Unlock()
	}
	return nil
}

// Invoke answers fleet.Worker.Invoke.
func (s *session) Invoke(in Invoking, out *Invoked) error {
	if !s.server.begin() {
		out.Fault = &Fault{Gone: true}
		return nil
	}
	defer s.server.finish()
	res, reusable, err := s.server.cfg.Worker.Invoke(s.ctx, in.ID, in.Invocation)
	*out = Invoked{res, reusable, faultOf(err)}
	if !reusable && !res.Unsettled {
		s.forget(in.ID)
	}
	return nil
}

// Settle answers fleet.Worker.Settle, when the environment is free.
func (s *session) Settle(id fleet.EnvironmentID, reusable *bool) error {
	settled := make(chan bool, 1) // one value, so that its sender never waits
	s.server.cfg.Worker.Settle(id, func(reusable bool) { settled <- reusable })
	if *reusable = <-settled; !*reusable {
		s.forget(id)
	}
	return nil
}

// Stop answers fleet.Worker.Stop.
func (s *session) Stop(in Stopping, free *int) error {
	s.forget(in.ID)
	s.server.cfg.Worker.Stop(in.ID, in.Why)
	*free = s.server.cfg.Free()
	return nil
}

// Free answers how much memory is not promised.
func (s *session) Free(_ Nothing, free *int) error {
	*free = s.server.cfg.Free()
	return nil
}

// Lookup answers whose credentials those with an identifier are.
func (s *session) Lookup(id string, b *Bearer) error {
	*b = s.server.cfg.Lookup(id)
	return nil
}

// Ended answers, once there are any, with environments that have ended by themselves.
func (s *session) Ended(_ Nothing, ids *[]fleet.EnvironmentID) error {
	for {
		s.mu.Lock()
		*ids, s.ended = s.ended, nil
		s.mu.Unlock()
		if len(*ids) > 0 {
			return nil
		}
		select {
		case <-s.wake:
		case <-s.hung:
			return errors.New("the connection has ended")
		}
	}
}

// tell tells of an environment that has ended, if it is one of this connection.
func (s *session) tell(id fleet.EnvironmentID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.environments[id] {
		return
	}
	delete(s.environments, id)
	s.ended = append(s.ended, id)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) forget(id fleet.EnvironmentID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.environments, id)
}

// end ends what was started over the connection.
func (s *session) end() {
	s.mu.Lock()
	left := s.environments
	s.environments = make(map[fleet.EnvironmentID]bool)
	s.mu.Unlock()
	var ends sync.WaitGroup
	for id := range left {
		ends.Go(func() { s.server.cfg.Worker.Stop(id, fleet.Orphaned) })
	}
	ends.Wait()
}
