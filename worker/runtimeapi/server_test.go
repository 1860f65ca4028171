package runtimeapi

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"kiln/worker/wire"
)

const limit = 1 << 16

// world is a server between a worker's socket and its clients.
type world struct {
	t      *testing.T
	worker net.Conn
	reader *bufio.Reader
	server *Server
	dial   func() net.Conn
}

type listener struct{ net.Listener }

func (l listener) Accept() (io.ReadWriteCloser, error) { return l.Listener.Accept() }

func newWorld(t *testing.T) *world {
	worker, guest := socketpair(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, worker: worker, reader: bufio.NewReader(worker), server: New(guest, limit, nil)}
	var mu sync.Mutex
	var clients []net.Conn
	w.dial = func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		clients = append(clients, c)
		return c
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.server.Serve(listener{l}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		worker.Close()
		guest.Close()
		mu.Lock()
		for _, c := range clients {
			c.Close()
		}
		mu.Unlock()
		<-done
	})
	return w
}

func socketpair(t *testing.T) (net.Conn, net.Conn) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// expect reads a frame from the server, which must be of type typ.
func (w *world) expect(typ wire.Type) (wire.Header, []byte) {
	w.t.Helper()
	h, body, err := wire.Read(w.reader, limit)
	if err != nil || h.Type != typ {
		w.t.Fatalf("worker read %+v, %v; want a frame of type %q", h, err, typ)
	}
	return h, body
}

func (w *world) invoke(h wire.Header, event string) {
	w.t.Helper()
	h.Type = wire.Invoke
	if err := wire.Write(w.worker, h, []byte(event)); err != nil {
		w.t.Fatal(err)
	}
}

// client is one connection with a strict reading of what comes back.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (w *world) client() *client {
	c := w.dial()
	return &client{w.t, c, bufio.NewReader(c)}
}

func (c *client) send(raw string) {
	c.t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("read answer: %v", err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("read answer: %v", err)
	}
	return res, string(b)
}

func (c *client) expect(status int, body string) *http.Response {
	c.t.Helper()
	res, got := c.answer()
	if res.StatusCode != status || !strings.Contains(got, body) {
		c.t.Fatalf("answered %d %s, want %d with %s", res.StatusCode, got, status, body)
	}
	return res
}

// roundTrip sends a request, whose answer must be so.
func (c *client) roundTrip(raw string, status int, body string) {
	c.t.Helper()
	c.send(raw)
	c.expect(status, body)
}

func get(path string) string { return "GET " + apiRoot + path + " HTTP/1.1\r\nHost: h\r\n\r\n" }

