// Package runtimeapi serves the Lambda Runtime API 2018-06-01 to the runtime process of one execution environment
// (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html).
//
// It runs inside the sandbox, where each system call and each wake-up of a thread is paid for more dearly than outside. So a
// connection is one goroutine that reads and writes by itself, an answer is one write, and the goroutine that serves "next"
// reads the invocation from the worker's socket itself: an invocation passes through no queue and no second goroutine.
// net/http would add a background reader to each connection and two wake-ups to each request.
//
// The clients are the tenant's own processes. What they send is bounded in size and count here; in time it is bounded by the
// timeout of the invocation, at which the worker ends the sandbox. A deadline on idle connections would do harm: the clock
// goes on while an environment is frozen, and a runtime would find its connection closed when it is thawed.
package runtimeapi

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"kiln/worker/wire"
)

// maxConnections bounds the connections served at one time; further ones wait to be accepted. A runtime uses one or two, and so does
// each of ten extensions.
const maxConnections = 48

// Listener gives the connections of the runtime process.
type Listener interface {
	Accept() (io.ReadWriteCloser, error)
}

// Server is the Runtime API of one runtime process.
type Server struct {
	// source gives invocations, sink takes answers. The state says whose turn it is: only the call of "next" that made it ready
	// reads, and only the call that ended INIT or an invocation writes.
	source io.Reader
	sink   io.Writer
	limit  int
	others Others
	// broken holds one error: the one after which no invocation passes any more.
	broken chan error

	mu    sync.Mutex
	state state // +checklocks:mu
	// current is the invocation given out last.
	current *invocation // +checklocks:mu
}

type invocation struct {
	header wire.Header
	event  []byte
}

// New returns a server that speaks to the worker over the socket invocations, as package wire says. An event and an answer
// have at most maxPayload bytes. others may be nil, and answers the requests that are not of the Runtime API.
func New(invocations io.ReadWriter, maxPayload int, others Others) *Server {
	return &Server{
		source: bufio.NewReaderSize(invocations, 16<<10), sink: invocations, limit: maxPayload, others: others,
		broken: make(chan error, 1),
	}
}

// NewWithout returns a server without the Runtime API, for a runtime that speaks to the worker itself: all requests are for others.
func NewWithout(others Others) *Server { return &Server{others: others, broken: make(chan error, 1)} }

// Broken gives one error when the socket to the worker fails or the worker breaks the protocol.
func (s *Server) Broken() <-chan error { return s.broken }

// Given is the request ID of the invocation that the runtime was given last, "" if none was.
func (s *Server) Given() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.id
}

// Serve serves connections until l fails, and returns that error when all of them have ended.
func (s *Server) Serve(l Listener) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept connection: %w", err)
		}
		connections.Go(func() {
			defer func() { <-slots }()
			s.serve(c)
		})
	}
}

// exchange is one request on its way to its answer.
type exchange struct {
	*request
	body  *body
	reply *bufio.Writer
}

// serve answers the requests of one connection, one after the other.
func (s *Server) serve(c io.ReadWriteCloser) {
	defer c.Close() // an error of closing has no one to go to: the client sees the end
	r, w := bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(c, 32<<10)
	for {
		q, err := readRequest(r)
		if bad, ok := errors.AsType[malformed](err); ok {
			writeRefusal(w, &refusal{400, "InvalidRequest", bad.Error()})
			_ = w.Flush() // the connection ends either way
			return
		}
		if err != nil {
			return
		}
		x := exchange{request: q, body: newBody(r, q), reply: w}
		if err := s.handle(x); err != nil {
			return
		}
		// What is left of a body stands before the next request.
		if whole := x.body.discard(); w.Flush() != nil || !whole || q.close {
			return
		}
	}
}

const apiRoot = "/2018-06-01/runtime/"

// handle answers x. After an error the connection is of no further use.
func (s *Server) handle(x exchange) error {
	path, ok := strings.CutPrefix(x.path, apiRoot)
	if !ok || s.sink == nil {
		return s.other(x)
	}
	switch path {
	case "invocation/next":
		return s.method(x, "GET", s.next)
	case "init/error":
		return s.method(x, "POST", s.initError)
	}
	rest, ok := strings.CutPrefix(path, "invocation/")
	id, action, _ := strings.Cut(rest, "/")
	switch {
	case ok && action == "response":
		return s.method(x, "POST", func(x exchange) error { return s.response(x, id) })
	case ok && action == "error":
		return s.method(x, "POST", func(x exchange) error { return s.invocationError(x, id) })
	}
	return notFound(x.reply)
}

func notFound(w *bufio.Writer) error {
	return writeStatus(w, 404, "text/plain; charset=utf-8", []byte("404 page not found\n"))
}

func (s *Server) method(x exchange, method string, f func(exchange) error) error {
	if x.method != method {
		return writeStatus(x.reply, 405, "text/plain; charset=utf-8", nil)
	}
	if err := x.proceed(); err != nil {
		return err
	}
	return f(x)
}

// proceed asks for the body, if the client waits for that.
func (x exchange) proceed() error {
	if !x.expect || x.length == 0 {
		return nil
	}
	x.reply.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
	return x.reply.Flush()
}

// next gives the runtime its next invocation, when there is one.
func (s *Server) next(x exchange) error {
	before, refused := s.advance(next, "")
	if refused != nil {
		return writeRefusal(x.reply, refused)
	}
	if before == started {
		if err := s.send(wire.Header{Type: wire.Ready}, nil); err != nil {
			return err
		}
	}
	if before == running {
		return writeInvocation(x.reply, s.lent())
	}
	inv, err := s.receive()
	if err != nil {
		return s.fail(err)
	}
	return writeInvocation(x.reply, inv)
}

