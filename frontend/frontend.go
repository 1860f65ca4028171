// Package frontend is the HTTP edge: it routes a request to its operation, authenticates it, decodes it, calls the operation's
// handler and encodes what comes back. It alone turns a kiln.Kind into an HTTP status and an AWS error code.
//
// It speaks HTTP/1.1 without TLS. What a client can make it hold is bounded: connections, headers, bodies and the memory of all
// bodies together, and the time for each of them.
package frontend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"kiln"
	"kiln/api"
	"kiln/frontend/restjson"
	"kiln/frontend/sigv4"
	"kiln/internal/bounded"
)

// maxHeaderBytes bounds a request's line and headers. The longest that clients send names 50 tag keys in the query.
const maxHeaderBytes = 64 << 10

// Config says what a Server serves and how. Durations and bounds that are zero have the default named with them.
type Config struct {
	// Listener accepts the connections. Run closes it.
	Listener net.Listener
	// Handlers are the operations that are served; any other answers that it is not implemented.
	Handlers []api.Handler
	// Verifier authenticates every request. If it is nil, every request is made by Account, and the listener must be on
	// loopback.
	Verifier *sigv4.Verifier
	// Account is the caller when there is no Verifier.
	Account kiln.AccountID
	// Code and CodeURL serve the URLs of deployment packages.
	Code    Code
	CodeURL *CodeURL
	Log     *slog.Logger

	// HeaderTimeout bounds how long a request's header takes, from its first byte: 10 s.
	HeaderTimeout time.Duration
	// BodyTimeout bounds how long its body takes, and then how long the client takes to read the answer: 1 min.
	BodyTimeout time.Duration
	// IdleTimeout is how long a connection is kept between requests: 2 min.
	IdleTimeout time.Duration
	// DrainTimeout is how long requests in flight may take once Run's context has ended: 30 s.
	DrainTimeout time.Duration
	// Abandon is called when requests are still in flight after DrainTimeout, to end what they wait for. Nil means that nothing can.
	Abandon func()
	// MaxConnections bounds the open connections: 16,384. Further ones wait in the kernel to be accepted.
	MaxConnections int
	// Requests is how many requests a second an account may make other than invocations: 200. So many as it may in 10 s it may make at once.
	Requests int
	// MaxBodyMemory bounds the bytes of all request bodies held at once: 1 GiB. A request beyond it answers 503.
	MaxBodyMemory int64
}

// DefaultRequests is Config.Requests unless another number is given: more than AWS's, of a whole account, which deployment tools keep to.
const DefaultRequests = 200

// Validate returns every fault of c, joined.
func (c *Config) Validate() error {
	var errs []error
	missing := func(absent bool, name string) {
		if absent {
			errs = append(errs, fmt.Errorf("%s is required", name))
		}
	}
	missing(c.Listener == nil, "Listener")
	missing(c.Log == nil, "Log")
	missing(c.Code == nil, "Code")
	missing(c.CodeURL == nil, "CodeURL")
	if c.CodeURL != nil && len(c.CodeURL.Key) < minKey {
		errs = append(errs, fmt.Errorf("CodeURL.Key has %d bytes and needs %d", len(c.CodeURL.Key), minKey))
	}
	if c.Verifier == nil {
		missing(c.Account == "", "Account, without Verifier,")
		if c.Listener != nil && !isLoopback(c.Listener.Addr().String()) {
			errs = append(errs, fmt.Errorf("requests are not authenticated, and %s is not a loopback address", c.Listener.Addr()))
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.HeaderTimeout = orDefault(c.HeaderTimeout, 10*time.Second)
	c.BodyTimeout = orDefault(c.BodyTimeout, time.Minute)
	c.IdleTimeout = orDefault(c.IdleTimeout, 2*time.Minute)
	c.DrainTimeout = orDefault(c.DrainTimeout, 30*time.Second)
	c.MaxConnections = orDefault(c.MaxConnections, 16<<10)
	c.Requests = orDefault(c.Requests, DefaultRequests)
	c.MaxBodyMemory = orDefault(c.MaxBodyMemory, 1<<30)
	return c
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// isLoopback says whether addr, a host with or without a port, names this machine only.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Server answers the Lambda API, GetCallerIdentity of Security Token Service, GET /healthz and the URLs of deployment packages.
type Server struct {
	cfg      Config
	router   *restjson.Router
	codec    *restjson.Codec
	handlers map[*api.Operation]api.Handler
	origins  *http.CrossOriginProtection
	bodies   *semaphore.Weighted
	flight   *flight
	inner    *handover
	rates    *rates
	// sts verifies requests to Security Token Service, nil if nobody is authenticated.
	sts *sigv4.Verifier
}

// New returns a server, which serves nothing until Run. It returns what Validate finds, and an error for two handlers of one
// operation.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure frontend: %w", err)
	}
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:      cfg,
		router:   restjson.NewRouter(api.Operations()),
		codec:    restjson.NewCodec(api.Operations()),
		handlers: make(map[*api.Operation]api.Handler, len(cfg.Handlers)),
		origins:  http.NewCrossOriginProtection(),
		flight:   newFlight(),
		inner:    newHandover(),
		rates:    newRates(cfg.Requests),
		bodies:   semaphore.NewWeighted(cfg.MaxBodyMemory),
	}
	if cfg.Verifier != nil {
		s.sts = new(*cfg.Verifier)
		s.sts.Service = stsService
	}
	for _, h := range cfg.Handlers {
		if _, dup := s.handlers[h.Operation]; dup {
			return nil, fmt.Errorf("configure frontend: two handlers for %s", h.Operation.Name)
		}
		s.handlers[h.Operation] = h
	}
	return s, nil
}

