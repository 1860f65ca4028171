package environment

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"

	"kiln/worker/wire"
)

// Bounds of the telemetry that waits to be sent, and of what is sent at once.
const (
	maxFeed  = 1 << 20
	maxFrame = 256 << 10
)

// feed is the telemetry of an environment on its way to extensions that have subscribed to it
// (https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html). During INIT it is kept, because an extension may
// subscribe to what was before; afterwards there is none unless somebody has subscribed.
type feed struct {
	// wake tells run that there is something; one token is enough.
	wake chan struct{}
	stop chan struct{}
	// sending keeps the order.
	sending sync.Mutex

	mu    sync.Mutex
	queue []telemetryEvent // +checklocks:mu
	bytes int              // +checklocks:mu
	lost  telemetryLoss    // +checklocks:mu
	// wanted is set when somebody has subscribed, and over when nobody has in time.
	wanted, over, ended bool // +checklocks:mu
}

// telemetryEvent is one event. Its record is JSON, or a line of a log.
type telemetryEvent struct {
	at       time.Time
	category string
	kind     string
	record   []byte
	line     bool
}

type telemetryLoss struct {
	Records int    `json:"droppedRecords"`
	Bytes   int    `json:"droppedBytes"`
	Reason  string `json:"reason"`
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1), stop: make(chan struct{})} }

func (f *feed) function(lines []byte)  { f.lines("function", lines) }
func (f *feed) extension(lines []byte) { f.lines("extension", lines) }

func (f *feed) lines(category string, lines []byte) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	for l := range bytes.Lines(lines) {
		f.add(telemetryEvent{at: now, category: category, kind: category, record: bytes.Clone(bytes.TrimSuffix(l, []byte("\n"))), line: true})
	}
}

// platform adds an event of the platform's. The record must be such that it can be encoded.
func (f *feed) platform(kind string, record any) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	b, err := json.Marshal(record)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	f.add(telemetryEvent{at: now, category: "platform", kind: kind, record: b})
}

// +checklocks:f.mu
func (f *feed) add(e telemetryEvent) {
	if f.bytes+len(e.record) > maxFeed {
		f.lost.Records++
		f.lost.Bytes += len(e.record)
		return
	}
	f.queue = append(f.queue, e)
	f.bytes += len(e.record)
	if f.wanted {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// begin says that somebody has subscribed, and reports whether run has to be called.
func (f *feed) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := !f.wanted && !f.over && !f.ended
	if first {
		f.wanted = true
		f.wake <- struct{}{} // empty until now
	}
	return first
}

// closeUnlessWanted drops the telemetry if nobody has subscribed to it: from now on nobody can.
func (f *feed) closeUnlessWanted() (closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wanted {
		return false
	}
	f.over, f.queue = true, nil
	return true
}

// run sends what comes until end is called or the line breaks.
func (f *feed) run(tell func(wire.Header, []byte) error) {
	for {
		select {
		case <-f.stop:
			return
		case <-f.wake:
		}
		if !f.send(tell) {
			return
		}
	}
}

// end lets run return.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.ended = true
		close(f.stop)
	}
}

// send sends what waits, if somebody has subscribed. It returns false if the line is broken.
func (f *feed) send(tell func(wire.Header, []byte) error) bool {
	f.sending.Lock()
	defer f.sending.Unlock()
	events := f.take()
	for len(events) > 0 {
		var body []byte
		category := events[0].category
		n := 0
		for n < len(events) && events[n].category == category && (n == 0 || len(body) < maxFrame) {
			body = append(events[n].encode(body), '\n')
			n++
		}
		events = events[n:]
		if tell(wire.Header{Type: wire.Telemetry, Category: category}, body) != nil {
			return false
		}
	}
	return true
}

func (f *feed) take() []telemetryEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.wanted {
		return nil
	}
	events := f.queue
	if f.lost.Records > 0 {
		f.lost.Reason = "Consumer seems to have fallen behind as it has not acknowledged receipt of logs."
		record, err := json.Marshal(f.lost)
		if err != nil {
			panic(err) // strings and numbers always encode
		}
		events = append(events, telemetryEvent{at: time.Now(), category: "platform", kind: "platform.logsDropped", record: record})
	}
	f.queue, f.bytes, f.lost = nil, 0, telemetryLoss{}
	return events
}

// telemetryTime is the format of the times of telemetry.
const telemetryTime = "2006-01-02T15:04:05.000Z"

// encode appends the event's JSON to b.
func (e telemetryEvent) encode(b []byte) []byte {
	record := any(json.RawMessage(e.record))
	if e.line {
		record = string(e.record)
	}
	text, err := json.Marshal(struct {
		Time   string `json:"time"`
		Type   string `json:"type"`
		Record any    `json:"record"`
	}{e.at.UTC().Format(telemetryTime), e.kind, record})
	if err != nil {
		panic(err) // strings and sound JSON always encode
	}
	return append(b, text...)
}
