// Package wire is the framing of messages between a worker and what runs inside one of its sandboxes.
//
// A frame is an eight-byte prefix (two big-endian 32-bit lengths: of the header, of the body), the header, a JSON object that
// says what the frame is, and the body, opaque bytes. A sender writes a short frame with one write call, because inside a
// sandbox system calls and wake-ups are what a message costs.
//
// Stream sockets lead into a sandbox:
//
// Control (descriptor 3 of the guest) is for the life of the sandbox. The guest says Hello when it runs; the worker sends
// Start once; the guest answers Started when the runtime process exists, and Exited when it has ended. Before that the worker may
// send Prepare, for which the guest starts a process of a runtime that does not have its function yet, and answers Prepared.
//
// Control carries the dialogue about extensions too, if there are any. The guest says Register when the first internal one wants to
// register, which the worker answers with Registration. When the runtime is ready the worker sends Initialized, and for each invocation
// Event; the guest answers both with Settled when all extensions wait for their next event. Fault says that an extension has failed.
// After Subscribed the worker sends Telemetry. Shutdown, which is the last that it sends, is answered with Left.
//
// Invocations (descriptor 4 of the guest) carries Ready or InitError once, then for each Invoke exactly one Response or Error. For
// kiln's own bootstraps (Start.Direct) the guest hands this descriptor to the runtime process, as its descriptor 3, and has no
// part in an invocation; for any other runtime the guest itself speaks here and serves the Runtime API to the process. A process
// that was prepared says Waiting here before anything else; it gets its function with Begin, or is killed when Start is for another.
//
// API (descriptor 7 of the guest, if Start.API is set) carries the connections that the function opens to AWS's API, as package tunnel
// describes; the guest accepts them.
//
// Everything that comes out of a sandbox is hostile: Read bounds both lengths before it allocates.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Type says what a frame is.
type Type string

// The frames on the control socket.
const (
	Hello    Type = "hello"
	Prepare  Type = "prepare"
	Prepared Type = "prepared"
	Start    Type = "start"
	Started  Type = "started"
	Exited   Type = "exited"

	Register     Type = "register"
	Registration Type = "registration"
	Initialized  Type = "initialized"
	Event        Type = "event"
	Settled      Type = "settled"
	Fault        Type = "fault"
	Subscribed   Type = "subscribed"
	// Telemetry carries events of one Category in the body, each a JSON object and a newline.
	Telemetry Type = "telemetry"
	Shutdown  Type = "shutdown"
	Left      Type = "left"
)

// The frames on the invocation socket.
const (
	// Waiting says that a prepared process can be given its function.
	Waiting Type = "waiting"
	// Begin gives a prepared process its function.
	Begin Type = "begin"
	// Ready ends a successful INIT.
	Ready Type = "ready"
	// InitError ends a failed one. The body is the error object that the caller of the first invocation sees.
	InitError Type = "initError"
	Invoke    Type = "invoke"
	// Response carries a function's answer in the body.
	Response Type = "response"
	// Error carries a function's error object in the body.
	Error Type = "error"
)

