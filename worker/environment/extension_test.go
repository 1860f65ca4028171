package environment

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kiln/worker/wire"
)

// hear reads a control frame from the worker, which must be of type want.
func (g *guest) hear(want wire.Type) wire.Header {
	h, _, err := wire.Read(g.control, 1<<20)
	if err != nil || h.Type != want {
		g.t.Errorf("the worker said %+v, %v; want %q", h, err, want)
	}
	return h
}

// extended is a runtime with an internal extension, which does what it must until the first answer.
func (g *guest) extended() (invocation wire.Header) {
	g.say(g.control, wire.Header{Type: wire.Register}, "")
	g.ready()
	g.hear(wire.Registration)
	g.hear(wire.Initialized)
	g.say(g.control, wire.Header{Type: wire.Settled}, "")
	g.hear(wire.Event)
	h, body, _ := g.next()
	g.answer(h, string(body))
	return h
}

func TestAnEnvironmentIsFreeWhenItsExtensionsHaveSettled(t *testing.T) {
	told := make(chan wire.Header, 1) // one value, so that the guest never waits
	settle := make(chan struct{})
	f := start(t, func(g *guest) {
		h := g.extended()
		<-settle
		g.say(g.control, wire.Header{Type: wire.Settled, RequestID: h.RequestID}, "")
		told <- g.hear(wire.Shutdown)
		g.say(g.control, wire.Header{Type: wire.Left}, "")
	})
	if res, reusable := f.invoke(t, `1`); string(res.Payload) != `1` || !reusable || !res.Unsettled || f.State() != Busy {
		t.Errorf("got %s, reusable %v, unsettled %v, %v", res.Payload, reusable, res.Unsettled, f.State())
	}
	close(settle)
	if !f.Settle() || f.State() != Idle {
		t.Errorf("it is %v", f.State())
	}
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	if h := <-told; h.Reason != endSpindown || time.Until(time.UnixMilli(h.DeadlineMs)) > internalGrace {
		t.Errorf("the guest was told %+v", h)
	}
}

func TestWhatBreaksWhileExtensionsSettleEndsTheEnvironment(t *testing.T) {
	for name, row := range map[string]struct {
		say  wire.Header
		want string
	}{
		"another invocation": {wire.Header{Type: wire.Settled, RequestID: "another"}, "Runtime.Unknown"},
		"a crash":            {wire.Header{Type: wire.Fault, ErrorType: "Extension.Crash", Failure: "exit status 1"}, "Error: exit status 1\nExtension.Crash\n"},
		"the runtime's end":  {wire.Header{Type: wire.Exited, Status: "exit status 3"}, "Error: Runtime exited with error: exit status 3\n"},
		"a reported failure": {wire.Header{Type: wire.Exited, Status: "exit status 3", ErrorType: "Extension.ExitError"}, "Extension.ExitError\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(g *guest) {
				g.extended()
				g.say(g.control, row.say, "")
				g.hear(wire.Shutdown)
				g.say(g.control, wire.Header{Type: wire.Left}, "")
			})
			f.invoke(t, `1`)
			if f.Settle() || f.State() != Stopping {
				t.Errorf("it is %v", f.State())
			}
			if err := f.Stop(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(f.book.String(), row.want) {
				t.Errorf("logged %s, want %s", f.book, row.want)
			}
		})
	}
}

func TestACrashOfAnExtensionFailsTheInvocation(t *testing.T) {
	f := start(t, func(g *guest) {
		g.say(g.control, wire.Header{Type: wire.Register}, "")
		g.ready()
		g.hear(wire.Registration)
		g.hear(wire.Initialized)
		g.say(g.control, wire.Header{Type: wire.Settled}, "")
		g.hear(wire.Event)
		g.say(g.control, wire.Header{Type: wire.Fault, ErrorType: "Extension.Crash", Failure: "signal: killed"}, "")
		if h := g.hear(wire.Shutdown); h.Reason != endFailure {
			t.Errorf("the guest was told %+v", h)
		}
		g.say(g.control, wire.Header{Type: wire.Left}, "")
	})
	res, reusable := f.invoke(t, `1`)
	wantFailure(t, res, "Extension.Crash", "signal: killed")
	if reusable || res.Unsettled {
		t.Errorf("reusable %v, unsettled %v", reusable, res.Unsettled)
	}
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
}

func TestNoFirstExtensionRegistersAfterInit(t *testing.T) {
	answered := make(chan wire.Header, 1) // one value, so that the guest never waits
	f := start(t, func(g *guest) {
		g.ready()
		h, body, _ := g.next()
		g.say(g.control, wire.Header{Type: wire.Register}, "")
		answered <- g.hear(wire.Registration)
		g.answer(h, string(body))
	})
	if res, _ := f.invoke(t, `1`); res.Unsettled {
		t.Error("an extension is awaited that must not register")
	}
	if h := <-answered; h.Failure == "" {
		t.Error("it may register")
	}
}

func TestTelemetryIsKeptDuringInitAndDroppedIfNobodyWantsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed()
		f.function([]byte("one\ntwo\n"))
		f.platform("platform.x", map[string]int{"n": 1})
		var sent []string
		tell := func(h wire.Header, body []byte) error {
			sent = append(sent, h.Category+" "+string(body))
			return nil
		}
		if f.send(tell); len(sent) != 0 {
			t.Errorf("sent %s before anybody has subscribed", sent)
		}
		if !f.begin() || f.begin() {
			t.Error("it does not begin once")
		}
		f.send(tell)
		want := []string{
			`function {"time":"2000-01-01T00:00:00.000Z","type":"function","record":"one"}` + "\n" +
				`{"time":"2000-01-01T00:00:00.000Z","type":"function","record":"two"}` + "\n",
			`platform {"time":"2000-01-01T00:00:00.000Z","type":"platform.x","record":{"n":1}}` + "\n",
		}
		if len(sent) != 2 || sent[0] != want[0] || sent[1] != want[1] {
			t.Errorf("sent %q, want %q", sent, want)
		}
		other := newFeed()
		other.function([]byte("one\n"))
		if !other.closeUnlessWanted() || other.begin() {
			t.Error("somebody may subscribe after INIT")
		}
		if other.function([]byte("two\n")); len(other.queue) != 0 {
			t.Errorf("%d events are kept for nobody", len(other.queue))
		}
	})
}

func TestTelemetryThatIsNotTakenIsBoundedAndSaysSo(t *testing.T) {
	f := newFeed()
	f.begin()
	line := []byte(strings.Repeat("x", 1<<10) + "\n")
	for range 2 * maxFeed >> 10 {
		f.function(line)
	}
	if f.bytes > maxFeed {
		t.Errorf("%d bytes are kept", f.bytes)
	}
	var last string
	f.send(func(_ wire.Header, body []byte) error { last = string(body); return nil })
	if !strings.Contains(last, `"type":"platform.logsDropped","record":{"droppedRecords":1024,"droppedBytes":1048576,`) {
		t.Errorf("sent last: %s", last)
	}
}
