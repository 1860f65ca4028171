package environment

import (
	"bytes"
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
)

// Bounds of what a function may log. A line above maxLine is split, as CloudWatch bounds an event at 256 KB. Above the rate
// the pipe is read no faster, so that the writer waits: nothing is lost, and a flood costs the host little.
const (
	maxLine  = 256 << 10
	logRate  = 4 << 20 // bytes per second
	logBurst = 8 << 20 // bytes
)

// LogSink takes the log of an environment, whole lines. It must not keep or change the bytes, and must not block.
type LogSink func(lines []byte)

// capture reads what a sandbox's processes write to stdout and stderr.
//
// The function writes its lines before its answer, and a write to the pipe is finished before the answer is sent: so what
// belongs to an invocation is in the pipe when the answer arrives, and drain takes all of it.
type capture struct {
	pipe *os.File
	raw  syscall.RawConn
	// sink is set before run is called.
	sink LogSink

	// order keeps the sink's calls in the order of the log. It is taken before mu.
	order sync.Mutex

	mu      sync.Mutex
	buf     []byte      // +checklocks:mu scratch for reads
	partial []byte      // +checklocks:mu the last line, without its end
	pending []byte      // +checklocks:mu whole lines not yet handed to sink
	tail    []byte      // +checklocks:mu the end of the current invocation's log
	rate    tokenBucket // +checklocks:mu
	// tap, unless it is nil, is shown the lines that were read. It must not keep them, and must not block.
	tap func(lines []byte) // +checklocks:mu
}

// newCapture returns a capture that has yet to be given its sink.
func newCapture(pipe *os.File) (*capture, error) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &capture{pipe: pipe, raw: raw, buf: make([]byte, 32<<10)}, nil
}

// run reads until the pipe is closed on either side, or ctx ends.
func (c *capture) run(ctx context.Context) {
	for {
		var wait time.Duration
		open := true
		err := c.raw.Read(func(fd uintptr) bool {
			var n int
			n, open = c.read(fd)
			wait = c.debt(time.Now())
			return n > 0 || !open
		})
		if err != nil || !open {
			return
		}
		c.handOn()
		if !sleep(ctx, wait) {
			return
		}
	}
}

// drain takes everything that is in the pipe now.
func (c *capture) drain() {
	// The error is that the pipe is closed: then there is nothing to take.
	_ = c.raw.Control(func(fd uintptr) {
		// A writer that never stops must not hold the answer back: a pipe's whole capacity was written before the answer.
		for taken := 0; taken < 64<<10; {
			n, open := c.read(fd)
			if n <= 0 || !open {
				return
			}
			taken += n
		}
	})
}

// read takes one buffer's worth from the pipe. open is false at its end.
func (c *capture) read(fd uintptr) (n int, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := unix.Read(int(fd), c.buf) // non-blocking: the runtime's poller waits, not this call
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, true
	}
	if err != nil || n == 0 {
		return 0, false
	}
	c.rate.take(n, time.Now())
	c.split(c.buf[:n])
	return n, true
}

// split appends b, which is shorter than the longest line, to the log. Lines that are whole in b are added together: many short
// ones are to cost no more than a few long ones.
//
// +checklocks:c.mu
func (c *capture) split(b []byte) {
	if len(c.partial) > 0 {
		b = c.complete(b)
	}
	end := bytes.LastIndexByte(b, '\n') + 1
	c.own(b[:end])
	c.partial = append(c.partial, b[end:]...)
}

// complete gives the line that has begun as much of b as belongs to it, and returns the rest.
//
// +checklocks:c.mu
func (c *capture) complete(b []byte) []byte {
	end := bytes.IndexByte(b, '\n') + 1
	if end == 0 {
		end = len(b)
	}
	end = min(end, maxLine-len(c.partial))
	c.partial = append(c.partial, b[:end]...)
	if c.partial[len(c.partial)-1] == '\n' || len(c.partial) >= maxLine {
		c.flushPartial()
	}
	return b[end:]
}

// line adds one line, ending it if it has no end.
//
// +checklocks:c.mu
func (c *capture) line(l []byte) {
	if l[len(l)-1] != '\n' {
		l = append(bytes.Clone(l), '\n')
	}
	c.own(l)
}

// own adds lines that were read.
//
// +checklocks:c.mu
func (c *capture) own(b []byte) {
	if c.tap != nil && len(b) > 0 {
		c.tap(b)
	}
	c.add(b)
}

// insert adds whole lines of another pipe.
func (c *capture) insert(lines []byte) {
	c.mu.Lock()
	c.add(lines)
	c.mu.Unlock()
	c.handOn()
}

// show sets tap, which may be nil.
func (c *capture) show(tap func(lines []byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tap = tap
}

// +checklocks:c.mu
func (c *capture) add(b []byte) {
	c.pending = append(c.pending, b...)
	c.tail = append(c.tail, b[max(0, len(b)-kiln.MaxLogTail):]...)
	if over := len(c.tail) - kiln.MaxLogTail; over > 0 {
		c.tail = c.tail[:copy(c.tail, c.tail[over:])]
	}
}

// platform adds a line of the platform's own after what the function wrote so far.
func (c *capture) platform(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushPartial()
	c.add([]byte(s))
}

// +checklocks:c.mu
func (c *capture) flushPartial() {
	if len(c.partial) > 0 {
		c.line(c.partial)
		c.partial = c.partial[:0]
	}
}

// begin starts a new tail with the platform's START line, and keeps what INIT logged before it.
func (c *capture) begin(start string, keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushPartial()
	if !keep {
		c.tail = c.tail[:0]
	}
	c.add([]byte(start))
}

// end adds the platform's last lines, hands everything on and returns a copy of the tail.
func (c *capture) end(lines string) []byte {
	c.platform(lines)
	c.handOn()
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.tail)
}

// handOn gives the whole lines so far to the sink.
func (c *capture) handOn() {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	lines := c.pending
	c.pending = nil
	c.mu.Unlock()
	if len(lines) > 0 {
		c.sink(lines)
	}
}

// debt is how long the pipe must rest for the rate to hold.
func (c *capture) debt(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rate.debt(now)
}

// tokenBucket lets logBurst bytes through at once and logRate bytes per second in the long run. The zero value is full.
type tokenBucket struct {
	spent   float64
	updated time.Time
}

func (t *tokenBucket) take(n int, now time.Time) {
	t.spent = max(0, t.spent-now.Sub(t.updated).Seconds()*logRate) + float64(n)
	t.updated = now
}

// debt is how long to wait until the bucket is not overdrawn.
func (t *tokenBucket) debt(now time.Time) time.Duration {
	over := t.spent - now.Sub(t.updated).Seconds()*logRate - logBurst
	return time.Duration(max(0, over) / logRate * float64(time.Second))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