// Header is the JSON header of a frame; each field says which types use it.
type Header struct {
	Type Type `json:"type"`

	// Prepare, Start: the runtime process and its environment. Begin: what takes the place of the environment that it has.
	Args []string `json:"args,omitempty"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	// Start: the program to start when that of Args is not there.
	Fallback string `json:"fallback,omitempty"`
	// Prepare, Start: UID and GID of the runtime process.
	UID uint32 `json:"uid,omitempty"`
	GID uint32 `json:"gid,omitempty"`
	// Prepare, Start: give the invocation socket to the runtime process.
	Direct bool `json:"direct,omitempty"`
	// Prepare, Start: accept connections to AWS's API.
	API bool `json:"api,omitempty"`
	// Start: what to mount before anything else.
	Binds []Bind `json:"binds,omitempty"`
	// Start: the prepared process becomes the runtime process. If it is false, a prepared process is killed.
	Adopt bool `json:"adopt,omitempty"`
	// Prepare, Start: bounds of the runtime process (RLIMIT_NPROC, RLIMIT_NOFILE).
	MaxProcesses uint64 `json:"maxProcesses,omitempty"`
	MaxFiles     uint64 `json:"maxFiles,omitempty"`
	// Start: the longest answer in bytes that the Runtime API takes from the function.
	MaxResponse int `json:"maxResponse,omitempty"`

	// Start: the directory of external extensions, which are to be started before the runtime process, "" if there is none. Started: the
	// same if some were.
	Extensions string `json:"extensions,omitempty"`
	// Start: the account of the function.
	Account string `json:"account,omitempty"`
	// Telemetry: "platform", "function" or "extension".
	Category string `json:"category,omitempty"`
	// Shutdown: "spindown", "timeout" or "failure".
	Reason string `json:"reason,omitempty"`

	// Exited: the status as a shell would show it: "exit status 1", "signal: killed".
	Status string `json:"status,omitempty"`
	// Prepared, Started: why the process could not be started ("fork/exec /var/task/bootstrap: permission denied"), or "".
	// Registration: why an extension must not register, or "". Fault: what happened.
	Failure string `json:"failure,omitempty"`

	// Invoke, Response, Error, Event, Settled ("" after INIT). Exited, unless Start.Direct: the invocation that the runtime was given last.
	RequestID string `json:"requestId,omitempty"`
	// Invoke, Event: when the function must have answered, in milliseconds since 1970. Shutdown: when all have to be gone.
	DeadlineMs int64 `json:"deadlineMs,omitempty"`
	// Invoke, Event: the ARN by which the function was called.
	FunctionARN   string `json:"functionArn,omitempty"`
	TraceID       string `json:"traceId,omitempty"`
	ClientContext string `json:"clientContext,omitempty"`
	Identity      string `json:"identity,omitempty"`

	// Error, InitError: the error's type, as in Lambda-Runtime-Function-Error-Type. Started, Exited, Fault: the type of the failure if an
	// extension is to blame, "" if the runtime is.
	ErrorType string `json:"errorType,omitempty"`
}

// Bind is a directory of the sandbox that is to appear at another place in it too.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// MaxHeader bounds a frame's header in bytes. The environment (4 KB) and the longest ARN and client context fit many times.
const MaxHeader = 64 << 10

// ErrTooLarge is wrapped by Read when a frame is sound but its body exceeds the reader's bound.
var ErrTooLarge = errors.New("body exceeds its bound")

// Append appends the frame of h and body to b.
func Append(b []byte, h Header, body []byte) ([]byte, error) {
	b, err := appendHead(b, h, len(body))
	if err != nil {
		return b, err
	}
	return append(b, body...), nil
}

func appendHead(b []byte, h Header, bodyLen int) ([]byte, error) {
	head, err := json.Marshal(h)
	if err != nil {
		return b, fmt.Errorf("encode frame header: %w", err)
	}
	if len(head) > MaxHeader {
		return b, fmt.Errorf("header of %d bytes, at most %d are allowed", len(head), MaxHeader)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	b = binary.BigEndian.AppendUint32(b, uint32(bodyLen))
	return append(b, head...), nil
}

// maxCopied is the longest body that Write copies to save a call: beyond it the copy costs more than the call.
const maxCopied = 64 << 10

// Write writes one frame, with one call of w.Write if the body is at most 64 KB long and with two if it is longer.
func Write(w io.Writer, h Header, body []byte) error {
	b, err := appendHead(make([]byte, 0, 8+512+min(len(body), maxCopied)), h, len(body))
	if err != nil {
		return err
	}
	if len(body) <= maxCopied {
		_, err = w.Write(append(b, body...))
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

// Read reads one frame whose body has at most maxBody bytes. It returns io.EOF only between frames, and io.ErrUnexpectedEOF
// within one. After any other error the stream is of no further use.
func Read(r io.Reader, maxBody int) (Header, []byte, error) {
	var h Header
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return h, nil, err
	}
	headLen, bodyLen := binary.BigEndian.Uint32(prefix[:4]), binary.BigEndian.Uint32(prefix[4:])
	if headLen > MaxHeader {
		return h, nil, fmt.Errorf("header of %d bytes, at most %d are allowed", headLen, MaxHeader)
	}
	if uint64(bodyLen) > uint64(maxBody) {
		return h, nil, fmt.Errorf("body of %d bytes: %w", bodyLen, ErrTooLarge)
	}
	b := make([]byte, headLen+bodyLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return h, nil, unexpected(err)
	}
	if err := json.Unmarshal(b[:headLen], &h); err != nil {
		return h, nil, fmt.Errorf("decode frame header: %w", err)
	}
	return h, b[headLen:], nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
