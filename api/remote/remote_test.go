package remote_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"kiln"
	"kiln/api"
	"kiln/api/remote"
	"kiln/internal/local"
)

var caller = api.Caller{Account: "123456789012", AccessKeyID: "AKIA", Role: "arn:aws:iam::123456789012:role/r"}

// socket returns a path that is short enough for a socket.
func socket(t *testing.T) string {
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "api")
}

// serve serves h at path until the test ends.
func serve(t *testing.T, path string, h api.Handler) {
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := remote.NewServer(l, []api.Handler{h}, slog.New(slog.DiscardHandler)).Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

// update is a handler of an operation with most kinds of members, which call serves.
func update(call func(context.Context, api.Caller, *api.UpdateFunctionCodeRequest) (*api.FunctionConfiguration, error)) api.Handler {
	return api.Handle(api.UpdateFunctionCode, call,
		api.Enforced{Path: "FunctionName"}, api.Enforced{Path: "ZipFile"}, api.Enforced{Path: "Publish"},
		api.Enforced{Path: "Architectures"}, api.Enforced{Path: "RevisionId"})
}

func TestAnOperationIsTheSameInAnotherProcess(t *testing.T) {
	in := &api.UpdateFunctionCodeRequest{
		FunctionName: new("f<&>"), ZipFile: []byte{}, Publish: new(false), Architectures: []string{}, RevisionId: new(""),
	}
	want := &api.FunctionConfiguration{
		FunctionName: new(""), Timeout: new(int32(0)), Layers: []api.Layer{}, CodeSize: new(int64(1 << 62)),
		Environment: &api.EnvironmentResponse{Variables: map[string]string{"a": ""}},
	}
	h := update(func(_ context.Context, c api.Caller, got *api.UpdateFunctionCodeRequest) (*api.FunctionConfiguration, error) {
		if c != caller || !reflect.DeepEqual(got, in) {
			t.Errorf("got %+v of %+v", got, c)
		}
		return want, nil
	})
	path := socket(t)
	serve(t, path, h)
	got, err := remote.Forward(path, []api.Handler{h})[0].Call(t.Context(), caller, in)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestErrorsComeAsTheyWere(t *testing.T) {
	for name, want := range map[string]error{
		"of the API": &kiln.Error{
			Kind: kiln.TooManyRequests, Message: "too many", Reason: "reason", RetryAfter: time.Second, Untyped: true, Cause: errors.New("cause"),
		},
		"of no kind": errors.New("broken"),
	} {
		t.Run(name, func(t *testing.T) {
			h := update(func(context.Context, api.Caller, *api.UpdateFunctionCodeRequest) (*api.FunctionConfiguration, error) {
				return nil, want
			})
			path := socket(t)
			serve(t, path, h)
			_, err := remote.Forward(path, []api.Handler{h})[0].Call(t.Context(), caller, &api.UpdateFunctionCodeRequest{})
			if e, ok := errors.AsType[*kiln.Error](want); ok && !reflect.DeepEqual(err, error(e)) {
				t.Errorf("got %#v", err)
			}
			if err == nil || err.Error() != want.Error() || kiln.KindOf(err) != kiln.KindOf(want) {
				t.Errorf("got %v of kind %v, want %v", err, kiln.KindOf(err), want)
			}
		})
	}
}

func TestWhatIsNotEnforcedIsRefusedHere(t *testing.T) {
	h := remote.Forward(socket(t), []api.Handler{update(nil)})[0]
	_, err := h.Call(t.Context(), caller, &api.UpdateFunctionCodeRequest{ImageUri: new("image")})
	if kiln.KindOf(err) != kiln.InvalidParameterValue {
		t.Errorf("got %v", err)
	}
}

func TestAProcessThatIsGoneIsToldAtOnce(t *testing.T) {
	h := remote.Forward(socket(t), []api.Handler{update(nil)})[0]
	begun := time.Now()
	_, err := h.Call(t.Context(), caller, &api.UpdateFunctionCodeRequest{})
	if took := time.Since(begun); kiln.KindOf(err) != kiln.Unavailable || took > time.Second {
		t.Errorf("got %v after %v", err, took)
	}
}

func TestAProcessThatEndsMeanwhileIsTold(t *testing.T) {
	path := socket(t)
	l, err := local.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ending sync.WaitGroup
	ending.Go(func() {
		if conn, err := l.AcceptUnix(); err != nil {
			t.Error(err)
		} else {
			conn.Close()
		}
	})
	h := remote.Forward(path, []api.Handler{update(nil)})[0]
	if _, err := h.Call(t.Context(), caller, &api.UpdateFunctionCodeRequest{}); err == nil || kiln.KindOf(err) != kiln.Internal {
		t.Errorf("got %v", err)
	}
	ending.Wait()
}
