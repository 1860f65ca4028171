package frontend

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln"
	"kiln/api"
)

// sizes serves the operations that take large bodies, and counts what it got.
func sizes(got *int) func(*Config) {
	return serving(
		api.Handle(api.UpdateFunctionConfiguration, func(_ context.Context, _ api.Caller, in *api.UpdateFunctionConfigurationRequest) (*api.FunctionConfiguration, error) {
			*got = len(*in.Description)
			return &api.FunctionConfiguration{}, nil
		}, api.Enforced{Path: "FunctionName"}, api.Enforced{Path: "Description"}),
		api.Handle(api.CreateFunction, func(_ context.Context, _ api.Caller, in *api.CreateFunctionRequest) (*api.FunctionConfiguration, error) {
			*got = len(*in.Description)
			return &api.FunctionConfiguration{}, nil
		}, api.Enforced{Path: "FunctionName"}, api.Enforced{Path: "Role"}, api.Enforced{Path: "Code.*"}, api.Enforced{Path: "Description"}),
	)
}

// filled is a JSON object of n bytes with a long Description.
func filled(n int) string {
	const head, tail = `{"Description":"`, `"}`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

func TestBodiesAreBoundedPerOperation(t *testing.T) {
	var got int
	s := start(t, open, sizes(&got))
	for _, tt := range []struct {
		op      *api.Operation
		limit   int
		message string
	}{
		{api.UpdateFunctionConfiguration, 5120, "Request must be smaller than 5120 bytes for the UpdateFunctionConfiguration operation"},
		{api.CreateFunction, 70167211, "Request must be smaller than 70167211 bytes for the CreateFunction operation"},
		{api.Invoke, 6291456, "Request must be smaller than 6291456 bytes for the InvokeFunction operation"},
	} {
		for form, open := range map[string]func(string) io.Reader{
			"announced": func(s string) io.Reader { return strings.NewReader(s) },
			"chunked":   func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} },
		} {
			t.Run(tt.op.Name+"/"+form, func(t *testing.T) {
				send := func(n int) reply {
					req, err := http.NewRequestWithContext(t.Context(), tt.op.Method, s.url+address(tt.op), open(filled(n)))
					if err != nil {
						t.Fatal(err)
					}
					return do(t, req)
				}
				if r := send(tt.limit); r.status == http.StatusRequestEntityTooLarge {
					t.Errorf("%d bytes are refused: %s", tt.limit, r.body)
				} else if tt.op != api.Invoke && got != tt.limit-len(`{"Description":""}`) {
					t.Errorf("the handler got %d bytes", got)
				}
				r := send(tt.limit + 1)
				if r.isFault(t, 413, "RequestEntityTooLargeException"); r.body != `{"message":"`+tt.message+`"}` {
					t.Errorf("got %s", r.body)
				}
			})
		}
	}
}

func TestBodiesTogetherAreBounded(t *testing.T) {
	var got int
	s := start(t, open, sizes(&got), func(c *Config) { c.MaxBodyMemory = 1 << 20 })
	path := address(api.CreateFunction)
	for range 3 {
		s.send(t, "POST", path, filled(2<<20)).isFault(t, 503, "ServiceUnavailableException")
		if r := s.send(t, "POST", path, filled(512<<10)); r.status != 201 {
			t.Errorf("half of what there is: got %d %s", r.status, r.body)
		}
	}
}

func TestSlowBodiesEndTheConnection(t *testing.T) {
	var got int
	s := start(t, open, sizes(&got), func(c *Config) { c.BodyTimeout = 50 * time.Millisecond })
	for path, code := range map[string]string{
		address(api.CreateFunction): "InvalidRequestContentException", "/nothing": "UnknownOperationException", "/healthz": "UnknownOperationException",
	} {
		t.Run(path, func(t *testing.T) {
			conn := s.raw(t, "POST "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
			resp, err := http.ReadResponse(conn.Reader, nil)
			if err != nil || resp.Header.Get("X-Amzn-Errortype") != code {
				t.Fatalf("got %v, %v", resp, err)
			}
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
				t.Errorf("then %q, %v", rest, err)
			}
		})
	}
}

// A request may take longer than its body may.
func TestTheTimeOfTheBodyEndsWithIt(t *testing.T) {
	const bodyTimeout = 20 * time.Millisecond
	update := api.Handle(api.UpdateFunctionConfiguration, func(ctx context.Context, _ api.Caller, _ *api.UpdateFunctionConfigurationRequest) (*api.FunctionConfiguration, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * bodyTimeout):
			return &api.FunctionConfiguration{}, nil
		}
	}, api.Enforced{Path: "FunctionName"})
	s := start(t, open, serving(update), func(c *Config) { c.BodyTimeout = bodyTimeout })
	if r := s.send(t, "PUT", address(api.UpdateFunctionConfiguration), "{}"); r.status != 200 {
		t.Errorf("got %d %s", r.status, r.body)
	}
}

// closing is a listener whose connections tell when they are closed.
type closing struct {
	net.Listener
	closed chan struct{}
}

type closingConn struct {
	net.Conn
	once   *sync.Once
	closed chan struct{}
}

func (l closing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return closingConn{c, new(sync.Once), l.closed}, err
}

func (c closingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestAClientThatDoesNotReadLosesItsConnection(t *testing.T) {
	closed := make(chan struct{})
	rec := &recorder{result: kiln.Result{Payload: make([]byte, kiln.MaxResponse)}}
	s := start(t, open, serving(InvokeHandler(region, rec)), func(c *Config) {
		c.BodyTimeout = 20 * time.Millisecond
		c.Listener = closing{c.Listener, closed}
	})
	// More than the buffers of a loopback connection hold.
	s.raw(t, strings.Repeat("POST "+invokePath+" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", 16))
	<-closed
}