// Run serves until ctx ends. Then it accepts no more connections, answers new requests that it is unavailable, and gives those
// in flight DrainTimeout; after that it cancels them and closes their connections. Nothing of it runs when it returns, and a
// server runs once.
func (s *Server) Run(ctx context.Context) error {
	// Requests in flight outlive ctx, until they are done or DrainTimeout is over.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	doors := []door{s.door(base, s.cfg.Listener), s.door(base, s.inner)}
	served := make(chan error, len(doors)) // one value from each, so that no goroutine waits
	for _, d := range doors {
		go func() { served <- d.srv.Serve(d.conns) }()
	}
	var err error
	left := len(doors)
	select {
	case failed := <-served:
		left--
		err = fmt.Errorf("serve %s: %w", s.cfg.Listener.Addr(), failed)
	case <-ctx.Done():
		err = s.drain(base, doors)
	}
	cancel()
	for _, d := range doors {
		err = errors.Join(err, d.conns.Close(), d.srv.Close())
	}
	for range left {
		<-served // it only says that the listener was closed
	}
	for _, d := range doors {
		d.conns.Wait()
	}
	return err
}

// door is a way in.
type door struct {
	srv   *http.Server
	conns *bounded.Listener
}

func (s *Server) door(base context.Context, l net.Listener) door {
	conns := bounded.New(l, s.cfg.MaxConnections)
	return door{s.httpServer(base, conns), conns}
}

// Take serves a connection that somebody else has accepted, as those of the listener. It does not wait. A server that does not serve, or
// not that many at a time, closes the connection.
func (s *Server) Take(conn net.Conn) { s.inner.give(conn) }

// abandonTime is how long requests may take to answer once what they waited for has been ended.
const abandonTime = 5 * time.Second

// drain returns when the requests in flight are done, or an error after DrainTimeout.
func (s *Server) drain(ctx context.Context, doors []door) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	s.flight.drain()
	var err error
	for _, d := range doors {
		d.srv.SetKeepAlivesEnabled(false)
		err = errors.Join(err, d.conns.Close())
	}
	// An http.Server that is told to shut down drops requests that it has not read. Until then they get an answer.
	select {
	case <-s.flight.empty:
	case <-ctx.Done():
		s.cfg.Log.Warn("requests were still in flight at the end of the drain", "timeout", s.cfg.DrainTimeout)
		if s.cfg.Abandon != nil {
			s.cfg.Abandon()
		}
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
		defer stop()
	}
	for _, d := range doors {
		err = errors.Join(err, d.srv.Shutdown(ctx))
	}
	if err != nil {
		return fmt.Errorf("drain %s: %w", s.cfg.Listener.Addr(), err)
	}
	return nil
}

func (s *Server) httpServer(base context.Context, conns *bounded.Listener) *http.Server {
	return &http.Server{
		Handler:           s,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnState:         conns.Track,
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		// OPTIONS * gets our 404, with a request ID.
		DisableGeneralOptionsHandler: true,
	}
}
