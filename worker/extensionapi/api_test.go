package extensionapi

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/worker/runtimeapi"
	"kiln/worker/wire"
)

// desk is an API with what it says and delivers.
type desk struct {
	*API
	t    *testing.T
	open bool

	// settled takes a token for each Settled that was said.
	settled chan struct{}

	mu        sync.Mutex
	delivered []string
}

func newDesk(t *testing.T) *desk {
	d := &desk{t: t, open: true, settled: make(chan struct{}, 10)} // more than any test has
	d.API = New(Config{
		Account: "123456789012", Function: "f", Version: "1", Handler: "index.handler", Ask: func() bool { return d.open },
		Say: func(h wire.Header) {
			if h.Type == wire.Settled {
				d.settled <- struct{}{}
			}
		},
		Deliver: func(_ int, _ string, body []byte) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.delivered = append(d.delivered, string(body))
			return nil
		},
	})
	t.Cleanup(d.Close)
	return d
}

func (d *desk) ask(method, path, id, body string) runtimeapi.Response {
	return d.Answer(runtimeapi.Request{Method: method, Path: path, Identifier: id, ErrorType: "Extension.Mine", Body: []byte(body)})
}

// deliveries are those so far.
func (d *desk) deliveries() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.delivered)
}

func (d *desk) register(name, events string) string {
	d.t.Helper()
	r := d.Answer(runtimeapi.Request{Method: "POST", Path: apiRoot + "/register", Name: name, Body: []byte(`{"events":` + events + `}`)})
	if r.Status != 200 {
		d.t.Fatalf("register %s: %d %s", name, r.Status, r.Body)
	}
	return r.Identifier
}

