// Package extensionapi serves the Lambda Extensions API 2020-01-01 and the Telemetry API 2022-07-01 to the extensions of one execution
// environment (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html).
//
// It runs inside the sandbox, below the HTTP server of package runtimeapi: they share a port. What becomes of the environment is the
// worker's to decide: here it is only told what the worker has to know. The states and the words of errors are those of AWS's runtime
// interface emulator.
//
// The clients are the tenant's own processes. What they send is bounded in size by the server, and in count by the ten extensions that
// there may be; what is kept for them is bounded here.
package extensionapi

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"kiln/worker/runtimeapi"
	"kiln/worker/wire"
)

// Config says whose extensions an API serves, and to whom it speaks.
type Config struct {
	// The function's account, name, version and handler.
	Account, Function, Version, Handler string
	// Ask asks the worker whether a first internal extension may register still, and waits for its answer.
	Ask func() bool
	// Say tells the worker something: Settled or Subscribed.
	Say func(wire.Header)
	// Deliver posts telemetry to a port of the sandbox and returns when it has been taken.
	Deliver func(port int, path string, body []byte) error
}

// API is the extensions of one environment. It is safe for concurrent use.
type API struct {
	cfg Config
	// complete is closed when every external extension has registered.
	complete chan struct{}
	relay    relay

	// asking is held while the worker is asked.
	asking sync.Mutex
	// known is set when the worker knows of extensions.
	known bool // +checklocks:asking

	mu       sync.Mutex
	roster   roster            // +checklocks:mu
	request  string            // +checklocks:mu the invocation that the extensions have, "" in INIT
	inboxes  map[string]*inbox // +checklocks:mu by identifier
	finished bool              // +checklocks:mu complete is closed
}

// inbox takes the events of one extension: at most an invocation and the end.
type inbox struct{ events chan []byte }

// New returns an API without extensions. Close ends it.
func New(cfg Config) *API {
	a := &API{cfg: cfg, complete: make(chan struct{}), inboxes: make(map[string]*inbox)}
	a.relay.init(cfg)
	return a
}

// Close ends the delivery of telemetry, and waits for what is on its way.
func (a *API) Close() { a.relay.close() }

// Launch says that an external extension is about to be started, which the worker knows. It returns an error if there are too many.
func (a *API) Launch(name string) error {
	a.asking.Lock()
	a.known = true
	a.asking.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.roster.launch(name, newID())
	a.inboxes[e.id] = newInbox()
	if len(a.roster.extensions) > maxExtensions {
		e.phase, e.errorType = launchFailed, "TooManyExtensions"
		return errTooMany
	}
	return nil
}

// errTooMany has the words of AWS.
var errTooMany = errors.New("ErrTooManyExtensions")

// Complete is closed when every external extension has registered.
func (a *API) Complete() <-chan struct{} { return a.complete }

// Fatal is the type of the first error that an extension reported, "" if none did.
func (a *API) Fatal() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roster.fatal
}

// Initialized says that the runtime is ready. When all extensions are, the worker is told so.
func (a *API) Initialized() {
	a.mu.Lock()
	a.roster.initialized()
	settled := a.roster.settle()
	a.mu.Unlock()
	a.settled(settled, "")
}

// Invoke hands out the event of an invocation. When all extensions are ready again, the worker is told so.
func (a *API) Invoke(h wire.Header) {
	body := invocation(h)
	a.mu.Lock()
	a.request = h.RequestID
	for _, e := range a.roster.release() {
		a.inboxes[e.id].put(body)
	}
	settled := a.roster.settle()
	a.mu.Unlock()
	a.settled(settled, h.RequestID)
}

func (a *API) settled(yes bool, request string) {
	if !yes {
		return
	}
	if request == "" {
		a.announce()
	}
	a.cfg.Say(wire.Header{Type: wire.Settled, RequestID: request})
}

// announce makes the state of all extensions known at the end of INIT. None may subscribe to telemetry any more.
func (a *API) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.roster.extensions {
		a.relay.platform("platform.extension", struct {
			Name      string   `json:"name"`
			State     string   `json:"state"`
			Events    []string `json:"events"`
			ErrorType string   `json:"errorType,omitempty"`
		}{e.name, e.phase.String(), e.events, e.errorType})
	}
	a.relay.closeSubscriptions()
}

