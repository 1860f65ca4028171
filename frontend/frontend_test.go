package frontend

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"

	"kiln"
	"kiln/api"
	"kiln/blob"
	"kiln/frontend/sigv4"
)

const (
	account = kiln.AccountID("123456789012")
	region  = kiln.Region("us-east-1")
	keyID   = "AKIDEXAMPLE"
	secret  = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

// lockedBuffer is what a server logs, readable while it runs.
type lockedBuffer struct {
	mu sync.Mutex
	// +checklocks:mu
	b bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a server on loopback.
type running struct {
	url    string
	log    *lockedBuffer
	stop   context.CancelFunc
	result chan error // gets what Run returned
}

type noCode struct{}

func (noCode) Open(context.Context, kiln.AccountID, kiln.Digest) (blob.Reader, error) {
	return nil, blob.ErrNotFound
}

// start runs a server that checks signatures, changed by the given functions. It ends with the test.
func start(t testing.TB, changes ...func(*Config)) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{url: "http://" + l.Addr().String(), log: &lockedBuffer{}, result: make(chan error, 1)}
	cfg := Config{
		Listener: l,
		Verifier: &sigv4.Verifier{Region: region, Service: "lambda", Secrets: func(_ context.Context, id string) (sigv4.Credential, bool) {
			return sigv4.Credential{Account: account, Secret: secret}, id == keyID
		}},
		Code:    noCode{},
		CodeURL: &CodeURL{Endpoint: r.url, Key: bytes.Repeat([]byte{7}, minKey)},
		Log:     slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, change := range changes {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.result <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

func open(c *Config) { c.Verifier, c.Account = nil, account }

func serving(h ...api.Handler) func(*Config) { return func(c *Config) { c.Handlers = h } }

// client is the SDK's, which does not try again.
func (r *running) client() *lambda.Client {
	return lambda.New(lambda.Options{
		Region: string(region), BaseEndpoint: &r.url, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(keyID, secret, ""),
	})
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends a request as it is.
func (r *running) send(t testing.TB, method, path, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	return do(t, req)
}

func do(t testing.TB, req *http.Request) reply {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// isFault fails unless r is an error of that code and status with a request ID.
func (r reply) isFault(t *testing.T, status int, code string) {
	t.Helper()
	if r.status != status || r.header.Get("X-Amzn-Errortype") != code {
		t.Errorf("got %d %s %s, want %d %s", r.status, r.header.Get("X-Amzn-Errortype"), r.body, status, code)
	}
	if !uuidPattern.MatchString(r.header.Get("X-Amzn-Requestid")) {
		t.Errorf("request ID is %q", r.header.Get("X-Amzn-Requestid"))
	}
	if !json.Valid([]byte(r.body)) || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("body is %s %q", r.header.Get("Content-Type"), r.body)
	}
}

// settings serves GetAccountSettings with fn.
func settings(fn func(context.Context) error) api.Handler {
	return api.Handle(api.GetAccountSettings, func(ctx context.Context, _ api.Caller, _ *api.GetAccountSettingsRequest) (*api.GetAccountSettingsResponse, error) {
		return &api.GetAccountSettingsResponse{}, fn(ctx)
	})
}

const settingsPath = "/2016-08-19/account-settings"

var kinds = []struct {
	kind   kiln.Kind
	status int
	code   string
	body   string
}{
	{kiln.Internal, 500, "ServiceException", `"Type":"Server","Message":"An internal error occurred.`},
	{kiln.Validation, 400, "ValidationException", `{"message":"why"}`},
	{kiln.Serialization, 400, "SerializationException", `{"Message":"why"}`},
	{kiln.InvalidParameterValue, 400, "InvalidParameterValueException", `{"Type":"User","message":"why"}`},
	{kiln.InvalidRequestContent, 400, "InvalidRequestContentException", `{"Type":"User","message":"why"}`},
	{kiln.ResourceNotFound, 404, "ResourceNotFoundException", `{"Type":"User","Message":"why"}`},
	{kiln.ProvisionedNotFound, 404, "ProvisionedConcurrencyConfigNotFoundException", `{"Type":"User","message":"why"}`},
	{kiln.ResourceConflict, 409, "ResourceConflictException", `{"Type":"User","message":"why"}`},
	{kiln.PreconditionFailed, 412, "PreconditionFailedException", `{"Type":"User","message":"why"}`},
	{kiln.RequestTooLarge, 413, "RequestTooLargeException", `{"Type":"User","message":"why"}`},
	{kiln.RequestEntityTooLarge, 413, "RequestEntityTooLargeException", `{"message":"why"}`},
	{kiln.UnsupportedMediaType, 415, "UnsupportedMediaTypeException", `{"Type":"User","message":"why"}`},
	{kiln.TooManyRequests, 429, "TooManyRequestsException", `{"Type":"User","Reason":"because","message":"why"}`},
	{kiln.CodeStorageExceeded, 400, "CodeStorageExceededException", `{"Type":"User","message":"why"}`},
	{kiln.PolicyLengthExceeded, 400, "PolicyLengthExceededException", `{"Type":"User","message":"why"}`},
	{kiln.AccessDenied, 403, "AccessDeniedException", `{"message":"why"}`},
	{kiln.RecursiveInvocation, 400, "RecursiveInvocationException", `{"Type":"User","Message":"why"}`},
	{kiln.CodeVerificationFailed, 400, "CodeVerificationFailedException", `{"Type":"User","Message":"why"}`},
	{kiln.CodeSigningConfigNotFound, 404, "CodeSigningConfigNotFoundException", `{"Type":"User","Message":"why"}`},
	{kiln.InvalidRuntime, 502, "InvalidRuntimeException", `{"Type":"Server","Message":"why"}`},
	{kiln.InvalidZipFile, 502, "InvalidZipFileException", `{"Type":"Server","Message":"why"}`},
	{kiln.NotImplemented, 501, "ServiceException", `{"Type":"Server","Message":"why"}`},
	{kiln.Unavailable, 503, "ServiceUnavailableException", `{"message":"why"}`},
}

func TestEveryKindHasItsAnswer(t *testing.T) {
	var give error
	s := start(t, open, serving(settings(func(context.Context) error { return give })))
	for i, k := range kinds {
		if int(k.kind) != i {
			t.Fatalf("kind %d is missing", i)
		}
		t.Run(k.code, func(t *testing.T) {
			give = &kiln.Error{Kind: k.kind, Message: "why", Reason: "because", RetryAfter: 1500 * time.Millisecond, Cause: errors.New("the secret")}
			got := s.send(t, "GET", settingsPath, "")
			got.isFault(t, k.status, k.code)
			if !strings.Contains(got.body, k.body) || strings.Contains(got.body, "secret") {
				t.Errorf("body is %s, want %s", got.body, k.body)
			}
			if retry := got.header.Get("Retry-After"); (retry == "2") != (k.kind == kiln.TooManyRequests) {
				t.Errorf("Retry-After is %q", retry)
			}
			level := map[bool]string{true: "ERROR", false: "DEBUG"}[k.status >= 500]
			line := regexp.MustCompile(`level=` + level + ` .*request=` + got.header.Get("X-Amzn-Requestid") + ` err="why: the secret"`)
			if !line.MatchString(s.log.String()) {
				t.Errorf("the cause is not logged as %s", level)
			}
		})
	}
	if int(kiln.Unavailable)+1 != len(kinds) {
		t.Error("a kind is missing")
	}
}

func TestStatusesAreThoseOfTheModel(t *testing.T) {
	model := map[string]int{}
	for _, e := range api.Exceptions() {
		model[e.Code] = e.Status
	}
	for _, k := range kinds {
		f := faultOf(k.kind)
		// A NotImplemented is told apart by its status; AWS has no exception for it.
		if want, ok := model[f.code]; ok && f.status != want && k.kind != kiln.NotImplemented {
			t.Errorf("%s is sent with %d, AWS sends it with %d", f.code, f.status, want)
		}
	}
}

func TestUnknownErrorsAreLoggedAndNotSent(t *testing.T) {
	s := start(t, open, serving(settings(func(context.Context) error { return errors.New("the secret") })))
	got := s.send(t, "GET", settingsPath, "")
	got.isFault(t, 500, "ServiceException")
	if strings.Contains(got.body, "secret") || strings.Count(s.log.String(), "the secret") != 1 {
		t.Errorf("sent %s, logged %s", got.body, s.log)
	}
}

func TestAPanicAnswers500AndTheServerGoesOn(t *testing.T) {
	give := "the secret"
	s := start(t, open, serving(settings(func(context.Context) error {
		if give != "" {
			panic(give)
		}
		return nil
	})))
	got := s.send(t, "GET", settingsPath, "")
	got.isFault(t, 500, "ServiceException")
	if log := s.log.String(); strings.Contains(got.body, "secret") || !strings.Contains(log, "the secret") || !strings.Contains(log, "frontend_test.go") {
		t.Errorf("sent %s, logged %s", got.body, log)
	}
	give = ""
	if got := s.send(t, "GET", settingsPath, ""); got.status != 200 {
		t.Errorf("then got %d", got.status)
	}
}

// address returns a path that leads to op.
func address(op *api.Operation) string {
	path := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(op.Path, "1")
	if op.Query != "" {
		path += "?" + op.Query
	}
	return path
}

func TestNoRouteIsServedWithoutAValidSignature(t *testing.T) {
	s := start(t)
	signWith := func(id, key string, at time.Time) func(*http.Request) {
		return func(r *http.Request) {
			creds := aws.Credentials{AccessKeyID: id, SecretAccessKey: key}
			if err := v4.NewSigner().SignHTTP(t.Context(), creds, r, emptyHash, "lambda", string(region), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	attempts := []struct {
		name, code string
		sign       func(*http.Request)
	}{
		{"none", "MissingAuthenticationTokenException", func(*http.Request) {}},
		{"garbled", "IncompleteSignatureException", func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }},
		{"unknown key", "UnrecognizedClientException", signWith("AKIDOTHER", secret, time.Now())},
		{"wrong secret", "InvalidSignatureException", signWith(keyID, "x", time.Now())},
		{"expired", "InvalidSignatureException", signWith(keyID, secret, time.Now().Add(-time.Hour))},
	}
	if n := len(api.Operations()); n != 88 {
		t.Errorf("walking %d operations", n)
	}
	for _, op := range api.Operations() {
		for _, a := range attempts {
			t.Run(op.Name+"/"+a.name, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), op.Method, s.url+address(op), nil)
				if err != nil {
					t.Fatal(err)
				}
				a.sign(req)
				do(t, req).isFault(t, 403, a.code)
			})
		}
		t.Run(op.Name+"/signed", func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), op.Method, s.url+address(op), nil)
			if err != nil {
				t.Fatal(err)
			}
			signWith(keyID, secret, time.Now())(req)
			got := do(t, req)
			if got.isFault(t, 501, "ServiceException"); !strings.Contains(got.body, "the operation "+op.Name+`"`) {
				t.Errorf("body is %s", got.body)
			}
		})
	}
}

const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestAddressesOutsideTheAPI(t *testing.T) {
	s := start(t)
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404}, {"GET", "/2015-03-31/nothing", 404}, {"POST", "/healthz/x", 404}, {"GET", "/healthz/", 404},
		{"PATCH", settingsPath, 405}, {"HEAD", settingsPath, 405}, {"OPTIONS", settingsPath, 405}, {"POST", "/healthz", 405},
		{"GET", "/debug/pprof/", 404}, {"GET", "/metrics", 404}, {"CONNECT", "/x", 404},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			got := s.send(t, tt.method, tt.path, "")
			if got.status != tt.status || got.header.Get("X-Amzn-Errortype") != "UnknownOperationException" {
				t.Errorf("got %d %v", got.status, got.header)
			}
			if !uuidPattern.MatchString(got.header.Get("X-Amzn-Requestid")) {
				t.Errorf("no request ID in %v", got.header)
			}
		})
	}
}

