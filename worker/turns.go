package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"kiln"
	"kiln/internal/fairqueue"
)

const (
	// startsPerProcessor is how many starts may be under way for each processor: more at once would all take longer, each time-out of INIT
	// among them, than one after the other.
	startsPerProcessor = 2
	// moreEvery is how often, while some wait, it is looked whether the processors are idle, because those that start wait for something
	// else.
	moreEvery = 50 * time.Millisecond
	// idleEnough is the idle part of the processors' time from which on another may start for each of them.
	idleEnough = 0.25
	// maxTurns is how many starts may wait: more than a machine has memory for. By it the queue also bounds what it remembers.
	maxTurns = 10_000
)

// turns lets environments start when it is their turn. Who waits is served by what accounts, and their functions, have under way.
type turns struct {
	// extra is how many may start beyond the rest while the processors are idle, each time that it is looked.
	extra int
	// looks is how often it is looked whether they are, by idle.
	looks time.Duration
	idle  func() float64

	mu    sync.Mutex
	free  int                            // +checklocks:mu less than 0 if more were let start
	queue *fairqueue.Queue[chan<- error] // +checklocks:mu
	// some is told that one waits; one token is enough.
	some chan struct{}
}

func newTurns(starts, waiting int, looks time.Duration, idle func() float64) *turns {
	return &turns{
		extra: runtime.NumCPU(), looks: looks, idle: idle, free: starts, some: make(chan struct{}, 1),
		queue: fairqueue.New[chan<- error](fairqueue.Config{MaxWaiting: waiting, Quantum: time.Second, Memory: 10 * time.Second}),
	}
}

func flowOf(v *kiln.Version) fairqueue.Flow {
	return fairqueue.Flow{Tenant: string(v.Account), Key: string(v.Function)}
}

// take waits for a turn, which ends with over.
func (t *turns) take(ctx context.Context, v *kiln.Version) (over func(), err error) {
	over = sync.OnceFunc(func() { t.giveBack(v) })
	t.mu.Lock()
	if t.free > 0 {
		t.grant(time.Now(), flowOf(v))
		t.mu.Unlock()
		return over, nil
	}
	turn := make(chan error, 1) // the one word that it is told
	w, out := t.queue.Push(time.Now(), flowOf(v), fairqueue.Foreground, turn)
	if out != nil {
		out.Item <- errBusy(errors.New("too many wait"))
	}
	t.mu.Unlock()
	select {
	case t.some <- struct{}{}:
	default:
	}
	select {
	case err := <-turn:
		return over, err
	case <-ctx.Done():
	}
	t.mu.Lock()
	waited := t.queue.Remove(w)
	t.mu.Unlock()
	if !waited {
		return over, <-turn // it has just come
	}
	return nil, errBusy(ctx.Err())
}

func errBusy(cause error) error {
	return &kiln.Error{
		Kind: kiln.Unavailable, Message: "The node is busy with starting other execution environments. Please try again.", Cause: cause,
	}
}

// grant counts a start as under way.
//
// +checklocks:t.mu
func (t *turns) grant(now time.Time, f fairqueue.Flow) {
	t.free--
	t.queue.Hold(now, f, 1)
}

func (t *turns) giveBack(v *kiln.Version) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	now := time.Now()
	t.queue.Hold(now, flowOf(v), -1)
	if t.free > 0 {
		t.next(now)
	}
}

// next lets the next who waits start, if anybody does.
//
// +checklocks:t.mu
func (t *turns) next(now time.Time) {
	if w := t.queue.Next(now); w != nil {
		t.grant(now, w.Flow)
		w.Item <- nil
	}
}

// run lets more start while the processors are idle, until ctx ends, and then nobody any more.
func (t *turns) run(ctx context.Context) {
	defer t.refuseAll()
	for {
		select {
		case <-t.some:
		case <-ctx.Done():
			return
		}
		for t.idle(); t.waiting() > 0; { // what was idle before does not count
			select {
			case <-time.After(t.looks):
			case <-ctx.Done():
				return
			}
			if t.idle() >= idleEnough {
				t.more()
			}
		}
	}
}

func (t *turns) more() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range t.extra {
		t.next(time.Now())
	}
}

func (t *turns) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queue.Waiting()
}

func (t *turns) refuseAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for now := time.Now(); t.queue.Waiting() > 0; {
		t.queue.Next(now).Item <- errDraining()
	}
}

// processors reads how idle the machine's processors are.
type processors struct{ idle, all uint64 }

// idlePart is the idle part of the time since the last call, 0 if it is not known: then nothing is lost but time.
func (p *processors) idlePart() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	idle, all, err := readStat(string(text))
	if err != nil || all <= p.all {
		return 0
	}
	part := float64(idle-p.idle) / float64(all-p.all)
	*p = processors{idle, all}
	return part
}

// readStat returns the idle time and all time in the first line of proc(5)'s stat. The columns are user, nice, system, idle, iowait, irq,
// softirq and steal; the two after them are in the first already.
func readStat(text string) (idle, all uint64, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	const columns = 8
	if len(fields) < 1+columns || fields[0] != "cpu" {
		return 0, 0, errors.New("not the times of processors")
	}
	for i, f := range fields[1 : 1+columns] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("times of processors: %w", err)
		}
		all += n
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, all, nil
}
