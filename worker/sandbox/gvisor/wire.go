package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"kiln/worker/sandbox"
)

const (
	// maxMessage bounds a message between the engine and its launcher: an environment of 4 KB, mounts and arguments.
	maxMessage = 64 << 10
	// maxFiles bounds the files that are handed to one sandbox.
	maxFiles = 16
)

// kind is what a message says. The engine sends start, mount and stop, the launcher the others.
type kind string

const (
	// ready is the launcher's first message.
	ready kind = "ready"
	// start asks for a sandbox and carries its files; it is answered by started or ended.
	start kind = "start"
	// started says that the first process of the guest has been started, and which processes the sandbox cannot be without.
	started kind = "started"
	// stop ends a sandbox, also one that is being started. It is answered by ended if there is such a sandbox.
	stop kind = "stop"
	// crowds says that a sandbox holds most of a disk that is short, and asks the engine, who may be freezing it, to end it.
	crowds kind = "crowds"
	// cripples says that a sandbox has lost a process without which it is of no use, and asks the engine to end it, too.
	cripples kind = "cripples"
	// mount shows Source as Name in the slot of a sandbox. It is answered by mounted, with a reason if that was impossible.
	mount   kind = "mount"
	mounted kind = "mounted"
	// ended says that no process of the sandbox is left, with the reason; without an ID, that there is no sandbox left.
	ended kind = "ended"
)

// message is what the engine and its launcher send each other.
type message struct {
	Kind   kind
	ID     string
	Start  *order `json:",omitempty"`
	Pids   []int  `json:",omitempty"`
	Name   string `json:",omitempty"`
	Source string `json:",omitempty"`
	Reason string `json:",omitempty"`
}

// order is what the launcher must know to start a sandbox.
type order struct {
	Root      string
	Mounts    []sandbox.Mount
	Slot      string `json:",omitempty"`
	Args, Env []string
	Limits    sandbox.Limits
	// Descriptors are the guest's numbers of the files that come with the message, in their order.
	Descriptors []int
	// Network says that one more file comes after those, the sandbox's network namespace.
	Network bool `json:",omitempty"`
}

func newOrder(s sandbox.Spec) (*order, []*os.File) {
	o := &order{Root: s.Root, Mounts: s.Mounts, Slot: s.Slot, Args: s.Args, Env: s.Env, Limits: s.Limits}
	o.Descriptors = slices.Sorted(maps.Keys(s.Files))
	files := make([]*os.File, len(o.Descriptors))
	for i, d := range o.Descriptors {
		files[i] = s.Files[d]
	}
	if s.Network != nil {
		o.Network = true
		files = append(files, s.Network)
	}
	return o, files
}

// send sends one message with files, which stay the caller's.
func send(conn *net.UnixConn, m message, files ...*os.File) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	if len(data) > maxMessage {
		return fmt.Errorf("encode %s: %d bytes are more than %d", m.Kind, len(data), maxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(data, oob, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receive reads one message and its files, which become the caller's. At the end of the line its error is io.EOF.
func receive(conn *net.UnixConn) (m message, files []*os.File, err error) {
	data := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return m, nil, err
	}
	if files, err = filesOf(oob[:oobn]); err != nil {
		return m, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return m, nil, errors.Join(errors.New("message too long"), closeAll(files))
	}
	if err := json.Unmarshal(data[:n], &m); err != nil {
		return m, nil, errors.Join(fmt.Errorf("decode message: %w", err), closeAll(files))
	}
	return m, files, nil
}

func filesOf(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse passed files: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("parse passed files: %w", err), closeAll(files))
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func closeAll[C io.Closer](closers []C) error {
	var errs []error
	for _, c := range closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
