package tunnel

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds what must happen in a test.
const patience = 10 * time.Second

// echo answers a connection with what it says.
func echo() (io.ReadWriteCloser, error) {
	a, b := net.Pipe()
	go func() {
		defer b.Close()
		io.Copy(b, b)
	}()
	return a, nil
}

// connect joins two tunnels until the test ends; the second accepts.
func connect(t *testing.T, accept func() (io.ReadWriteCloser, error)) (*Tunnel, net.Conn) {
	t.Helper()
	ours, theirs := pair(t)
	guest, host := New(ours), New(theirs)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := host.Serve(accept); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("worker's side: %v", err)
		}
	})
	wg.Go(func() { guest.Serve(nil) })
	t.Cleanup(func() {
		ours.Close()
		wg.Wait()
	})
	return guest, ours
}

func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// dial opens a stream.
func dial(t *testing.T, g *Tunnel) net.Conn {
	t.Helper()
	a, b := net.Pipe()
	if err := g.Carry(b); err != nil {
		t.Fatal(err)
	}
	a.SetDeadline(time.Now().Add(patience))
	return a
}

func TestConnectionsAreCarriedWhole(t *testing.T) {
	g, _ := connect(t, echo)
	var wg sync.WaitGroup
	for range MaxStreams {
		c := dial(t, g)
		wg.Go(func() {
			defer c.Close()
			said := make([]byte, 5*window+17)
			rand.Read(said)
			var writing sync.WaitGroup
			defer writing.Wait()
			writing.Go(func() { c.Write(said) })
			heard := make([]byte, len(said))
			if _, err := io.ReadFull(c, heard); err != nil || !bytes.Equal(said, heard) {
				t.Errorf("heard something else, %v", err)
			}
		})
	}
	wg.Wait()
}

func TestAStreamThatNobodyReadsHoldsUpNoOther(t *testing.T) {
	g, _ := connect(t, echo)
	stuck := dial(t, g)
	defer stuck.Close()
	stuck.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := stuck.Write(make([]byte, 10*window)); err == nil {
		t.Fatalf("%d bytes went where nobody reads", n)
	}
	c := dial(t, g)
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestWhatWasSentBeforeTheEndArrives(t *testing.T) {
	g, _ := connect(t, func() (io.ReadWriteCloser, error) {
		a, b := net.Pipe()
		go func() {
			io.ReadFull(b, make([]byte, 1))
			b.Write(make([]byte, 3*window))
			b.Close()
		}()
		return a, nil
	})
	c := dial(t, g)
	c.Write([]byte("x"))
	if b, err := io.ReadAll(c); err != nil || len(b) != 3*window {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestStreamsAreBoundedAndUsedAnew(t *testing.T) {
	g, _ := connect(t, echo)
	for range 3 {
		var conns []net.Conn
		for range MaxStreams {
			conns = append(conns, dial(t, g))
		}
		_, b := net.Pipe()
		if err := g.Carry(b); !errors.Is(err, ErrFull) {
			t.Errorf("one more: %v", err)
		}
		for _, c := range conns {
			c.Close()
		}
		g.carrying.Wait()
	}
}

func TestWhoBreaksTheRulesIsHungUpOn(t *testing.T) {
	frame := func(k kind, id uint16, n uint32) []byte {
		return []byte{byte(k), 0, byte(id >> 8), byte(id), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	var many []byte
	for id := range uint16(MaxStreams + 1) {
		many = append(many, frame(open, id, 0)...)
	}
	for name, said := range map[string][]byte{
		"a frame that does not exist":      join(frame(open, 1, 0), frame(9, 1, 0)),
		"data of no stream":                frame(data, 1, 5),
		"too much data in a frame":         join(frame(open, 1, 0), frame(data, 1, maxData+1)),
		"a negative length":                join(frame(open, 1, 0), frame(data, 1, 1<<31)),
		"no data in a frame":               join(frame(open, 1, 0), frame(data, 1, 0)),
		"room that there is not":           join(frame(open, 1, 0), frame(grant, 1, 1)),
		"a stream twice":                   join(frame(open, 1, 0), frame(open, 1, 0)),
		"two ends":                         join(frame(open, 1, 0), frame(end, 1, 0), frame(end, 1, 0)),
		"more streams than there may be":   many,
		"more data than there is room for": join(frame(open, 1, 0), bytes.Repeat(join(frame(data, 1, maxData), make([]byte, maxData)), window/maxData+2)),
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			var locals []net.Conn
			ended := make(chan error, 1)
			go func() {
				ended <- New(theirs).Serve(func() (io.ReadWriteCloser, error) {
					a, b := net.Pipe() // nobody reads b
					locals = append(locals, b)
					return a, nil
				})
			}()
			go io.Copy(io.Discard, ours)
			if _, err := ours.Write(said); err != nil {
				t.Log(err) // it may be hung up on by then
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("it was no error")
				}
			case <-time.After(patience):
				t.Fatal("nobody hung up")
			}
			for _, l := range locals {
				l.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadAll(l); err != nil {
					t.Errorf("a connection outlives the tunnel: %v", err)
				}
			}
		})
	}
}

// FuzzServe gives the worker's side whatever a sandbox may send. It must end with the line, and with everything that it was asked to open.
func FuzzServe(f *testing.F) {
	f.Add([]byte{1, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 1, 'x', 4, 0, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{3, 0, 0, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			New(theirs).Serve(echo)
		}()
		go io.Copy(io.Discard, ours)
		ours.Write(said)
		ours.Close()
		<-ended
	})
}