// Telemetry passes on events of one category to those who have subscribed to it: JSON objects, each on a line of its own.
func (a *API) Telemetry(category string, events []byte) { a.relay.take(category, events) }

// Flush delivers what telemetry is left.
func (a *API) Flush() { a.relay.flush() }

// Shutdown hands out the word that the environment ends, and returns the names of the external extensions that it is for.
func (a *API) Shutdown(h wire.Header) map[string]bool {
	body := encode(struct {
		Type     string `json:"eventType"`
		Reason   string `json:"shutdownReason"`
		Deadline int64  `json:"deadlineMs"`
	}{shutdownEvent, h.Reason, h.DeadlineMs})
	a.mu.Lock()
	defer a.mu.Unlock()
	told := make(map[string]bool)
	for _, e := range a.roster.extensions {
		if e.external && slices.Contains(e.events, shutdownEvent) {
			a.inboxes[e.id].put(body)
			told[e.name] = true
		}
	}
	return told
}

const (
	apiRoot      = "/2020-01-01/extension"
	telemetryAPI = "/2022-07-01/telemetry"
	logsAPI      = "/2020-08-15/logs"
)

// Answer implements runtimeapi.Others.
func (a *API) Answer(r runtimeapi.Request) runtimeapi.Response {
	switch path.Clean(r.Path) {
	case apiRoot + "/register":
		return on("POST", r, a.register)
	case apiRoot + "/event/next":
		return on("GET", r, a.identified(a.next))
	case apiRoot + "/init/error":
		return on("POST", r, a.identified(a.report((*roster).initError)))
	case apiRoot + "/exit/error":
		return on("POST", r, a.identified(a.report((*roster).exitError)))
	case telemetryAPI:
		return on("PUT", r, a.identified(a.subscribe))
	case logsAPI:
		return on("PUT", r, func(runtimeapi.Request) runtimeapi.Response {
			// AWS's own answer where there is no Logs API: 202, with an error.
			return failed(202, "Logs.NotSupported", "Logs API is not supported")
		})
	}
	return runtimeapi.Response{Status: 404}
}

func on(method string, r runtimeapi.Request, f func(runtimeapi.Request) runtimeapi.Response) runtimeapi.Response {
	if r.Method != method {
		return runtimeapi.Response{Status: 405}
	}
	return f(r)
}

// register takes an extension's registration.
func (a *API) register(r runtimeapi.Request) runtimeapi.Response {
	if r.Name == "" {
		return refuse(&refusal{"Extension.InvalidExtensionName", "Empty extension name"})
	}
	var in struct {
		Events            []string `json:"events"`
		ConfigurationKeys []string `json:"configurationKeys"`
	}
	if err := json.Unmarshal(r.Body, &in); err != nil {
		return refuse(&refusal{"InvalidRequestFormat", err.Error()})
	}
	if len(in.ConfigurationKeys) > 0 {
		return refuse(&refusal{"InvalidRequestFormat", "configurationKeys are deprecated; use environment variables instead"})
	}
	a.introduce()
	e, refused := a.admit(r.Name, in.Events)
	if refused != nil {
		return refuse(refused)
	}
	out := struct {
		Account  string `json:"accountId,omitempty"`
		Function string `json:"functionName"`
		Version  string `json:"functionVersion"`
		Handler  string `json:"handler"`
	}{"", a.cfg.Function, a.cfg.Version, a.cfg.Handler}
	if wants(r.Features, "accountId") {
		out.Account = a.cfg.Account
	}
	return runtimeapi.Response{Status: 200, Body: encode(out), Identifier: e}
}

// introduce lets the worker know that there are extensions, before it is known of the first.
func (a *API) introduce() {
	a.asking.Lock()
	defer a.asking.Unlock()
	if a.known {
		return
	}
	a.known = true
	if a.cfg.Ask() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roster.closed = true
}

// admit registers an extension and returns its identifier.
func (a *API) admit(name string, events []string) (string, *refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, refused := a.roster.register(name, newID(), events)
	if refused != nil {
		return "", refused
	}
	if a.inboxes[e.id] == nil {
		a.inboxes[e.id] = newInbox()
	}
	if !a.finished && a.roster.complete() {
		a.finished = true
		close(a.complete)
	}
	return e.id, nil
}

