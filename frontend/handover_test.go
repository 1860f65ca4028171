package frontend

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"kiln/frontend/sigv4"
)

// ask sends a request over a connection and returns the answer's status.
func ask(t *testing.T, c net.Conn) int {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:9002\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

func TestConnectionsThatWereHandedOverAreServedUntilTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Listener: l, Verifier: &sigv4.Verifier{}, Code: noCode{}, CodeURL: &CodeURL{Key: make([]byte, minKey)}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	ours, theirs := net.Pipe()
	s.Take(theirs)
	for range 2 {
		if got := ask(t, ours); got != http.StatusOK {
			t.Errorf("answered %d", got)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a connection outlives its server: %v", err)
	}
	ours, theirs = net.Pipe()
	s.Take(theirs)
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a server that has ended keeps a connection: %v", err)
	}
}

func TestNoMoreConnectionsWaitThanMay(t *testing.T) {
	h := newHandover()
	var ours []net.Conn
	for range maxWaiting + 1 {
		a, b := net.Pipe()
		h.give(b)
		ours = append(ours, a)
	}
	last := ours[maxWaiting]
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more waits: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range ours {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a connection that waits outlives the server: %v", err)
		}
	}
}
