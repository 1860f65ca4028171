package environment

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/worker/tunnel"
)

// echoAPI answers every connection with what it says.
type echoAPI struct{ t *testing.T }

// Take implements API.
func (e echoAPI) Take(conn net.Conn) {
	go func() {
		defer conn.Close()
		io.Copy(conn, conn) // the other side sees what is missing
	}()
}

func TestConnectionsToTheAPIAreCarried(t *testing.T) {
	said := make(chan string, 1)
	f := start(t, func(g *guest) {
		line := tunnel.New(g.api)
		go line.Serve(nil)
		ours, theirs := net.Pipe()
		if err := line.Carry(theirs); err != nil {
			t.Error(err)
		}
		ours.SetDeadline(time.Now().Add(10 * time.Second))
		go io.WriteString(ours, "hello")
		b := make([]byte, 5)
		if _, err := io.ReadFull(ours, b); err != nil {
			t.Error(err)
		}
		said <- string(b)
		g.serve()
	}, func(c *Config) { c.API = echoAPI{t} })
	if got := <-said; got != "hello" {
		t.Errorf("got %q", got)
	}
	if res, _ := f.invoke(t, `1`); string(res.Payload) != `1` {
		t.Errorf("answered %s", res.Payload)
	}
}

func TestAGuestThatMisusesTheAPILosesNothingElse(t *testing.T) {
	over := make(chan error, 1)
	f := start(t, func(g *guest) {
		g.api.SetDeadline(time.Now().Add(10 * time.Second))
		g.api.Write([]byte("no frame at all, and more of it"))
		_, err := g.api.Read(make([]byte, 1))
		over <- err
		g.serve()
	}, func(c *Config) { c.API = echoAPI{t} })
	if err := <-over; err == nil || errors.Is(err, net.ErrClosed) || isTimeout(err) {
		t.Errorf("the line goes on: %v", err)
	}
	if res, reusable := f.invoke(t, `1`); string(res.Payload) != `1` || !reusable {
		t.Errorf("answered %s", res.Payload)
	}
}

func TestAnEnvironmentTakesNoInvocationAfterItsTime(t *testing.T) {
	f := start(t, (*guest).serve, func(c *Config) { c.Until = time.Now().Add(time.Hour) })
	f.invoke(t, `1`)
	f = start(t, (*guest).serve, func(c *Config) { c.Until = time.Now() })
	_, reusable, err := f.Invoke(t.Context(), kiln.Invocation{Payload: []byte(`1`)})
	if !errors.Is(err, fleet.ErrGone) || reusable {
		t.Errorf("got %v, %v", reusable, err)
	}
}
