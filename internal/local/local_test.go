package local_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kiln/internal/local"
)

// socket returns a path that is short enough for a socket, in a directory in which everybody may write.
func socket(t *testing.T) string {
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "socket")
}

func TestASocketMayHaveALongPath(t *testing.T) {
	path := filepath.Join(filepath.Dir(socket(t)), strings.Repeat("long", 50), "socket")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := local.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := local.Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		l.Close()
		if _, err := local.Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after its end: %v", err)
		}
	}
	if _, err := local.Dial(t.Context(), filepath.Join(filepath.Dir(path), "none", "socket")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket in no directory: %v", err)
	}
}

func TestASocketIsItsUsersAlone(t *testing.T) {
	path := socket(t)
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Mode().Perm(); got != 0o600 {
		t.Errorf("the socket has mode %v", got)
	}
	conn, err := local.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if err := local.Check(accepted); err != nil {
		t.Error(err)
	}
}

func TestTheSocketOfAKilledProcessIsReplaced(t *testing.T) {
	path := socket(t)
	left, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial where nobody listens: %v", err)
	}
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := local.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestDialOfNoSocketFails(t *testing.T) {
	if _, err := local.Dial(t.Context(), socket(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// nobody is a user that is not the test's.
const nobody = 65534

// asNobody runs f on a thread that has another effective user, and ends the thread.
func asNobody(t *testing.T, f func()) {
	var running sync.WaitGroup
	running.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		const keep = ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, nobody, keep); errno != 0 {
			t.Error(errno)
			return
		}
		f()
	})
	running.Wait()
}

func TestAStrangerIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	t.Run("who listens", func(t *testing.T) {
		path := socket(t)
		var l net.Listener
		asNobody(t, func() {
			var err error
			if l, err = local.Listen(path); err != nil {
				t.Error(err)
			}
		})
		if t.Failed() {
			return
		}
		defer l.Close()
		if conn, err := local.Dial(t.Context(), path); !errors.Is(err, local.ErrStranger) {
			t.Errorf("got %v, %v", conn, err)
		}
	})
	t.Run("who dials", func(t *testing.T) {
		path := socket(t)
		l, err := local.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		asNobody(t, func() {
			if _, err := net.Dial("unix", path); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("another user's dial: %v", err)
			}
		})
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		asNobody(t, func() {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := local.Check(conn); !errors.Is(err, local.ErrStranger) {
			t.Errorf("got %v", err)
		}
	})
}