func TestWhatTheAPIRefuses(t *testing.T) {
	d := newDesk(t)
	id := d.register("ours", `["INVOKE"]`)
	d.Initialized()
	for name, row := range map[string]struct {
		request runtimeapi.Request
		status  int
		want    string
	}{
		"no name":          {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/register", Body: []byte(`{}`)}, 403, "Extension.InvalidExtensionName"},
		"no JSON":          {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/register", Name: "n"}, 403, "InvalidRequestFormat"},
		"old keys":         {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/register", Name: "n", Body: []byte(`{"configurationKeys":["a"]}`)}, 403, "configurationKeys are deprecated"},
		"unknown event":    {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/register", Name: "n", Body: []byte(`{"events":["OTHER"]}`)}, 403, "OTHER: ErrorInvalidEventType"},
		"late":             {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/register", Name: "n", Body: []byte(`{"events":[]}`)}, 403, "Extension.RegistrationClosed"},
		"no identifier":    {runtimeapi.Request{Method: "GET", Path: "/2020-01-01/extension/event/next"}, 403, "Extension.MissingExtensionIdentifier"},
		"bad identifier":   {runtimeapi.Request{Method: "GET", Path: "/2020-01-01/extension/event/next", Identifier: "1"}, 403, "Extension.InvalidExtensionIdentifier"},
		"other identifier": {runtimeapi.Request{Method: "GET", Path: "/2020-01-01/extension/event/next", Identifier: newID()}, 403, "Extension.UnknownExtensionIdentifier"},
		"no error type":    {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/exit/error", Identifier: id}, 403, "Extension.MissingHeader"},
		"wrong method":     {runtimeapi.Request{Method: "POST", Path: "/2020-01-01/extension/event/next", Identifier: id}, 405, ""},
		"unknown path":     {runtimeapi.Request{Method: "GET", Path: "/2020-01-01/extension"}, 404, ""},
		"logs":             {runtimeapi.Request{Method: "PUT", Path: "/2020-08-15/logs"}, 202, "Logs.NotSupported"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := d.Answer(row.request); r.Status != row.status || !strings.Contains(string(r.Body), row.want) {
				t.Errorf("answered %d %s, want %d %s", r.Status, r.Body, row.status, row.want)
			}
		})
	}
}

func TestAFirstExtensionIsRefusedWhenTheWorkerSaysSo(t *testing.T) {
	d := newDesk(t)
	d.open = false
	r := d.Answer(runtimeapi.Request{Method: "POST", Path: apiRoot + "/register", Name: "late", Body: []byte(`{}`)})
	if r.Status != 403 || !strings.Contains(string(r.Body), "Extension.RegistrationClosed") {
		t.Errorf("answered %d %s", r.Status, r.Body)
	}
}

func TestTheEndReachesAnExtensionThatIsBusy(t *testing.T) {
	d := newDesk(t)
	if err := d.Launch("ours"); err != nil {
		t.Fatal(err)
	}
	id := d.register("ours", `["INVOKE","SHUTDOWN"]`)
	if told := d.Shutdown(wire.Header{Reason: "failure", DeadlineMs: 7}); !told["ours"] {
		t.Errorf("told %v", told)
	}
	r := d.ask("GET", apiRoot+"/event/next", id, "")
	if want := `{"eventType":"SHUTDOWN","shutdownReason":"failure","deadlineMs":7}`; string(r.Body) != want || r.EventIdentifier == "" {
		t.Errorf("answered %s, want %s", r.Body, want)
	}
}

const subscribeAll = `{"schemaVersion":"2022-12-13","types":["platform","function","extension"],"destination":{"protocol":"HTTP","URI":"http://sandbox.localdomain:8080"},` +
	`"buffering":{"timeoutMs":100}}`

func TestTelemetryIsBufferedAndCompleteFromTheBeginningOfInit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		id := d.register("ours", `["INVOKE"]`)
		d.Telemetry("function", []byte("{\"record\":\"early\"}\n{\"record\":\"too\"}\n"))
		if r := d.ask("PUT", telemetryAPI, id, subscribeAll); r.Status != 200 || string(r.Body) != `"OK"` {
			t.Fatalf("answered %d %s", r.Status, r.Body)
		}
		d.Telemetry("extension", []byte("{\"record\":\"later\"}\n"))
		time.Sleep(99 * time.Millisecond) // of the bubble's clock
		synctest.Wait()
		if got := d.deliveries(); len(got) != 0 {
			t.Fatalf("delivered before it is due: %s", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		got := d.deliveries()
		if len(got) != 1 {
			t.Fatalf("delivered %d times", len(got))
		}
		var events []map[string]any
		if err := json.Unmarshal([]byte(got[0]), &events); err != nil || len(events) != 4 || events[0]["record"] != "early" || events[3]["record"] != "later" {
			t.Errorf("delivered %s (%v)", got[0], err)
		}
	})
}

func TestNobodySubscribesAfterInit(t *testing.T) {
	d := newDesk(t)
	id := d.register("ours", `["INVOKE"]`)
	var calls sync.WaitGroup
	d.Initialized()
	calls.Go(func() { d.ask("GET", apiRoot+"/event/next", id, "") })
	<-d.settled
	d.Invoke(wire.Header{RequestID: "r"})
	calls.Wait()
	if r := d.ask("PUT", telemetryAPI, id, subscribeAll); r.Status != 403 || !strings.Contains(string(r.Body), "Telemetry.SubscriptionClosed") {
		t.Errorf("answered %d %s", r.Status, r.Body)
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	with := func(from, to string) string { return strings.Replace(subscribeAll, from, to, 1) }
	for name, row := range map[string]struct{ body, want string }{
		"no JSON":          {"{", "failed to parse JSON"},
		"schema":           {with("2022-12-13", "2021-01-01"), "schemaVersion"},
		"no types":         {with(`["platform","function","extension"]`, `[]`), "types"},
		"unknown type":     {with("platform", "logs"), "types"},
		"TCP":              {with(`"HTTP"`, `"TCP"`), "protocol"},
		"another host":     {with("sandbox.localdomain", "169.254.169.254"), "host must be"},
		"own port":         {with("8080", "9001"), "port"},
		"no port":          {with(":8080", ""), "port"},
		"timeout too low":  {with(`"timeoutMs":100`, `"timeoutMs":24`), "timeoutMs: 24"},
		"timeout too high": {with(`"timeoutMs":100`, `"timeoutMs":30001`), "timeoutMs: 30001"},
		"few items":        {with(`"timeoutMs":100`, `"maxItems":999`), "maxItems: 999"},
		"many items":       {with(`"timeoutMs":100`, `"maxItems":10001`), "maxItems: 10001"},
		"few bytes":        {with(`"timeoutMs":100`, `"maxBytes":262143`), "maxBytes: 262143"},
		"many bytes":       {with(`"timeoutMs":100`, `"maxBytes":1048577`), "maxBytes: 1048577"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseSubscription([]byte(row.body)); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %s", err, row.want)
			}
		})
	}
	s, err := parseSubscription([]byte(with(`,"buffering":{"timeoutMs":100}`, "")))
	if err != nil || s.maxItems != 10000 || s.maxBytes != 262144 || s.timeout != time.Second || s.port != 8080 || s.path != "/" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestABufferIsBoundedAndSaysWhatItLost(t *testing.T) {
	now := time.Unix(0, 0)
	b := buffer{subscription: subscription{maxItems: 2, maxBytes: 100, timeout: time.Second}}
	for range 3 * maxBacklog {
		b.add([]byte(`"x"`), now)
	}
	if len(b.events) != 2*maxBacklog || b.lostEvents != maxBacklog || b.lostBytes != 3*maxBacklog {
		t.Errorf("%d kept, %d lost of %d bytes", len(b.events), b.lostEvents, b.lostBytes)
	}
	if batch := b.batch(now); string(batch) != `["x","x"]` || len(b.events) != 2*maxBacklog-2 {
		t.Errorf("batch %s, %d left", batch, len(b.events))
	}
}

func TestTooManyExternalExtensionsCannotBeLaunched(t *testing.T) {
	d := newDesk(t)
	for i := range maxExtensions {
		if err := d.Launch(string(rune('a' + i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Launch("one more"); err == nil || err.Error() != "ErrTooManyExtensions" {
		t.Errorf("%v", err)
	}
}