func post(path, body string, fields ...string) string {
	head := "POST " + apiRoot + path + " HTTP/1.1\r\nHost: h\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// running returns a client that was given the invocation "a".
func (w *world) running() *client {
	w.t.Helper()
	c := w.client()
	c.send(get("invocation/next"))
	w.expect(wire.Ready)
	w.invoke(wire.Header{RequestID: "a"}, "{}")
	c.expect(200, "{}")
	return c
}

func TestAnInvocationGoesThrough(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.send(get("invocation/next"))
	w.expect(wire.Ready)
	w.invoke(wire.Header{
		RequestID: "id-1", DeadlineMs: 1234, FunctionARN: "arn:f", TraceID: "Root=1", ClientContext: "{\r\n\"a\": 1}", Identity: `{"i":1}`,
	}, `{"event":1}`)
	res := c.expect(200, `{"event":1}`)
	for name, want := range map[string]string{
		"Content-Type":                        "application/json",
		"Lambda-Runtime-Aws-Request-Id":       "id-1",
		"Lambda-Runtime-Deadline-Ms":          "1234",
		"Lambda-Runtime-Invoked-Function-Arn": "arn:f",
		"Lambda-Runtime-Trace-Id":             "Root=1",
		"Lambda-Runtime-Client-Context":       `{  "a": 1}`,
		"Lambda-Runtime-Cognito-Identity":     `{"i":1}`,
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	c.send(post("invocation/id-1/response", `{"answer":1}`))
	if h, body := w.expect(wire.Response); h.RequestID != "id-1" || string(body) != `{"answer":1}` {
		t.Errorf("worker got %+v %s", h, body)
	}
	c.expect(202, `{"status":"OK"}`)

	c.send(get("invocation/next"))
	w.invoke(wire.Header{RequestID: "id-2"}, "{}")
	if res := c.expect(200, "{}"); len(res.Header["Lambda-Runtime-Cognito-Identity"])+len(res.Header["Lambda-Runtime-Trace-Id"]) > 0 {
		t.Errorf("fields that the invocation has not: %v", res.Header)
	}
	c.send(post("invocation/id-2/error", `{"errorType":"E"}`, "Lambda-Runtime-Function-Error-Type: Function.Bad"))
	if h, body := w.expect(wire.Error); h.RequestID != "id-2" || h.ErrorType != "Function.Bad" || string(body) != `{"errorType":"E"}` {
		t.Errorf("worker got %+v %s", h, body)
	}
	c.expect(202, `{"status":"OK"}`)
}

func TestInitErrorEndsInit(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.send(post("init/error", `{"errorType":"E"}`, "Lambda-Runtime-Function-Error-Type: Runtime.NoSuchHandler"))
	if h, body := w.expect(wire.InitError); h.ErrorType != "Runtime.NoSuchHandler" || string(body) != `{"errorType":"E"}` {
		t.Errorf("worker got %+v %s", h, body)
	}
	c.expect(202, "OK")
	c.send(get("invocation/next"))
	c.expect(403, "InvalidStateTransition")
}

func TestEveryRouteRefusesWhatItIsNotFor(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for _, row := range []struct {
		raw    string
		status int
		body   string
	}{
		{post("invocation/a/response", "{}"), 400, `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}`},
		{post("invocation/a/error", "{}"), 400, "InvalidRequestID"},
		{post("invocation//response", "{}"), 400, "InvalidRequestID"},
		{post("invocation/next", "{}"), 405, ""},
		{get("invocation/a/response"), 405, ""},
		{get("init/error"), 405, ""},
		{get("restore/next"), 404, "404"},
		{get("invocation/a/b/response"), 404, "404"},
		{"GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: h\r\n\r\n", 404, "404"},
		{post("restore/error", "{}"), 404, "404"},
		{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 404, "404"},
	} {
		c.send(row.raw)
		c.expect(row.status, row.body)
	}
}

func TestAnAnswerThatIsTooLong(t *testing.T) {
	long := strings.Repeat("x", limit+1)
	chunked := "POST " + apiRoot + "invocation/a/response HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, raw := range map[string]string{
		"length":         post("invocation/a/response", long),
		"chunks":         chunked + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(long), long),
		"error":          post("invocation/a/error", long),
		"several chunks": chunked + strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", limit/2, long[:limit/2]), 5) + "0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.running()
			var sending sync.WaitGroup
			sending.Go(func() { io.WriteString(c, raw) }) // its failure shows in what comes back
			h, body := w.expect(wire.Error)
			want := `{"errorMessage":"Response payload size exceeded maximum allowed payload size (65536 bytes).","errorType":"Function.ResponseSizeTooLarge"}`
			if h.RequestID != "a" || h.ErrorType != "Function.ResponseSizeTooLarge" || string(body) != want {
				t.Errorf("worker got %+v %s", h, body)
			}
			c.expect(413, `{"errorMessage":"Exceeded maximum allowed payload size (65536 bytes).","errorType":"RequestEntityTooLarge"}`)
			sending.Wait()
			// The connection is still good, and the runtime may go on.
			c.send(get("invocation/next"))
			w.invoke(wire.Header{RequestID: "b"}, "{}")
			c.expect(200, "{}")
		})
	}
}

func TestTheLongestAnswerIsTaken(t *testing.T) {
	w := newWorld(t)
	c := w.running()
	long := strings.Repeat("x", limit)
	c.send(post("invocation/a/response", long))
	if _, body := w.expect(wire.Response); string(body) != long {
		t.Errorf("worker got %d bytes", len(body))
	}
	c.expect(202, "OK")
}

