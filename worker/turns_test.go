package worker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
)

// start is one that takes so long once it is its turn.
type start struct {
	v     *kiln.Version
	takes time.Duration
}

func versionOf(account kiln.AccountID, f string) *kiln.Version {
	return &kiln.Version{Account: account, Function: kiln.FunctionName(f)}
}

// startAll takes turns for all starts at once, in processors of which that part is idle, and returns when each has begun.
func startAll(t *testing.T, starts []start, idle float64) (begun map[*kiln.Version][]time.Duration) {
	begun = make(map[*kiln.Version][]time.Duration)
	turns := newTurns(2, maxTurns, time.Second, func() float64 { return idle })
	turns.extra = 1
	ctx, cancel := context.WithCancel(t.Context())
	var running, wg sync.WaitGroup
	running.Go(func() { turns.run(ctx) })
	var mu sync.Mutex
	at := time.Now()
	for _, s := range starts {
		wg.Go(func() {
			over, err := turns.take(t.Context(), s.v)
			if err != nil {
				t.Error(err)
				return
			}
			defer over()
			mu.Lock()
			begun[s.v] = append(begun[s.v], time.Since(at))
			mu.Unlock()
			time.Sleep(s.takes)
		})
		synctest.Wait()
	}
	wg.Wait()
	cancel()
	running.Wait()
	if turns.free != 2 || turns.queue.Waiting() != 0 {
		t.Errorf("%d turns are free, %d wait", turns.free, turns.queue.Waiting())
	}
	return begun
}

func TestStartsTakeTurns(t *testing.T) {
	for name, c := range map[string]struct {
		idle float64
		want string
	}{
		// Two at a time, and one more each second while the processors are idle.
		"busy": {0.2, "[0s 0s 4s 4s 8s 8s]"},
		"idle": {0.3, "[0s 0s 1s 2s 3s 4s]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := versionOf("a", "f")
			var starts []start
			for range 6 {
				starts = append(starts, start{v, 4 * time.Second})
			}
			if got := fmt.Sprint(startAll(t, starts, c.idle)[v]); got != c.want {
				t.Errorf("%s processors: begun at %s, want %s", name, got, c.want)
			}
		})
	}
}

func TestWhoStartsMuchKeepsNobodyFromATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		much, another, victim := versionOf("a", "much"), versionOf("a", "another"), versionOf("b", "f")
		var starts []start
		for range 50 {
			starts = append(starts, start{much, 4 * time.Second})
		}
		begun := startAll(t, append(starts, start{another, time.Second}, start{victim, time.Second}), 0)
		if at := begun[victim][0]; at > 4*time.Second {
			t.Errorf("another account's start has begun after %v", at)
		}
		if at := begun[another][0]; at > 8*time.Second {
			t.Errorf("another function's start has begun after %v", at)
		}
	})
}

func TestWhoWaitsForATurnCanGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, maxTurns, time.Second, func() float64 { return 0 })
		over, err := turns.take(t.Context(), versionOf("a", "f"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := turns.take(ctx, versionOf("a", "f")); kiln.KindOf(err) != kiln.Unavailable {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		over()
		over() // counts once
		if turns.free != 1 || turns.queue.Waiting() != 0 {
			t.Errorf("%d turns are free, %d wait", turns.free, turns.queue.Waiting())
		}
	})
}

func TestOneTooManyDoesNotWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 2, time.Second, func() float64 { return 0 })
		over, err := turns.take(t.Context(), versionOf("a", "f"))
		if err != nil {
			t.Fatal(err)
		}
		refused := make(chan error, 4) // one value from each
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				over, err := turns.take(t.Context(), versionOf("a", "f"))
				if err != nil {
					refused <- err
					return
				}
				over()
			})
		}
		synctest.Wait()
		if n := len(refused); n != 2 {
			t.Errorf("%d of four are refused where two may wait", n)
		}
		over()
		wg.Wait()
		if n := len(refused); n != 2 || kiln.KindOf(<-refused) != kiln.Unavailable || turns.free != 1 {
			t.Errorf("%d are refused, %d turns are free", n, turns.free)
		}
	})
}

func TestNobodyWaitsForATurnOfANodeThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(0, maxTurns, time.Second, func() float64 { return 0 })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { turns.run(ctx) })
		wg.Go(func() {
			if _, err := turns.take(context.WithoutCancel(ctx), versionOf("a", "f")); kiln.KindOf(err) != kiln.Unavailable {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func TestTheTimesOfProcessorsAreRead(t *testing.T) {
	idle, all, err := readStat("cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4\n")
	if idle != 450 || all != 531 || err != nil {
		t.Errorf("%d of %d, %v", idle, all, err)
	}
	for _, text := range []string{"", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n"} {
		if _, _, err := readStat(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	var p processors
	p.idlePart()
	if part := p.idlePart(); part < 0 || part > 1 {
		t.Errorf("this machine is idle to %v", part)
	}
}
