// Package local connects the processes of one node over unix sockets, and no process of another user.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// ErrStranger is wrapped by the errors about a socket whose other end is another user's.
var ErrStranger = errors.New("the other end of the socket belongs to another user")

// Listen listens on the socket at path, which only this user may open. A socket that is there is replaced, so the caller must hold
// what makes it the only process that listens there. The directory must be one in which nobody else may write. A socket whose path is longer
// than sockets may have stays when its listener is closed, until the next takes its place.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace socket: %w", err)
	}
	name, done, err := short(path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w", err)
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w", err)
	}
	if name != path {
		l.SetUnlinkOnClose(false) // the name may mean another socket by then
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close socket to others: %w", err), l.Close())
	}
	return l, nil
}

// Dial connects to the socket at path. It fails at once if nobody listens there, and with ErrStranger if who does is another user.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	name, done, err := short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", name)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UnixConn) // what the network "unix" gives
	if err := Check(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// maxPath is how long the name of a socket may be, in bytes: unix(7).
const maxPath = 107

// short returns a name by which the socket at path can be bound or connected to until done is called, whatever the length of path.
func short(path string) (name string, done func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { dir.Close() }, nil
}

// Check returns an error, which wraps ErrStranger, unless the other end of c was made by this process's user.
func Check(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at socket: %w", err)
	}
	var peer *syscall.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("ask who is at the other end of a socket: %w", err)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %d", ErrStranger, peer.Uid)
	}
	return nil
}
