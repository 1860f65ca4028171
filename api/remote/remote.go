// Package remote has the operations of one process of a node served by another, over a unix socket.
//
// A connection carries one request and its answer, each a JSON value; inputs and outputs are the shapes of package api under their
// members' names. JSON, and not gob, because it keeps apart what is absent and what is empty.
package remote

import (
	"encoding/json"
	"errors"
	"time"

	"kiln"
	"kiln/api"
)

// maxSize bounds a request or an answer, in bytes: more than the frontend lets in, with what escaping may add.
const maxSize = 256 << 20

type request struct {
	Operation string
	Caller    api.Caller
	Input     json.RawMessage
}

// answer is an output or a fault.
type answer struct {
	Output json.RawMessage `json:",omitempty"`
	Fault  *fault          `json:",omitempty"`
}

// fault is a kiln.Error on its way, or another error as one that is Internal. Its cause becomes a text.
type fault struct {
	Kind            kiln.Kind
	Message, Reason string
	RetryAfter      time.Duration
	Untyped         bool
	Cause           string
}

func faultOf(err error) *fault {
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok {
		return &fault{Kind: kiln.Internal, Message: err.Error()}
	}
	f := &fault{Kind: e.Kind, Message: e.Message, Reason: e.Reason, RetryAfter: e.RetryAfter, Untyped: e.Untyped}
	if e.Cause != nil {
		f.Cause = e.Cause.Error()
	}
	return f
}

func (f *fault) err() error {
	e := &kiln.Error{Kind: f.Kind, Message: f.Message, Reason: f.Reason, RetryAfter: f.RetryAfter, Untyped: f.Untyped}
	if f.Cause != "" {
		e.Cause = errors.New(f.Cause)
	}
	return e
}