// response takes the answer to an invocation.
func (s *Server) response(x exchange, id string) error {
	answer, err := x.body.read(s.limit)
	if errors.Is(err, errTooLarge) {
		return s.tooLarge(x, respond, id)
	}
	if err != nil {
		return err
	}
	if _, refused := s.advance(respond, id); refused != nil {
		return writeRefusal(x.reply, refused)
	}
	h := wire.Header{Type: wire.Response, RequestID: id}
	switch {
	case x.responseMode != "" && !strings.EqualFold(x.responseMode, "streaming"):
		h.Type, h.ErrorType, answer = wire.Error, "Runtime.InvalidResponseModeHeader", nil
		if err := s.send(h, answer); err != nil {
			return err
		}
		return writeRefusal(x.reply, &refusal{400, "InvalidFunctionResponseMode", "Invalid function response mode"})
	case x.body.errorType != "":
		h.Type, h.ErrorType, answer = wire.Error, knownType(x.body.errorType), decodeTrailer(x.body.errorBody)
	}
	return s.accept(x, h, answer)
}

// invocationError takes the word that an invocation failed.
func (s *Server) invocationError(x exchange, id string) error {
	object, err := x.body.read(s.limit)
	if errors.Is(err, errTooLarge) {
		return s.tooLarge(x, respondError, id)
	}
	if err != nil {
		return err
	}
	if _, refused := s.advance(respondError, id); refused != nil {
		return writeRefusal(x.reply, refused)
	}
	return s.accept(x, wire.Header{Type: wire.Error, RequestID: id, ErrorType: knownType(x.errorType)}, object)
}

// initError takes the word that INIT failed.
func (s *Server) initError(x exchange) error {
	object, err := x.body.read(s.limit)
	if errors.Is(err, errTooLarge) {
		return writeRefusal(x.reply, entityTooLarge(s.limit))
	}
	if err != nil {
		return err
	}
	if _, refused := s.advance(initError, ""); refused != nil {
		return writeRefusal(x.reply, refused)
	}
	return s.accept(x, wire.Header{Type: wire.InitError, ErrorType: knownType(x.errorType)}, object)
}

// tooLarge ends an invocation whose answer is longer than allowed.
func (s *Server) tooLarge(x exchange, c call, id string) error {
	if _, refused := s.advance(c, id); refused != nil {
		return writeRefusal(x.reply, refused)
	}
	const kind = "Function.ResponseSizeTooLarge"
	object := fmt.Appendf(nil, `{"errorMessage":"Response payload size exceeded maximum allowed payload size (%d bytes).","errorType":%q}`, s.limit, kind)
	if err := s.send(wire.Header{Type: wire.Error, RequestID: id, ErrorType: kind}, object); err != nil {
		return err
	}
	return writeRefusal(x.reply, entityTooLarge(s.limit))
}

func entityTooLarge(limit int) *refusal {
	return &refusal{413, "RequestEntityTooLarge", fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", limit)}
}

// accept hands an answer to the worker and thanks the runtime for it.
func (s *Server) accept(x exchange, h wire.Header, answer []byte) error {
	if err := s.send(h, answer); err != nil {
		return err
	}
	return writeStatus(x.reply, 202, "application/json", []byte(`{"status":"OK"}`+"\n"))
}

// advance moves the state machine and returns the phase before.
func (s *Server) advance(c call, id string) (phase, *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.state.phase
	after, refused := step(s.state, c, id)
	s.state = after
	return before, refused
}

// receive waits for the invocation that the state is ready for.
func (s *Server) receive() (*invocation, error) {
	h, event, err := wire.Read(s.source, s.limit)
	if err != nil {
		return nil, fmt.Errorf("receive invocation: %w", err)
	}
	if h.Type != wire.Invoke || h.RequestID == "" {
		return nil, fmt.Errorf("receive invocation: worker sent %q", h.Type)
	}
	inv := &invocation{h, event}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = inv
	if s.state, _ = step(s.state, deliver, h.RequestID); s.state.phase != running {
		panic("an invocation was received in phase " + s.state.phase.String())
	}
	return inv, nil
}

// lent is the invocation that the runtime has.
func (s *Server) lent() *invocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *Server) send(h wire.Header, body []byte) error {
	if err := wire.Write(s.sink, h, body); err != nil {
		return s.fail(fmt.Errorf("send %s: %w", h.Type, err))
	}
	return nil
}

// fail makes err known, unless another was first, and returns it.
func (s *Server) fail(err error) error {
	select {
	case s.broken <- err:
	default:
	}
	return err
}

// knownType is the error type to pass on of one that a runtime named, as AWS's emulator decides it: Runtime and Function
// errors may be named freely.
func knownType(t string) string {
	for _, prefix := range []string{"Runtime.", "Function."} {
		name, ok := strings.CutPrefix(t, prefix)
		if ok && len(t) <= maxErrorType && isErrorName(name) {
			return t
		}
	}
	if strings.HasPrefix(t, "Function.") {
		return "Function.Unknown"
	}
	return "Runtime.Unknown"
}

const maxErrorType = 256

func isErrorName(s string) bool {
	for _, c := range []byte(s) {
		if c|0x20-'a' >= 26 {
			return false
		}
	}
	return len(s) > 1 && s[0] <= 'Z'
}

// decodeTrailer decodes the error object that follows a response which failed halfway.
func decodeTrailer(encoded string) []byte {
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil // the error's type is known still
	}
	return b
}
