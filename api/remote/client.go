package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"kiln"
	"kiln/api"
	"kiln/internal/local"
)

// Forward returns handlers that have their requests served by the Server on the socket at path. What a handler does not enforce it
// refuses itself. While nobody serves there, requests fail at once with kind Unavailable. One whose answer does not come, because the other
// process ended, fails with kind Internal: what was asked for may have been done.
func Forward(path string, handlers []api.Handler) []api.Handler {
	out := make([]api.Handler, len(handlers))
	for i, h := range handlers {
		out[i] = h.Elsewhere(func(ctx context.Context, c api.Caller, in any) (any, error) {
			return forward(ctx, path, h.Operation, c, in)
		})
	}
	return out
}

func forward(ctx context.Context, path string, op *api.Operation, c api.Caller, in any) (any, error) {
	input, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode input of %s: %w", op.Name, err)
	}
	conn, err := local.Dial(ctx, path)
	if err != nil {
		return nil, &kiln.Error{Kind: kiln.Unavailable, Message: "Functions cannot be changed or read at the moment. Please try again.", Cause: err}
	}
	defer local.CloseWith(ctx, conn)()
	var a answer
	err = json.NewEncoder(conn).Encode(request{op.Name, c, input})
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxSize)).Decode(&a)
	}
	if err != nil {
		return nil, fmt.Errorf("%s in another process: %w", op.Name, err)
	}
	return a.result(op)
}

// result is what the handler has returned.
func (a *answer) result(op *api.Operation) (any, error) {
	if a.Fault != nil {
		return nil, a.Fault.err()
	}
	if a.Output == nil {
		return nil, errors.New("neither an output nor a fault came from another process")
	}
	out := reflect.New(op.Output).Interface()
	if err := json.Unmarshal(a.Output, out); err != nil {
		return nil, fmt.Errorf("decode output of %s: %w", op.Name, err)
	}
	return out, nil
}