func TestHealthNeedsNoSignature(t *testing.T) {
	s := start(t)
	for _, method := range []string{"GET", "HEAD"} {
		if got := s.send(t, method, "/healthz", ""); got.status != 200 || method == "GET" && got.body != "ok\n" {
			t.Errorf("%s: got %d %q", method, got.status, got.body)
		}
	}
}

func TestTheSDKReadsErrorsAsItsOwnTypes(t *testing.T) {
	s := start(t, serving(settings(func(context.Context) error {
		return &kiln.Error{Kind: kiln.TooManyRequests, Message: "Rate Exceeded.", Reason: "ReservedFunctionConcurrentInvocationLimitExceeded"}
	})))
	_, err := s.client().GetAccountSettings(t.Context(), &lambda.GetAccountSettingsInput{})
	e, ok := errors.AsType[*types.TooManyRequestsException](err)
	if !ok || e.ErrorMessage() != "Rate Exceeded." || e.Reason != types.ThrottleReasonReservedFunctionConcurrentInvocationLimitExceeded {
		t.Errorf("got %v", err)
	}
	_, err = s.client().ListLayers(t.Context(), &lambda.ListLayersInput{})
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != "ServiceException" || !strings.Contains(e.ErrorMessage(), "ListLayers") {
		t.Errorf("got %v", err)
	}
}

