package api

import (
	"context"
	"fmt"
	"reflect"

	"kiln"
)

// Caller is who asks, as authenticated.
type Caller struct {
	Account     kiln.AccountID
	AccessKeyID string
	// Role is the ARN of the execution role that the caller has, or "" if it acts as the account itself.
	Role string
}

// Enforced is an input member that a handler honours.
type Enforced struct {
	// Path names the member, dotted: "Timeout", "Code.ZipFile". The elements of a list have no part of their own:
	// "FileSystemConfigs.Arn". A structure is named with all its members, "Code.*", or member by member; its bare name is
	// no path, so that a member that AWS adds to it is refused until somebody has thought about it.
	Path string
	// Note says what is limited ("Zip only"). It may be empty.
	Note string
}

// Handler serves one operation. The zero Handler serves none: make one with Handle.
type Handler struct {
	Operation *Operation
	// Enforces lists every member of the input that the handler honours. A request with any other is refused.
	Enforces []Enforced
	refuses  *refusals
	call     func(context.Context, Caller, any) (any, error)
}

// Handle returns the Handler that serves op with call, which never sees a member that enforces does not list. It panics if In
// and Out are not op's input and output, if a path of enforces names no member of In or one that another path covers, and if a
// required member is missing from enforces.
func Handle[In, Out any](op *Operation, call func(context.Context, Caller, *In) (*Out, error), enforces ...Enforced) Handler {
	if in, out := reflect.TypeFor[In](), reflect.TypeFor[Out](); in != op.Input || out != op.Output {
		panic(fmt.Sprintf("api: %s takes %s and returns %s, not %s and %s", op.Name, op.Input, op.Output, in, out))
	}
	return Handler{
		Operation: op,
		Enforces:  enforces,
		refuses:   refusalsOf(op, enforces),
		call: func(ctx context.Context, c Caller, in any) (any, error) {
			out, err := call(ctx, c, in.(*In))
			if err != nil {
				return nil, err
			}
			return out, nil
		},
	}
}

// Call serves one request. The input is a pointer to the operation's input type and belongs to the handler; the output is a
// pointer to its output type. An input with a member that the handler does not enforce is refused as InvalidParameterValue.
func (h Handler) Call(ctx context.Context, c Caller, in any) (any, error) {
	if path := h.refuses.firstSet(reflect.ValueOf(in).Elem()); path != "" {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "kiln does not support %s member %s", h.Operation.Name, path)
	}
	return h.call(ctx, c, in)
}

// Elsewhere returns a Handler that enforces what h does and has the rest of its requests served by call, with inputs and outputs as Call
// has them.
func (h Handler) Elsewhere(call func(ctx context.Context, c Caller, in any) (out any, err error)) Handler {
	h.call = call
	return h
}
