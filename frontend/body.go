package frontend

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/semaphore"

	"kiln"
	"kiln/api"
)

// AWS's bounds on a request's body, in bytes.
const (
	// maxZipRequest is 50 MiB in base64 and 256 KiB for the other members.
	maxZipRequest = (kiln.MaxZip*4+2)/3 + 256<<10
	// maxConfigurationRequest is named in AWS's documentation of environment variables that are too large.
	maxConfigurationRequest = 5120
	maxRequest              = kiln.MaxPayload
	// maxDrain is how much of a body that is too large is read and dropped, so that the client gets to reading the answer.
	maxDrain = 4 * maxZipRequest

	// smallBody is what a body may take without asking: MaxConnections bounds the sum.
	smallBody = 64 << 10
	minRead   = 512
)

func bodyLimit(op *api.Operation) int64 {
	switch op.Name {
	case api.CreateFunction.Name, api.UpdateFunctionCode.Name, api.PublishLayerVersion.Name:
		return maxZipRequest
	case api.UpdateFunctionConfiguration.Name:
		return maxConfigurationRequest
	default:
		return maxRequest
	}
}

// body is a request's body and the memory that it holds.
type body struct {
	bytes []byte
	held  int64
	pool  *semaphore.Weighted
}

func (b *body) release() { b.pool.Release(b.held) }

// limitBody bounds how long the body of r takes, whether somebody reads it or the HTTP server skips it before it answers.
func (s *Server) limitBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	return http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
}

// readBody returns the body of a request, which is errTooLarge if it has more than limit bytes. Release it, also if there is an error.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, limit int64) (*body, error) {
	b := &body{pool: s.bodies}
	if r.ContentLength == 0 {
		return b, nil
	}
	err := b.read(r, limit)
	if errors.Is(err, errTooLarge) {
		// A client that cannot send the rest would not read that it was too much.
		_, _ = io.CopyN(io.Discard, r.Body, maxDrain) // however it ends, the answer is the same
		return b, errTooLarge
	}
	if err != nil {
		return b, err
	}
	// A deadline that passes would cancel a request that takes longer than its body may.
	return b, http.NewResponseController(w).SetReadDeadline(time.Time{})
}

var errTooLarge = errors.New("body too large")

// read reads at most limit bytes of r's body. It takes memory from the pool as the bytes arrive, not as they are announced, so
// that a client must send much to hold much.
func (b *body) read(r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return errTooLarge
	}
	// The byte more than announced is where the end is seen.
	first := min(max(r.ContentLength+1, minRead), smallBody)
	b.bytes = make([]byte, 0, first)
	for {
		n, err := r.Body.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		switch {
		case int64(len(b.bytes)) > limit:
			return errTooLarge
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return &kiln.Error{Kind: kiln.InvalidRequestContent, Message: "The request body did not arrive in time.", Cause: err}
		case err != nil:
			return &kiln.Error{Kind: kiln.InvalidRequestContent, Message: "The request body could not be read.", Cause: err}
		}
		if err := b.grow(limit); err != nil {
			return err
		}
	}
}

// grow makes room for more, once there is none.
func (b *body) grow(limit int64) error {
	if len(b.bytes) < cap(b.bytes) {
		return nil
	}
	more := min(int64(cap(b.bytes)), limit+1-int64(cap(b.bytes)))
	if !b.pool.TryAcquire(more) {
		return kiln.Errorf(kiln.Unavailable, "Too many large requests at once; try again.")
	}
	b.held += more
	larger := make([]byte, len(b.bytes), int64(cap(b.bytes))+more)
	copy(larger, b.bytes)
	b.bytes = larger
	return nil
}

func tooLarge(op *api.Operation) error {
	name := op.Name
	if op == api.Invoke {
		name = "InvokeFunction" // as AWS calls it here
	}
	return kiln.Errorf(kiln.RequestEntityTooLarge, "Request must be smaller than %d bytes for the %s operation", bodyLimit(op), name)
}