func TestAnEndlessAnswerIsCutOff(t *testing.T) {
	w := newWorld(t)
	c := w.running()
	var sending sync.WaitGroup
	sending.Go(func() {
		io.WriteString(c, "POST "+apiRoot+"invocation/a/response HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
		chunk := fmt.Sprintf("%x\r\n%s\r\n", limit, strings.Repeat("x", limit))
		for {
			if _, err := io.WriteString(c, chunk); err != nil {
				return // the server has closed the connection
			}
		}
	})
	w.expect(wire.Error)
	sending.Wait()
}

func TestChunksAndTheirTrailer(t *testing.T) {
	chunked := "POST " + apiRoot + "invocation/a/response HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\n\r\n"
	t.Run("whole", func(t *testing.T) {
		w := newWorld(t)
		c := w.running()
		c.send(chunked + "3;ext=1\r\n{\"a\r\n3\r\n\":1\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n")
		if _, body := w.expect(wire.Response); string(body) != `{"a":1}` {
			t.Errorf("worker got %s", body)
		}
		c.expect(202, "OK")
	})
	t.Run("failed halfway", func(t *testing.T) {
		w := newWorld(t)
		c := w.running()
		object := `{"errorType":"E"}`
		c.send(chunked + "1\r\n{\r\n0\r\nLambda-Runtime-Function-Error-Type: Function.E1\r\nLambda-Runtime-Function-Error-Body: " +
			base64.StdEncoding.EncodeToString([]byte(object)) + "\r\n\r\n")
		if h, body := w.expect(wire.Error); h.ErrorType != "Function.Unknown" || string(body) != object {
			t.Errorf("worker got %+v %s", h, body)
		}
		c.expect(202, "OK")
	})
}

func TestResponseModes(t *testing.T) {
	w := newWorld(t)
	c := w.running()
	c.send(post("invocation/a/response", "{}", "Lambda-Runtime-Function-Response-Mode: streaming"))
	w.expect(wire.Response)
	c.expect(202, "OK")
	c.send(get("invocation/next"))
	w.invoke(wire.Header{RequestID: "b"}, "{}")
	c.expect(200, "{}")
	c.send(post("invocation/b/response", "{}", "Lambda-Runtime-Function-Response-Mode: other"))
	if h, _ := w.expect(wire.Error); h.ErrorType != "Runtime.InvalidResponseModeHeader" {
		t.Errorf("worker got %+v", h)
	}
	c.expect(400, "InvalidFunctionResponseMode")
}

func TestAClientMayExpectToContinue(t *testing.T) {
	w := newWorld(t)
	c := w.running()
	head, body, _ := strings.Cut(post("invocation/a/response", "{}", "Expect: 100-continue"), "\r\n\r\n")
	c.send(head + "\r\n\r\n")
	if line, err := c.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("answered %q, %v", line, err)
	}
	if _, err := c.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	c.send(body)
	w.expect(wire.Response)
	c.expect(202, "OK")
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	w := newWorld(t)
	c := w.running()
	c.send(post("invocation/b/response", "{}") + post("invocation/a/response", "{}") + get("nothing") + get("invocation/next"))
	w.expect(wire.Response)
	w.invoke(wire.Header{RequestID: "b"}, "2")
	c.expect(400, "InvalidRequestID")
	c.expect(202, "OK")
	c.expect(404, "")
	c.expect(200, "2")
}

func TestALostInvocationIsGivenAgain(t *testing.T) {
	w := newWorld(t)
	w.running().Close()
	c := w.client()
	c.send(get("invocation/next"))
	if res := c.expect(200, "{}"); res.Header.Get("Lambda-Runtime-Aws-Request-Id") != "a" {
		t.Errorf("given %v", res.Header)
	}
}

func TestASecondNextIsRefusedWhileOneWaits(t *testing.T) {
	w := newWorld(t)
	first, second := w.client(), w.client()
	first.send(get("invocation/next"))
	w.expect(wire.Ready)
	second.send(get("invocation/next"))
	second.expect(403, "State transition from Ready to Ready failed for runtime")
	w.invoke(wire.Header{RequestID: "a"}, "{}")
	first.expect(200, "{}")
}

func TestConcurrentAnswersToOneInvocationAreOne(t *testing.T) {
	w := newWorld(t)
	w.running()
	statuses := make(chan int, maxConnections-1)
	for range cap(statuses) {
		c := w.client()
		go func() {
			io.WriteString(c, post("invocation/a/response", "{}"))
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				statuses <- 0
				return
			}
			statuses <- res.StatusCode
		}()
	}
	count := map[int]int{}
	for range cap(statuses) {
		count[<-statuses]++
	}
	if count[202] != 1 || count[403] != cap(statuses)-1 {
		t.Errorf("statuses: %v", count)
	}
	w.expect(wire.Response)
}

