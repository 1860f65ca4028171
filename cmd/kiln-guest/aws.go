package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kiln/worker/tunnel"
)

// serveAWS accepts the function's connections to AWS's API. One thread waits for the first; the others and the line itself cost nothing
// until it comes.
//
// +checklocks:g.mu
func (g *guest) serveAWS() error {
	if err := unix.SetNonblock(awsFD, false); err != nil {
		return fmt.Errorf("descriptor %d: %w", awsFD, err)
	}
	l, err := listen(awsPort)
	if err != nil {
		return err
	}
	go carryAll(l)
	g.aws = true
	return nil
}

// fullPause is how long nobody is accepted when the guest can open nothing more.
const fullPause = 10 * time.Millisecond

// carryAll carries connections for as long as the guest lives. A function that fills its own table of connections gets none.
func carryAll(l listener) {
	var t *tunnel.Tunnel
	for {
		f, err := l.accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
			time.Sleep(fullPause) // accept does not wait for it to pass
			continue
		}
		if err != nil {
			return // the socket is the guest's own: it can be nothing that passes
		}
		if t == nil {
			t = tunnel.New(os.NewFile(awsFD, "aws"))
			go t.Serve(nil) // when the line ends so does the guest
		}
		_ = t.Carry(connection{f}) // it is closed then, which the function sees
	}
}

// connection is one whose Close ends reads that wait.
type connection struct{ *os.File }

// Close implements io.Closer.
func (c connection) Close() error {
	_ = unix.Shutdown(int(c.Fd()), unix.SHUT_RDWR) // it fails if the other side was first
	return c.File.Close()
}
