package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kiln/internal/bounded"
)

// Bounds of the admin server. Nobody but a monitoring system and an operator calls it.
const (
	maxHeaderBytes = 64 << 10
	maxConnections = 64
	// maxScrapes bounds the scrapes that are answered at a time; a further one answers 503.
	maxScrapes    = 4
	headerTimeout = 10 * time.Second
	writeTimeout  = time.Minute
	idleTimeout   = 2 * time.Minute
	// shutdownTimeout is how long a scrape may still take when the server is to end.
	shutdownTimeout = 5 * time.Second
)

// Admin answers GET /metrics and GET /healthz on a listener of its own, without authentication.
type Admin struct {
	listener net.Listener
	handler  http.Handler
	log      *slog.Logger
}

// NewAdmin returns a server of m, which serves nothing until Run. Run closes the listener.
func NewAdmin(l net.Listener, m *Metrics, log *slog.Logger) *Admin {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // what can be read is worth more than nothing
		MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // there is nobody left to tell
	})
	return &Admin{listener: l, handler: mux, log: log}
}

// Run serves until ctx ends. Nothing of it runs when it returns.
func (a *Admin) Run(ctx context.Context) error {
	conns := bounded.New(a.listener, maxConnections)
	srv := &http.Server{
		Handler:           a.handler,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnState:         conns.Track,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		// OPTIONS * gets a 404 like any other path.
		DisableGeneralOptionsHandler: true,
	}
	served := make(chan error, 1) // one value, so that Serve's goroutine never waits
	go func() { served <- srv.Serve(conns) }()
	var err error
	select {
	case failed := <-served:
		err = fmt.Errorf("serve metrics on %s: %w", a.listener.Addr(), failed)
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		_ = srv.Shutdown(end) // Close ends what it could not wait for
		<-served              // it only says that the listener was closed
	}
	err = errors.Join(err, srv.Close())
	conns.Wait()
	return err
}