func TestABrokenWorkerIsToldOf(t *testing.T) {
	for name, breakIt := range map[string]func(*world){
		"closed":     func(w *world) { w.worker.Close() },
		"not invoke": func(w *world) { wire.Write(w.worker, wire.Header{Type: wire.Hello}, nil) },
		"no id":      func(w *world) { wire.Write(w.worker, wire.Header{Type: wire.Invoke}, nil) },
		"too long": func(w *world) {
			wire.Write(w.worker, wire.Header{Type: wire.Invoke, RequestID: "a"}, make([]byte, limit+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.client()
			c.send(get("invocation/next"))
			w.expect(wire.Ready)
			breakIt(w)
			if err := <-w.server.Broken(); err == nil {
				t.Error("no error")
			}
			if _, err := c.r.ReadByte(); err != io.EOF {
				t.Errorf("the client's connection: %v, want its end", err)
			}
		})
	}
}

// TestWhatCanBeReadInTwoWaysIsRefused holds requests that HTTP servers disagree about. None may reach a route, and nothing
// after it may be taken for a request.
func TestWhatCanBeReadInTwoWaysIsRefused(t *testing.T) {
	const line = "POST " + apiRoot + "init/error HTTP/1.1\r\n"
	const h = line + "Host: h\r\n"
	for name, raw := range map[string]string{
		"length and coding":         h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"coding and length":         h + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
		"two lengths":               h + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
		"list of lengths":           h + "Content-Length: 2, 2\r\n\r\n{}",
		"signed length":             h + "Content-Length: +2\r\n\r\n{}",
		"negative length":           h + "Content-Length: -2\r\n\r\n{}",
		"hexadecimal length":        h + "Content-Length: 0x2\r\n\r\n{}",
		"huge length":               h + "Content-Length: 99999999999999999999\r\n\r\n{}",
		"empty length":              h + "Content-Length:\r\n\r\n{}",
		"two codings":               h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"coding not last":           h + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"coding of another kind":    h + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"coding with vertical tab":  h + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"space before colon":        h + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"bare line feeds":           strings.ReplaceAll(h+"Content-Length: 2\r\n\r\n{}", "\r\n", "\n"),
		"bare line feed in fields":  h + "A: b\nContent-Length: 2\r\n\r\n{}",
		"bare carriage return":      h + "A: b\rContent-Length: 2\r\n\r\n{}",
		"folded field":              h + "A: b\r\n c\r\n\r\n",
		"field without colon":       h + "A\r\n\r\n",
		"field without name":        h + ": b\r\n\r\n",
		"nul in value":              h + "A: \x00\r\n\r\n",
		"no host":                   line + "\r\n",
		"two hosts":                 h + "Host: i\r\n\r\n",
		"two hosts in HTTP/1.0":     "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
		"absolute form":             "POST http://h" + apiRoot + "init/error HTTP/1.1\r\nHost: h\r\n\r\n",
		"authority form":            "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
		"asterisk form":             "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
		"HTTP/2 preface":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/0.9":                  "GET /\r\n\r\n",
		"version in lower case":     "GET / http/1.1\r\nHost: h\r\n\r\n",
		"version with zero":         "GET / HTTP/1.01\r\nHost: h\r\n\r\n",
		"space in target":           "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
		"two spaces":                "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
		"tab in request line":       "GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n",
		"empty line first":          "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"method that is no token":   "G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
		"a million fields":          h + strings.Repeat("A: b\r\n", maxFields+1) + "\r\n",
		"a field beyond all bounds": h + "A: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
		"fields beyond all bounds":  h + strings.Repeat("A: "+strings.Repeat("x", maxHead/50)+"\r\n", 60) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.client()
			go io.WriteString(c, raw+post("init/error", "{}")) // cut off when the server closes
			status, err := c.r.ReadString('\n')
			if err != nil && !strings.HasSuffix(err.Error(), "reset by peer") || err == nil && status != "HTTP/1.1 400 Bad Request\r\n" {
				t.Fatalf("answered %q, %v", status, err)
			}
			rest, _ := io.ReadAll(c.r) // its end may be a reset: the server closes with input unread
			if bytes.Contains(rest, []byte("HTTP/1.1")) {
				t.Errorf("a second answer: %q", rest)
			}
		})
	}
}

