package extensionapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// subscription is what an extension wants to be told, where and how.
type subscription struct {
	types []string
	port  int
	path  string

	maxItems, maxBytes int
	timeout            time.Duration
}

// bound is the range of a number of the buffering configuration, and its default
// (https://docs.aws.amazon.com/lambda/latest/dg/telemetry-api-reference.html).
type bound struct{ low, high, standard int }

var (
	itemBounds    = bound{1000, 10000, 10000}
	byteBounds    = bound{262144, 1048576, 262144}
	timeoutBounds = bound{25, 30000, 1000}
)

func (b bound) of(name string, n *int) (int, error) {
	if n == nil {
		return b.standard, nil
	}
	if *n < b.low || *n > b.high {
		return 0, fmt.Errorf("buffering.%s: %d is not between %d and %d", name, *n, b.low, b.high)
	}
	return *n, nil
}

// parseSubscription reads the body of a request to subscribe.
func parseSubscription(body []byte) (s subscription, err error) {
	var in struct {
		SchemaVersion string   `json:"schemaVersion"`
		Types         []string `json:"types"`
		Destination   struct {
			Protocol string `json:"protocol"`
			URI      string `json:"URI"`
		} `json:"destination"`
		Buffering struct {
			MaxItems  *int `json:"maxItems"`
			MaxBytes  *int `json:"maxBytes"`
			TimeoutMs *int `json:"timeoutMs"`
		} `json:"buffering"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return s, fmt.Errorf("failed to parse JSON: %w", err)
	}
	if !slices.Contains([]string{"2022-07-01", "2022-12-13", "2025-01-29"}, in.SchemaVersion) {
		return s, fmt.Errorf("schemaVersion: %q is not one of 2022-07-01, 2022-12-13, 2025-01-29", in.SchemaVersion)
	}
	if s.types, err = checkTypes(in.Types); err != nil {
		return s, err
	}
	if in.Destination.Protocol != "HTTP" {
		return s, fmt.Errorf("destination.protocol: %q is not supported, only HTTP is", in.Destination.Protocol)
	}
	if s.port, s.path, err = parseDestination(in.Destination.URI); err != nil {
		return s, err
	}
	timeout := 0
	for _, n := range []struct {
		to     *int
		name   string
		bounds bound
		value  *int
	}{
		{&s.maxItems, "maxItems", itemBounds, in.Buffering.MaxItems}, {&s.maxBytes, "maxBytes", byteBounds, in.Buffering.MaxBytes},
		{&timeout, "timeoutMs", timeoutBounds, in.Buffering.TimeoutMs},
	} {
		if *n.to, err = n.bounds.of(n.name, n.value); err != nil {
			return s, err
		}
	}
	s.timeout = time.Duration(timeout) * time.Millisecond
	return s, nil
}

func checkTypes(types []string) ([]string, error) {
	if len(types) == 0 {
		return nil, errors.New("types: at least one of platform, function, extension is required")
	}
	for _, t := range types {
		if t != "platform" && t != "function" && t != "extension" {
			return nil, fmt.Errorf("types: %q is not one of platform, function, extension", t)
		}
	}
	slices.Sort(types)
	return slices.Compact(types), nil
}

// reservedPort is where this API is.
const reservedPort = 9001

// parseDestination returns the port and path of a destination within the sandbox.
func parseDestination(uri string) (port int, path string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return 0, "", fmt.Errorf("could not parse destination.URI: %w", err)
	}
	if u.Scheme != "http" || !slices.Contains([]string{"sandbox.localdomain", "sandbox", "127.0.0.1", "localhost"}, u.Hostname()) {
		return 0, "", errors.New("destination.URI host must be sandbox.localdomain")
	}
	port, err = strconv.Atoi(u.Port())
	if err != nil || port < 1 || port > 65535 || port == reservedPort {
		return 0, "", fmt.Errorf("destination.URI: port %q cannot be used", u.Port())
	}
	return port, cmp.Or(u.EscapedPath(), "/"), nil
}

// maxEarly bounds in bytes what is kept of INIT for those who subscribe later.
const maxEarly = 256 << 10

// relay passes telemetry on to those who have subscribed.
type relay struct {
	deliver func(port int, path string, body []byte) error
	stop    chan struct{}
	senders sync.WaitGroup

	mu          sync.Mutex
	subscribers []*subscriber // +checklocks:mu
	// early are the events of INIT, for those who subscribe later.
	early      []event // +checklocks:mu
	earlyBytes int     // +checklocks:mu
	closed     bool    // +checklocks:mu
}

type event struct {
	category string
	json     []byte
}

func (r *relay) init(cfg Config) { r.deliver, r.stop = cfg.Deliver, make(chan struct{}) }

func (r *relay) close() {
	close(r.stop)
	r.senders.Wait()
}

// subscribe adds a subscriber, which replaces one of the same name, and reports whether it is still time for it.
func (r *relay) subscribe(name string, s subscription) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	i := slices.IndexFunc(r.subscribers, func(s *subscriber) bool { return s.name == name })
	if i < 0 {
		sub := &subscriber{name: name, deliver: r.deliver, wake: make(chan struct{}, 1)}
		sub.buffer.subscription = s
		r.subscribers = append(r.subscribers, sub)
		r.senders.Go(func() { sub.run(r.stop) })
		for _, e := range r.early {
			sub.take(e, time.Now())
		}
	} else {
		r.subscribers[i].change(s)
	}
	r.add(event{"platform", platformEvent("platform.telemetrySubscription", struct {
		Name  string   `json:"name"`
		State string   `json:"state"`
		Types []string `json:"types"`
	}{name, "Subscribed", s.types})})
	return true
}

func (r *relay) closeSubscriptions() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.early = true, nil
}

// platform adds an event of the platform's.
func (r *relay) platform(kind string, record any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(event{"platform", platformEvent(kind, record)})
}

// take adds the events of lines.
func (r *relay) take(category string, lines []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(lines) {
		r.add(event{category, bytes.Clone(bytes.TrimSuffix(line, []byte("\n")))})
	}
}

// +checklocks:r.mu
func (r *relay) add(e event) {
	if !r.closed && r.earlyBytes+len(e.json) <= maxEarly {
		r.early = append(r.early, e)
		r.earlyBytes += len(e.json)
	}
	for _, s := range r.subscribers {
		s.take(e, time.Now())
	}
}

// flush delivers what is buffered, and returns when that has been taken.
func (r *relay) flush() {
	r.mu.Lock()
	subscribers := slices.Clone(r.subscribers)
	r.mu.Unlock()
	var all sync.WaitGroup
	for _, s := range subscribers {
		all.Go(s.flush)
	}
	all.Wait()
}

// timeFormat is that of the times of telemetry.
const timeFormat = "2006-01-02T15:04:05.000Z"

func platformEvent(kind string, record any) []byte {
	return encode(struct {
		Time   string `json:"time"`
		Type   string `json:"type"`
		Record any    `json:"record"`
	}{time.Now().UTC().Format(timeFormat), kind, record})
}

// buffer keeps the events of one subscriber until they are due. It neither blocks nor reads a clock.
type buffer struct {
	subscription
	events [][]byte
	bytes  int
	since  time.Time
	// lost is what had no room.
	lostEvents, lostBytes int
}

// maxBacklog bounds what waits while a delivery is on its way, as a multiple of the size of a batch.
const maxBacklog = 2

// add keeps an event, or counts it as lost.
func (b *buffer) add(e []byte, now time.Time) {
	if b.bytes+len(e) > maxBacklog*b.maxBytes || len(b.events) >= maxBacklog*b.maxItems {
		b.lostEvents, b.lostBytes = b.lostEvents+1, b.lostBytes+len(e)
		return
	}
	if len(b.events) == 0 {
		b.since = now
	}
	b.events = append(b.events, e)
	b.bytes += len(e)
}

// due is how long it is until there is a batch to deliver; ok is false if there is nothing at all.
func (b *buffer) due(now time.Time) (d time.Duration, ok bool) {
	switch {
	case len(b.events) == 0:
		return 0, false
	case len(b.events) >= b.maxItems || b.bytes >= b.maxBytes:
		return 0, true
	}
	return max(0, b.since.Add(b.timeout).Sub(now)), true
}

// batch takes the events of one delivery, as a JSON array.
func (b *buffer) batch(now time.Time) []byte {
	n, size := 0, 0
	for n < len(b.events) && n < b.maxItems && (n == 0 || size+len(b.events[n]) <= b.maxBytes) {
		size += len(b.events[n])
		n++
	}
	out := append([]byte{'['}, bytes.Join(b.events[:n], []byte{','})...)
	b.events, b.bytes, b.since = slices.Clone(b.events[n:]), b.bytes-size, now
	return append(out, ']')
}

// subscriber delivers to one extension.
type subscriber struct {
	name    string
	deliver func(port int, path string, body []byte) error
	// wake tells run to look at the buffer; one token is enough.
	wake chan struct{}
	// sending is held during a delivery.
	sending sync.Mutex

	mu     sync.Mutex
	buffer buffer // +checklocks:mu
}

func (s *subscriber) change(to subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffer.subscription = to
}

// take adds an event, if it is of a type that is wanted.
func (s *subscriber) take(e event, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.buffer.types, e.category) {
		return
	}
	first := len(s.buffer.events) == 0
	s.buffer.add(e.json, now)
	if d, _ := s.buffer.due(now); !first && d > 0 {
		return // run knows when to look
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run delivers what is due until stop is closed.
func (s *subscriber) run(stop <-chan struct{}) {
	for {
		s.mu.Lock()
		d, ok := s.buffer.due(time.Now())
		s.mu.Unlock()
		if ok && d <= 0 {
			s.send()
			continue
		}
		var tick <-chan time.Time
		if ok {
			tick = time.After(d)
		}
		select {
		case <-tick:
		case <-s.wake:
		case <-stop:
			return
		}
	}
}

// send delivers one batch. What cannot be delivered is lost, and the next batch says so.
func (s *subscriber) send() {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	if len(s.buffer.events) == 0 {
		s.mu.Unlock()
		return
	}
	n := len(s.buffer.events)
	body := s.buffer.batch(time.Now())
	n -= len(s.buffer.events)
	to := s.buffer.subscription
	s.mu.Unlock()
	err := s.deliver(to.port, to.path, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.buffer.lostEvents, s.buffer.lostBytes = s.buffer.lostEvents+n, s.buffer.lostBytes+len(body)
	}
	if s.buffer.lostEvents > 0 && err == nil {
		s.buffer.add(platformEvent("platform.logsDropped", struct {
			Records int    `json:"droppedRecords"`
			Bytes   int    `json:"droppedBytes"`
			Reason  string `json:"reason"`
		}{s.buffer.lostEvents, s.buffer.lostBytes, "Consumer seems to have fallen behind as it has not acknowledged receipt of logs."}), time.Now())
		s.buffer.lostEvents, s.buffer.lostBytes = 0, 0
	}
}

// flush delivers all that is there now.
func (s *subscriber) flush() {
	for range maxBacklog + 1 {
		s.send()
	}
}