func TestMembersThatAreNotEnforcedAreRefused(t *testing.T) {
	list := api.Handle(api.ListFunctions, func(context.Context, api.Caller, *api.ListFunctionsRequest) (*api.ListFunctionsResponse, error) {
		return &api.ListFunctionsResponse{}, nil
	}, api.Enforced{Path: "Marker"})
	s := start(t, open, serving(list))
	s.send(t, "GET", "/2015-03-31/functions/?MaxItems=5", "").isFault(t, 400, "InvalidParameterValueException")
	if got := s.send(t, "GET", "/2015-03-31/functions/?Marker=a", ""); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestWebPagesAreRefusedWithoutAuthentication(t *testing.T) {
	s := start(t, open, serving(settings(func(context.Context) error { return nil })))
	for _, tt := range []struct {
		name   string
		header []string
		path   string
		method string
		status int
	}{
		{"a client", nil, settingsPath, "GET", 200},
		{"localhost", []string{"Host", "localhost:1"}, settingsPath, "GET", 200},
		{"a name made to point here", []string{"Host", "evil.example"}, settingsPath, "GET", 403},
		{"another site's form", []string{"Origin", "http://evil.example"}, "/2015-03-31/functions", "POST", 403},
		{"another site's script", []string{"Sec-Fetch-Site", "cross-site"}, "/2015-03-31/functions", "POST", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.send(t, tt.method, tt.path, "", tt.header...); got.status != tt.status {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	err := (&Config{}).Validate()
	for _, name := range []string{"Listener", "Log", "Code", "CodeURL", "Account"} {
		if !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("%s is not missed: %v", name, err)
		}
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open := Config{Listener: l, Account: account, Code: noCode{}, CodeURL: &CodeURL{Key: make([]byte, minKey)}, Log: slog.Default()}
	if err := open.Validate(); err == nil || !strings.Contains(err.Error(), "not a loopback address") {
		t.Errorf("without authentication on all addresses: %v", err)
	}
	open.CodeURL.Key = nil
	if err := open.Validate(); err == nil || !strings.Contains(err.Error(), "CodeURL.Key") {
		t.Errorf("without a key: %v", err)
	}
	twice := settings(nil)
	s, err := New(Config{Listener: l, Verifier: &sigv4.Verifier{}, Code: noCode{}, CodeURL: &CodeURL{Key: make([]byte, minKey)}, Log: slog.Default(),
		Handlers: []api.Handler{twice, twice}})
	if s != nil || err == nil || !strings.Contains(err.Error(), "two handlers for GetAccountSettings") {
		t.Errorf("with two handlers: %v", err)
	}
}

// raw is a connection on which a test writes as it likes.
func (r *running) raw(t *testing.T, text string) *bufio.ReadWriter {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
}

func TestSlowHeadersEndTheConnection(t *testing.T) {
	s := start(t, func(c *Config) { c.HeaderTimeout = 50 * time.Millisecond })
	conn := s.raw(t, "GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ")
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	s := start(t, func(c *Config) { c.IdleTimeout = 50 * time.Millisecond })
	conn := s.raw(t, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
	if rest, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(rest), "ok\n") {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	s := start(t)
	if got := s.send(t, "GET", "/healthz", "", "X-Long", strings.Repeat("a", maxHeaderBytes+8<<10)); got.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", got.status)
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxConnections = 1 })
	held := s.raw(t, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
	if resp, err := http.ReadResponse(held.Reader, nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	waiting := s.raw(t, "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	answered := make(chan error, 1)
	go func() {
		_, err := http.ReadResponse(waiting.Reader, nil)
		answered <- err
	}()
	if _, err := held.WriteString("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-answered:
		t.Fatal("answered beyond the limit")
	default:
	}
	if err := held.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

// announced is a listener that tells of every connection that it accepted.
type announced struct {
	net.Listener
	accepted chan struct{}
}

func (a announced) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err == nil {
		a.accepted <- struct{}{}
	}
	return c, err
}

func TestDrainLetsRequestsFinish(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	accepted := make(chan struct{}, 1000) // more than the test makes
	announce := func(c *Config) { c.Listener = announced{c.Listener, accepted} }
	s := start(t, open, announce, serving(settings(func(context.Context) error {
		close(entered)
		<-leave
		return nil
	})))
	conn := s.raw(t, "GET "+settingsPath+" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	<-entered
	// This one is open before the end begins, and asks after it.
	late := s.raw(t, "GET "+settingsPath+" HTTP/1.1\r\n")
	<-accepted
	<-accepted
	s.stop()
	for {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			break // the listener is closed: draining has begun
		}
		c.Close()
	}
	if _, err := late.WriteString("Host: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := late.Flush(); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(late.Reader, nil); err != nil || resp.StatusCode != 503 || resp.Header.Get("X-Amzn-Errortype") != "ServiceUnavailableException" {
		t.Errorf("while draining: %v, %v", resp, err)
	}
	close(leave)
	if resp, err := http.ReadResponse(conn.Reader, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the request in flight: %v, %v", resp, err)
	}
	if err := <-s.result; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestDrainCancelsWhatDoesNotFinish(t *testing.T) {
	entered, left := make(chan struct{}), make(chan struct{})
	s := start(t, open, func(c *Config) { c.DrainTimeout = 20 * time.Millisecond }, serving(settings(func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		close(left)
		return ctx.Err()
	})))
	s.raw(t, "GET "+settingsPath+" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	<-entered
	s.stop()
	if err := <-s.result; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run returned %v", err)
	}
	select {
	case <-left:
	default:
		t.Error("Run returned before its last request")
	}
}

func TestRunReportsAListenerThatFails(t *testing.T) {
	var l net.Listener
	s := start(t, func(c *Config) { l = c.Listener })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-s.result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run returned %v", err)
	}
}