// TestBadChunksEndTheConnection holds bodies whose end is in doubt.
func TestBadChunksEndTheConnection(t *testing.T) {
	for name, body := range map[string]string{
		"no size":         "\r\n\r\n0\r\n\r\n",
		"signed size":     "+2\r\n{}\r\n0\r\n\r\n",
		"prefixed size":   "0x2\r\n{}\r\n0\r\n\r\n",
		"huge size":       "ffffffffffffffff0\r\n{}\r\n0\r\n\r\n",
		"bare line feed":  "2\n{}\r\n0\r\n\r\n",
		"chunk too long":  "2\r\n{}}\r\n0\r\n\r\n",
		"chunk cut short": "3\r\n{}\r\n0\r\n\r\n",
		"long extension":  "2;" + strings.Repeat("x", maxChunkLine) + "\r\n{}\r\n0\r\n\r\n",
		"bad trailer":     "2\r\n{}\r\n0\r\nA b\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.client()
			c.send("POST " + apiRoot + "init/error HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + body + post("init/error", "{}"))
			answer, _ := io.ReadAll(c.r) // its end may be a reset: the server closes with input unread
			if bytes.Contains(answer, []byte("202")) {
				t.Errorf("answered %q", answer)
			}
		})
	}
}

func TestAStackTraceOfOneMegabyteMayBeAField(t *testing.T) {
	w := newWorld(t)
	c := w.running()
	c.send(post("invocation/a/error", "{}", "Lambda-Runtime-Function-XRay-Error-Cause: "+strings.Repeat("x", 1<<20)))
	w.expect(wire.Error)
	c.expect(202, "OK")
}

func TestErrorTypes(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "Runtime.Unknown",
		"Runtime.ImportModuleError":           "Runtime.ImportModuleError",
		"Function.MyError":                    "Function.MyError",
		"Function.my":                         "Function.Unknown",
		"Function.":                           "Function.Unknown",
		"Runtime.X":                           "Runtime.Unknown",
		"Runtime.A b":                         "Runtime.Unknown",
		"ValueError":                          "Runtime.Unknown",
		"Runtime." + strings.Repeat("A", 300): "Runtime.Unknown",
	} {
		if got := knownType(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// FuzzConnection feeds one connection anything: the server must not crash, send the worker more than one word about INIT, or
// answer what is not HTTP.
func FuzzConnection(f *testing.F) {
	f.Add([]byte(get("x")))
	f.Add([]byte(post("init/error", "{}", "Expect: 100-continue")))
	f.Add([]byte("POST " + apiRoot + "init/error HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b\r\n\r\n" + get("invocation/next")))
	f.Fuzz(func(t *testing.T, in []byte) {
		var sink, out bytes.Buffer
		s := New(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(""), &sink}, limit, nil)
		s.serve(struct {
			io.Reader
			io.Writer
			io.Closer
		}{bytes.NewReader(in), &out, io.NopCloser(nil)})
		if h, _, err := wire.Read(&sink, limit); err == nil && h.Type != wire.InitError && h.Type != wire.Ready || sink.Len() > 0 {
			t.Fatalf("worker got %+v, then %q", h, sink.Bytes())
		}
		for r := bufio.NewReader(&out); ; {
			res, err := http.ReadResponse(r, nil)
			if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) && r.Buffered() == 0 {
				return
			}
			if err != nil {
				t.Fatalf("not HTTP: %v", err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatalf("not HTTP: %v", err)
			}
		}
	})
}

// others answers with what it was asked, unless that means nothing.
type others struct{}

func (others) Answer(r Request) Response {
	if r.Path == "/nothing" {
		return Response{Status: 404}
	}
	return Response{Status: 202, Body: fmt.Appendf(nil, "%+v", r), Identifier: "i", EventIdentifier: "e"}
}

func TestRequestsThatAreNotOfTheRuntimeAPIAreForOthers(t *testing.T) {
	for name, s := range map[string]*Server{"beside": New(&bytes.Buffer{}, limit, others{}), "alone": NewWithout(others{})} {
		connection, server := socketpair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(server)
		}()
		c := &client{t, connection, bufio.NewReader(connection)}
		c.roundTrip("POST /x?y HTTP/1.1\r\nHost: h\r\nLambda-Extension-Name: n\r\nLambda-Extension-Identifier: i\r\nLambda-Extension-Accept-Feature: f\r\n"+
			"Lambda-Extension-Function-Error-Type: t\r\nContent-Length: 2\r\n\r\n{}", 202, "{Method:POST Path:/x Name:n Identifier:i Features:f ErrorType:t Body:[123 125]}")
		c.roundTrip("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", 404, "404 page not found\n")
		c.roundTrip(fmt.Sprintf("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", maxOther+1, strings.Repeat("x", maxOther+1)), 413, "RequestEntityTooLarge")
		if name == "alone" {
			c.roundTrip(get("invocation/next"), 202, "/2018-06-01/runtime/invocation/next")
		}
		connection.Close()
		<-done
	}
}
