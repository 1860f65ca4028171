package frontend

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// Target names what to invoke.
type Target struct {
	Account   kiln.AccountID
	Function  kiln.FunctionName
	Qualifier kiln.Qualifier
}

// Invoker invokes functions: the synchronous data plane.
type Invoker interface {
	// Invoke runs inv and returns the version that ran it. The result is valid only without an error, which may be a
	// *kiln.Error.
	Invoke(ctx context.Context, t Target, inv kiln.Invocation) (kiln.Result, *kiln.Version, error)
	// Check returns the error that Invoke would return before it runs anything.
	Check(ctx context.Context, t Target) error
	// Allows reports whether the policy of what t names allows a.
	Allows(ctx context.Context, t Target, a kiln.Access) bool
}

// Values of the API's enums InvocationType and LogType.
const (
	typeEvent  = "Event"
	typeDryRun = "DryRun"
	logTail    = "Tail"
)

// InvokeHandler serves the operation Invoke in region with inv. The request's ID is that of the invocation. The handler works
// in a Server only.
func InvokeHandler(region kiln.Region, inv Invoker) api.Handler {
	h := &invokeHandler{region, inv}
	return api.Handle(api.Invoke, h.invoke,
		api.Enforced{Path: "FunctionName"},
		api.Enforced{Path: "Qualifier"},
		api.Enforced{Path: "InvocationType", Note: "RequestResponse and DryRun"},
		api.Enforced{Path: "LogType"},
		api.Enforced{Path: "ClientContext"},
		api.Enforced{Path: "Payload"},
	)
}

type invokeHandler struct {
	region  kiln.Region
	invoker Invoker
}

func (h *invokeHandler) invoke(ctx context.Context, c api.Caller, in *api.InvocationRequest) (*api.InvocationResponse, error) {
	called, err := h.read(ctx, c, in)
	if err != nil {
		return nil, err
	}
	inv, err := newInvocation(exchangeOf(ctx), in)
	if err != nil {
		return nil, err
	}
	inv.FunctionARN = called.ARN(h.region)
	target := targetOf(called)
	switch value(in.InvocationType) {
	case typeDryRun:
		status := int32(http.StatusNoContent)
		return &api.InvocationResponse{StatusCode: &status}, h.invoker.Check(ctx, target)
	case typeEvent:
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "kiln does not support Invoke member InvocationType with the value %s", typeEvent)
	}
	res, v, err := h.invoker.Invoke(ctx, target, inv)
	if err != nil {
		return nil, err
	}
	return respond(exchangeOf(ctx), in, res, v), nil
}

func targetOf(r ref.Ref) Target {
	return Target{Account: r.Account, Function: r.Name, Qualifier: r.Qualifier}
}

// read returns what in calls, once all of its members but the payload are what AWS's model allows.
func (h *invokeHandler) read(ctx context.Context, c api.Caller, in *api.InvocationRequest) (ref.Ref, error) {
	const action = "InvokeFunction"
	names := ref.Reader{Region: h.region, Account: c.Account, Operation: action, Shape: ref.Namespaced, Trusted: func(r ref.Ref) bool {
		return h.invoker.Allows(ctx, targetOf(r), kiln.Access{Action: "lambda:" + action, Account: c.Account, Role: c.Role})
	}}
	var v constraint.Violations
	names.Check(&v, in.FunctionName, in.Qualifier)
	if in.InvocationType != nil {
		v.Enum("invocationType", *in.InvocationType, api.Enum("InvocationType")...)
	}
	if in.LogType != nil {
		v.Enum("logType", *in.LogType, api.Enum("LogType")...)
	}
	if m := v.Message(); m != "" {
		return ref.Ref{}, kiln.Errorf(kiln.Validation, "%s", m)
	}
	return names.Resolve(*in.FunctionName, in.Qualifier)
}

// newInvocation returns what the function gets, but for the ARN that it is called by.
func newInvocation(x *exchange, in *api.InvocationRequest) (kiln.Invocation, error) {
	clientContext, err := decodeClientContext(value(in.ClientContext))
	if err != nil {
		return kiln.Invocation{}, err
	}
	payload := in.Payload
	if len(payload) == 0 {
		payload = []byte("{}")
	}
	if err := checkPayload(payload); err != nil {
		return kiln.Invocation{}, err
	}
	trace, lineage := traceID(x.trace, time.Now())
	x.header.Set("X-Amzn-Trace-Id", trace)
	return kiln.Invocation{ID: x.id, Payload: payload, ClientContext: clientContext, TraceID: trace, Lineage: lineage}, nil
}

func decodeClientContext(encoded string) (string, error) {
	if len(encoded) > kiln.MaxClientContext {
		return "", kiln.Errorf(kiln.InvalidRequestContent, "Client context must be no more than %d bytes.", kiln.MaxClientContext)
	}
	if encoded == "" {
		return "", nil
	}
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !json.Valid(text) || !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) || invalidUTF8(text) < len(text) {
		return "", kiln.Errorf(kiln.InvalidRequestContent, "Client context must be a valid Base64-encoded JSON object.")
	}
	return string(text), nil
}

// respond puts a result into the shape of the API, and what it has no member for into x.
func respond(x *exchange, in *api.InvocationRequest, res kiln.Result, v *kiln.Version) *api.InvocationResponse {
	status, version := int32(http.StatusOK), string(v.Qualifier)
	out := &api.InvocationResponse{StatusCode: &status, ExecutedVersion: &version, Payload: res.Payload}
	if res.FunctionError != "" {
		out.FunctionError = &res.FunctionError
	}
	if value(in.LogType) == logTail {
		tail := base64.StdEncoding.EncodeToString(res.LogTail[max(0, len(res.LogTail)-kiln.MaxLogTail):])
		out.LogResult = &tail
	}
	x.header.Set("Content-Type", "application/json")
	x.header.Set("Server-Timing", serverTiming(res.Timing))
	return out
}

// serverTiming is the W3C Server Timing form of t, in milliseconds. What took no time is left out.
func serverTiming(t kiln.Timing) string {
	var metrics []string
	add := func(name string, d time.Duration) {
		if d > 0 {
			metrics = append(metrics, fmt.Sprintf("%s;dur=%.3f", name, float64(d)/float64(time.Millisecond)))
		}
	}
	add("queue", t.Queue)
	add("sandbox", t.Sandbox)
	add("mount", t.Mount)
	add("guest", t.Guest)
	add("init", t.Init)
	add("handler", t.Handler)
	return strings.Join(metrics, ", ")
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
