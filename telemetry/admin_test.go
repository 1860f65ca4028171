package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// serveAdmin runs an admin server until the test ends, and returns its URL.
func serveAdmin(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := NewAdmin(l, full(), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1) // one value, so that Run never waits
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func TestTheAdminServerAnswersTwoPathsAndNoOther(t *testing.T) {
	url := serveAdmin(t)
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/metrics", 200, "kiln_environments{state=\"busy\"} 3\n"},
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/healthz", 200, ""},
		{"POST", "/metrics", 405, ""},
		{"DELETE", "/healthz", 405, ""},
		{"GET", "/", 404, ""},
		{"GET", "/metrics/", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"GET", "/2015-03-31/functions", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != c.status || !strings.Contains(string(body), c.body) {
			t.Errorf("%s %s: %d %.200s %v", c.method, c.path, res.StatusCode, body, err)
		}
	}
}

func TestTheAdminServersHeadersAreBounded(t *testing.T) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(serveAdmin(t), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeaderBytes)) // it may be cut off
	answer, _ := io.ReadAll(io.LimitReader(conn, 64))                                                             // as may be the answer
	if !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
		t.Errorf("got %q", answer)
	}
}

func TestTheAdminServerReportsAListenerThatFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := NewAdmin(l, NewMetrics(), slog.New(slog.DiscardHandler)).Run(t.Context()); err == nil {
		t.Error("it ended without an error")
	}
}