func wants(features, feature string) bool {
	for f := range strings.SplitSeq(features, ",") {
		if strings.TrimSpace(f) == feature {
			return true
		}
	}
	return false
}

// identified lets f answer what an extension asks that is known.
func (a *API) identified(f func(runtimeapi.Request, *extension) runtimeapi.Response) func(runtimeapi.Request) runtimeapi.Response {
	return func(r runtimeapi.Request) runtimeapi.Response {
		if r.Identifier == "" {
			return refuse(&refusal{"Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header"})
		}
		if !isID(r.Identifier) {
			return refuse(&refusal{"Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"})
		}
		a.mu.Lock()
		e := a.roster.find(strings.ToLower(r.Identifier))
		a.mu.Unlock()
		if e == nil {
			return refuse(&refusal{"Extension.UnknownExtensionIdentifier", "Unknown extension " + r.Identifier})
		}
		return f(r, e)
	}
}

// next gives an extension its next event, when there is one.
func (a *API) next(_ runtimeapi.Request, e *extension) runtimeapi.Response {
	a.mu.Lock()
	refused := a.roster.next(e)
	settled, request := a.roster.settle(), a.request
	events := a.inboxes[e.id].events
	a.mu.Unlock()
	if refused != nil {
		return refuse(refused)
	}
	a.settled(settled, request)
	body := <-events
	a.mu.Lock()
	if e.phase == ready {
		e.phase = running // the end may have been there before
	}
	a.mu.Unlock()
	return runtimeapi.Response{Status: 200, Body: body, Identifier: e.id, EventIdentifier: newID()}
}

// report takes the word that an extension failed.
func (a *API) report(step func(*roster, *extension, string) *refusal) func(runtimeapi.Request, *extension) runtimeapi.Response {
	return func(r runtimeapi.Request, e *extension) runtimeapi.Response {
		if r.ErrorType == "" {
			return refuse(&refusal{"Extension.MissingHeader", "Lambda-Extension-Function-Error-Type not found"})
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if refused := step(&a.roster, e, r.ErrorType); refused != nil {
			return refuse(refused)
		}
		return runtimeapi.Response{Status: 202, Body: encode(map[string]string{"status": "OK"})}
	}
}

// subscribe has telemetry delivered to an extension.
func (a *API) subscribe(r runtimeapi.Request, e *extension) runtimeapi.Response {
	s, err := parseSubscription(r.Body)
	if err != nil {
		return failed(400, "ValidationError", err.Error())
	}
	if !a.relay.subscribe(e.name, s) {
		return refuse(&refusal{"Telemetry.SubscriptionClosed", "Telemetry API subscription is closed"})
	}
	a.cfg.Say(wire.Header{Type: wire.Subscribed})
	return runtimeapi.Response{Status: 200, Body: []byte(`"OK"`)}
}

// invocation is the event that tells an extension of an invocation.
func invocation(h wire.Header) []byte {
	type tracing struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	event := struct {
		Type        string   `json:"eventType"`
		Deadline    int64    `json:"deadlineMs"`
		RequestID   string   `json:"requestId"`
		FunctionARN string   `json:"invokedFunctionArn"`
		Tracing     *tracing `json:"tracing,omitempty"`
	}{invokeEvent, h.DeadlineMs, h.RequestID, h.FunctionARN, nil}
	if h.TraceID != "" {
		event.Tracing = &tracing{"X-Amzn-Trace-Id", h.TraceID}
	}
	return encode(event)
}

func newInbox() *inbox { return &inbox{make(chan []byte, 2)} }

// put adds an event. One that nobody takes, because the extension has not asked for those before, is none that it waits for.
func (i *inbox) put(event []byte) {
	select {
	case i.events <- event:
	default:
	}
}

func refuse(r *refusal) runtimeapi.Response { return failed(403, r.Type, r.Message) }

func failed(status int, errorType, message string) runtimeapi.Response {
	return runtimeapi.Response{Status: status, Body: encode(struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}{message, errorType})}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func isID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		digit := c-'0' < 10 || c|0x20-'a' < 6
		if dash != (c == '-') || !dash && !digit {
			return false
		}
	}
	return true
}
