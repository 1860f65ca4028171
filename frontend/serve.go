package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"kiln"
	"kiln/api"
	"kiln/frontend/restjson"
	"kiln/frontend/sigv4"
)

// exchange is what frontend's own handlers know of a request and its answer beyond their operation's shapes.
type exchange struct {
	id kiln.RequestID
	// trace is the X-Amzn-Trace-Id of the request, as it came.
	trace string
	// header is sent with the answer if the operation succeeds.
	header http.Header
	// sent says that the answer is on its way already.
	sent bool
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// ServeHTTP answers one request. Every answer has an x-amzn-RequestId.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{id: kiln.RequestID(uuid.NewString()), trace: r.Header.Get("X-Amzn-Trace-Id"), header: http.Header{}}
	w.Header().Set("X-Amzn-Requestid", string(x.id))
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	a, err := s.answer(w, r)
	switch {
	case x.sent && err != nil:
		s.cfg.Log.Error("answer broke off", "request", x.id, "err", err)
		panic(http.ErrAbortHandler)
	case x.sent:
		return
	case err != nil:
		a = s.refuse(x.id, err)
	}
	s.write(w, a)
}

// answer returns the answer to r, which is not used if it has been sent already. A panic of a handler is an error like another.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) (a restjson.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if !s.flight.enter() {
		return restjson.Response{}, kiln.Errorf(kiln.Unavailable, "The service is shutting down.")
	}
	defer s.flight.leave()
	if err := s.limitBody(w, r); err != nil {
		return restjson.Response{}, fmt.Errorf("bound the time of the body: %w", err)
	}
	switch path := r.URL.EscapedPath(); {
	case path == "/healthz":
		return s.health(r)
	case strings.HasPrefix(path, codePrefix):
		return restjson.Response{}, s.serveCode(w, r)
	case isQuery(r):
		return s.serveSTS(w, r)
	default:
		return s.operate(w, r)
	}
}

func (s *Server) health(r *http.Request) (restjson.Response, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return restjson.Response{}, restjson.ErrMethodNotAllowed
	}
	return restjson.Response{Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, Body: []byte("ok\n")}, nil
}

// operate serves an operation of the Lambda API.
func (s *Server) operate(w http.ResponseWriter, r *http.Request) (restjson.Response, error) {
	match, err := s.router.Route(r)
	if err != nil {
		return restjson.Response{}, err
	}
	op := match.Operation
	identify, err := s.authenticate(r, s.cfg.Verifier)
	if err != nil {
		return restjson.Response{}, err
	}
	body, err := s.readBody(w, r, bodyLimit(op))
	defer body.release()
	if errors.Is(err, errTooLarge) {
		err = tooLarge(op)
	}
	if err != nil {
		return restjson.Response{}, err
	}
	caller, err := identify(body.bytes)
	if err != nil {
		return restjson.Response{}, err
	}
	h, ok := s.handlers[op]
	if !ok {
		return restjson.Response{}, kiln.Errorf(kiln.NotImplemented, "kiln does not implement the operation %s", op.Name)
	}
	if err := s.rates.admit(time.Now(), caller.Account, op); err != nil {
		return restjson.Response{}, err
	}
	in, err := s.codec.Decode(match, r.Header, body.bytes)
	if err != nil {
		return restjson.Response{}, err
	}
	out, err := h.Call(r.Context(), caller, in)
	if err != nil {
		return restjson.Response{}, err
	}
	a, err := s.codec.Encode(op, out)
	if err != nil {
		return a, err
	}
	maps.Copy(a.Header, exchangeOf(r.Context()).header)
	return a, nil
}

// authenticate refuses what can be refused without the body of r, so that nobody unknown has one read, and returns what says from the
// body who the caller is. Without a verifier everybody is.
func (s *Server) authenticate(r *http.Request, verifier *sigv4.Verifier) (identify func(body []byte) (api.Caller, error), err error) {
	if verifier == nil {
		caller := api.Caller{Account: s.cfg.Account}
		return func([]byte) (api.Caller, error) { return caller, nil }, s.checkOrigin(r)
	}
	signature, err := verifier.Read(r)
	if err != nil {
		return nil, err
	}
	return func(body []byte) (api.Caller, error) {
		id, err := signature.Verify(body)
		return api.Caller{Account: id.Account, AccessKeyID: id.AccessKeyID, Role: id.Role}, err
	}, nil
}

// checkOrigin refuses what a web page makes a browser on this machine send. Where nobody signs, it would be let in.
func (s *Server) checkOrigin(r *http.Request) error {
	if err := s.origins.Check(r); err != nil || !isLoopback(r.Host) {
		return &kiln.Error{Kind: kiln.AccessDenied, Message: "Requests from web pages and for other hosts are refused without authentication.", Cause: err}
	}
	return nil
}

// refuse turns an error into its answer, and logs what the answer does not say.
func (s *Server) refuse(id kiln.RequestID, err error) restjson.Response {
	if auth, ok := errors.AsType[*sigv4.Error](err); ok {
		return s.fault(fault{http.StatusForbidden, string(auth.Code)}, auth.Message, nil)
	}
	switch {
	case errors.Is(err, restjson.ErrNoOperation):
		return s.fault(fault{http.StatusNotFound, "UnknownOperationException"}, "", nil)
	case errors.Is(err, restjson.ErrMethodNotAllowed):
		return s.fault(fault{http.StatusMethodNotAllowed, "UnknownOperationException"}, "", nil)
	}
	known, ok := errors.AsType[*kiln.Error](err)
	if !ok || known.Kind == kiln.Internal {
		s.logCause(id, http.StatusInternalServerError, err)
		return s.fault(faultOf(kiln.Internal), "An internal error occurred. The log has its cause under the request's ID.", nil)
	}
	if known.Cause != nil {
		s.logCause(id, faultOf(known.Kind).status, err)
	}
	extra := map[string]string{}
	if known.Reason != "" {
		extra["Reason"] = known.Reason
	}
	if known.RetryAfter > 0 {
		extra["retryAfterSeconds"] = strconv.Itoa(int((known.RetryAfter + time.Second - 1) / time.Second))
	}
	if known.Untyped {
		extra["Type"] = ""
	}
	return s.fault(faultOf(known.Kind), known.Message, extra)
}

// logCause logs what a caller is not told. An operator acts on our faults, not on the callers', and not on a caller who left.
func (s *Server) logCause(id kiln.RequestID, status int, err error) {
	log := s.cfg.Log.Error
	if status < http.StatusInternalServerError || errors.Is(err, context.Canceled) {
		log = s.cfg.Log.Debug
	}
	log("request failed", "request", id, "err", err)
}

func (s *Server) fault(f fault, message string, extra map[string]string) restjson.Response {
	return s.codec.Error(f.code, f.status, message, extra)
}

// write sends a. A client that does not take it in time loses its connection.
func (s *Server) write(w http.ResponseWriter, a restjson.Response) {
	conn := http.NewResponseController(w)
	// The HTTP server first skips what was not read of the request's body, for at most BodyTimeout.
	_ = conn.SetWriteDeadline(time.Now().Add(2 * s.cfg.BodyTimeout)) // fails on a closed connection only, as Write then does
	maps.Copy(w.Header(), a.Header)
	if a.Status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)                 // there is nobody left to tell
	_ = conn.Flush()                       // as above
	_ = conn.SetWriteDeadline(time.Time{}) // as above
}
