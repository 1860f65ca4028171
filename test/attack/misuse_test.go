package attack

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kiln/kilntest"
)

// smuggled are requests with a second one hidden in them; the hidden one answers an invocation that the first does not.
// What the server answers to each is tested in worker/runtimeapi. Here they come from inside, and none may be taken for two.
func smuggled() []string {
	const post = "POST /2018-06-01/runtime/invocation/x/response HTTP/1.1\r\nHost: h\r\n"
	const hidden = "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
	return []string{
		post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + hidden,
		post + "Content-Length: 0\r\nContent-Length: " + strconv.Itoa(len(hidden)) + "\r\n\r\n" + hidden,
		strings.ReplaceAll(post+"Content-Length: 0\r\n\r\n", "\r\n", "\n") + hidden,
		post + "A: b\r\n Content-Length: 0\r\n\r\n" + hidden,
		"POST http://127.0.0.1:9001/2018-06-01/runtime/init/error HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n" + hidden,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden,
		post + strings.Repeat("A: b\r\n", 100000) + "\r\n" + hidden,
	}
}

func TestTheRuntimeAPICanBeMisusedInVain(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{
		Name: "misuse", Runtime: "provided.al2023", Handler: "bootstrap", MemoryMB: 1769, Timeout: 3, Zip: kilntest.GoZip(t, "test/attack/testdata/misuse"),
	})
	do := func(event string) string { return string(call(t, n, "misuse", event).Payload) }

	for _, c := range []struct{ event, want, why string }{
		{`{"Do":"first"}`, `"first"`, "an honest answer"},
		{`{"Do":"answer for the one before"}`, `[400,400]`, "answers to the invocation before"},
		{`{"Do":"init again"}`, `[403,404]`, "a second end of INIT"},
		{`{"Do":"twice"}`, `"first"`, "two answers"},
		{`{"Do":"after twice"}`, `"after twice"`, "the invocation after two answers"},
		{`{"Do":"guess","N":200}`, `{"400":200}`, "guessed request ids"},
		{`{"Do":"connections","N":200}`, `200`, "an answer while 200 connections are open"},
	} {
		if got := do(c.event); got != c.want {
			t.Errorf("%s: %s, want %s", c.why, got, c.want)
		}
	}
	t.Run("two next", func(t *testing.T) {
		do(`{"Do":"two next"}`)
		if got := do(`{"Do":"found"}`); got != `1` {
			t.Errorf("two requests for the next invocation were given %s invocations", got)
		}
	})
	t.Run("smuggled", func(t *testing.T) {
		for i, statuses := range answer[[][]string](t, n, "misuse", encode(t, map[string]any{"Do": "raw", "Raw": smuggled()})) {
			if len(statuses) > 1 || len(statuses) == 1 && statuses[0] != "400 Bad Request" {
				t.Errorf("request %d was answered %q", i, statuses)
			}
		}
	})
	t.Run("not for runtimes", func(t *testing.T) {
		raw := []string{
			"GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: h\r\nLambda-Extension-Identifier: 00000000-0000-4000-8000-000000000000\r\n\r\n",
			"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
		}
		got := answer[[][]string](t, n, "misuse", encode(t, map[string]any{"Do": "raw", "Raw": raw}))
		if len(got[0]) != 1 || !slices.Contains([]string{"403 Forbidden", "404 Not Found"}, got[0][0]) {
			t.Errorf("a guessed extension was answered %q", got[0])
		}
		// The server does not speak HTTP/2: it gives the invocation out again, as to any request for it.
		if fmt.Sprint(got[1]) != "[200 OK]" {
			t.Errorf("a change of protocol was answered %q", got[1])
		}
	})
	t.Run("endless answer", func(t *testing.T) {
		before := residentKB(t, n.Pid())
		if got := failureOf(t, call(t, n, "misuse", `{"Do":"endless"}`)); got != "Function.ResponseSizeTooLarge" {
			t.Errorf("it ended with %q", got)
		}
		// Twice the largest answer that is allowed.
		if grown := residentKB(t, n.Pid()) - before; grown > 2*6<<10 {
			t.Errorf("the node has grown by %d KB", grown)
		}
	})
	t.Run("slow answer", func(t *testing.T) {
		if got := failureOf(t, call(t, n, "misuse", `{"Do":"slow"}`)); got != "Sandbox.Timedout" {
			t.Errorf("it ended with %q", got)
		}
	})
	if got := do(`{"Do":"last"}`); got != `"last"` {
		t.Errorf("afterwards: %s", got)
	}
	if isSoak() {
		if got := do(`{"Do":"guess","N":5000}`); got != `{"400":5000}` {
			t.Errorf("guessed request ids: %s", got)
		}
	}
}

// residentKB is the memory of a process.
func residentKB(t *testing.T, pid int) int {
	t.Helper()
	p, ok := readProcess(pid)
	if !ok {
		t.Fatalf("process %d has ended", pid)
	}
	kb, err := strconv.Atoi(strings.TrimSuffix(p.status["VmRSS"], " kB"))
	if err != nil {
		t.Fatal(err)
	}
	return kb
}
