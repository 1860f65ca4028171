package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The ports on the loopback address where the Runtime API is served (AWS_LAMBDA_RUNTIME_API) and AWS's (AWS_ENDPOINT_URL).
const (
	apiPort = 9001
	awsPort = 9002
)

// listener accepts blocking connections.
type listener int

// listen opens a socket of an API. It brings the loopback interface up if it is down, as in a fresh network namespace.
func listen(port int) (listener, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket of port %d: %w", port, err)
	}
	if err := loopbackUp(fd); err != nil {
		return 0, fmt.Errorf("bring up loopback: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, fmt.Errorf("bind port %d: %w", port, err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return 0, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return listener(fd), nil
}

func loopbackUp(fd int) error {
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	if ifr.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// Accept implements runtimeapi.Listener.
func (l listener) Accept() (io.ReadWriteCloser, error) { return l.accept() }

func (l listener) accept() (*os.File, error) {
	for {
		fd, _, err := unix.Accept4(int(l), unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return nil, err
		}
		// An answer of two writes must not wait for the client's acknowledgement of the first.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, fmt.Errorf("set TCP_NODELAY: %w", err)
		}
		return os.NewFile(uintptr(fd), "connection"), nil
	}
}
