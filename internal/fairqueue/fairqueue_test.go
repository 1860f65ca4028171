package fairqueue

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func queue(maxWaiting int) *Queue[string] {
	return New[string](Config{MaxWaiting: maxWaiting, Quantum: time.Second, Memory: 10 * time.Second})
}

func push(t *testing.T, q *Queue[string], now time.Time, f Flow, item string) *Waiter[string] {
	t.Helper()
	w, out := q.Push(now, f, Foreground, item)
	if out != nil {
		t.Fatalf("%q was driven out by %q", out.Item, item)
	}
	return w
}

func wantNext(t *testing.T, q *Queue[string], now time.Time, items ...string) {
	t.Helper()
	for _, want := range items {
		w := q.Next(now)
		if w == nil || w.Item != want {
			t.Fatalf("next is %+v, want %q", w, want)
		}
	}
}

var (
	a1 = Flow{"a", "1"}
	a2 = Flow{"a", "2"}
	b1 = Flow{"b", "1"}
	b2 = Flow{"b", "2"}
)

func TestWaitersOfOneFlowAreServedInOrder(t *testing.T) {
	q := queue(10)
	for i := range 3 {
		push(t, q, at(0), a1, fmt.Sprint(i))
	}
	wantNext(t, q, at(0), "0", "1", "2")
	if w := q.Next(at(0)); w != nil || q.Waiting() != 0 {
		t.Errorf("next of an empty queue is %+v, %d wait", w, q.Waiting())
	}
}

func TestWhoHasHeldLeastIsNext(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 3)
	q.Hold(at(0), b1, 1)
	push(t, q, at(time.Second), a1, "a")
	push(t, q, at(time.Second), b1, "b")
	wantNext(t, q, at(time.Second), "b", "a")
}

func TestTenantsShareBeforeTheirKeys(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 2)
	q.Hold(at(0), b2, 1)
	now := at(time.Second)
	push(t, q, now, a2, "a2 holds nothing, its tenant 2")
	push(t, q, now, b2, "b2 holds 1, and so its tenant")
	push(t, q, now, b1, "b1 holds nothing, its tenant 1")
	wantNext(t, q, now, "b1 holds nothing, its tenant 1", "b2 holds 1, and so its tenant", "a2 holds nothing, its tenant 2")
}

func TestWhatWasHeldBeforeAShortageDoesNotCount(t *testing.T) {
	q := queue(10)
	q.Hold(at(0), a1, 1)
	q.Hold(at(time.Hour), b1, 2)
	q.Short(at(time.Hour))
	now := at(time.Hour + time.Second)
	push(t, q, now, b1, "b")
	push(t, q, now, a1, "a")
	wantNext(t, q, now, "a", "b")
}

func TestShortageIsForgottenAfterAWhile(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 5)
	q.Hold(at(0), b1, 1)
	if q.Owes(at(time.Second), b1, a1, 1, at(0)) || !q.Owes(at(time.Second), a1, b1, 1, at(0)) {
		t.Error("b owes a, which holds more")
	}
	if !q.Owes(at(11*time.Second), b1, a1, 1, at(0)) {
		t.Error("b owes a nothing though nobody has been short for long")
	}
}

func TestNoClaimsAreGatheredWithoutWaiting(t *testing.T) {
	q := queue(100)
	q.Short(at(0))
	q.Hold(at(0), a1, 1)
	push(t, q, at(time.Minute), a1, "a1")
	wantNext(t, q, at(time.Minute), "a1")
	// b comes after a has held for a minute: each gets one in turn, not b all of the next minute.
	q.Hold(at(time.Minute), a1, -1)
	served := map[string]int{}
	now := at(time.Minute)
	for range 20 {
		push(t, q, now, a1, "a")
		push(t, q, now, b1, "b")
	}
	for range 20 {
		w := q.Next(now)
		served[w.Item]++
		q.Hold(now, w.Flow, 1)
		now = now.Add(time.Second)
		q.Hold(now, w.Flow, -1)
	}
	if d := served["a"] - served["b"]; d < -1 || d > 1 {
		t.Errorf("served %v", served)
	}
}

func TestOwnFlowKeepsWhatItLetsGoWithinTheQuantum(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 2)
	q.Hold(at(0), b1, 1)
	push(t, q, at(0), a1, "a")
	push(t, q, at(0), b1, "b")
	// a has held more by half a unit-second, then by one and a half, and holds one more.
	w, own := q.NextOf(at(500*time.Millisecond), a1, 1, at(0))
	if !own || w.Item != "a" {
		t.Fatalf("within the quantum %q was served", w.Item)
	}
	push(t, q, at(time.Second), a1, "a")
	w, own = q.NextOf(at(1500*time.Millisecond), a1, 1, at(0))
	if own || w.Item != "b" {
		t.Errorf("beyond the quantum %q was served", w.Item)
	}
}

func TestWhoHoldsNothingIsServedWhenAnotherHasHadItsQuantum(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 1)
	push(t, q, at(0), a1, "a")
	push(t, q, at(0), a1, "a")
	push(t, q, at(0), b1, "b")
	if w, own := q.NextOf(at(999*time.Millisecond), a1, 1, at(0)); !own || w.Item != "a" {
		t.Errorf("within the quantum %q was served", w.Item)
	}
	if w, own := q.NextOf(at(time.Second), a1, 1, at(0)); own || w.Item != "b" {
		t.Errorf("after the quantum %q was served", w.Item)
	}
}

func TestWhoHasOneKeepsItWhereOthersHaveMore(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 1)
	q.Hold(at(0), a2, 3)
	newcomer := Flow{Tenant: a1.Tenant, Key: "new"}
	push(t, q, at(60*time.Second), newcomer, "new") // it begins where those are who have had least
	now := at(63 * time.Second)
	if q.Owes(now, a1, newcomer, 1, at(0)) {
		t.Error("who has one owes it to a newcomer soon")
	}
	if !q.Owes(at(80*time.Second), a1, newcomer, 1, at(0)) {
		t.Error("who has one never owes it to a newcomer")
	}
	if !q.Owes(now, a2, newcomer, 1, at(0)) {
		t.Error("who has three owes none of them to a newcomer")
	}
}

func TestWhoIsBehindKeepsWhatItHasForItself(t *testing.T) {
	q := queue(10)
	q.Short(at(0))
	q.Hold(at(0), a1, 3)
	q.Hold(at(0), b1, 1)
	push(t, q, at(time.Second), a1, "a")
	if w, _ := q.NextOf(at(time.Second), b1, 1, at(0)); w != nil {
		t.Errorf("%q got what b holds, which holds less", w.Item)
	}
	wantNext(t, q, at(time.Second), "a")
}

func TestBackgroundKeepsATenth(t *testing.T) {
	q := queue(1000)
	served := [2]int{}
	for range 500 {
		for c := range classes {
			if _, out := q.Push(at(0), a1, c, "x"); out != nil {
				t.Fatal("driven out")
			}
		}
	}
	now := at(0)
	for range 200 {
		w := q.Next(now)
		q.Serving(now, w.Class, 1)
		now = now.Add(time.Second)
		q.Serving(now, w.Class, -1)
		served[w.Class]++
	}
	if n := served[Background]; n < 19 || n > 21 {
		t.Errorf("%d of 200 were background, want 20", n)
	}
}

func TestOneTooManyDrivesOutTheNewestOfTheLongest(t *testing.T) {
	q := queue(3)
	for i := range 3 {
		push(t, q, at(0), a1, fmt.Sprint("a", i))
	}
	if w, out := q.Push(at(0), b1, Foreground, "b"); out == nil || out == w || out.Item != "a2" {
		t.Errorf("b drove out %+v, want a2", out)
	}
	if w, out := q.Push(at(0), a1, Foreground, "a3"); out != w {
		t.Errorf("a3 drove out %+v, want itself", out)
	}
	if q.Waiting() != 3 {
		t.Errorf("%d wait, want 3", q.Waiting())
	}
}

func TestReturnedWaiterIsFirstAgain(t *testing.T) {
	q := queue(10)
	push(t, q, at(0), a1, "1")
	push(t, q, at(0), a1, "2")
	q.Return(at(0), q.Next(at(0)))
	wantNext(t, q, at(0), "1", "2")
}

// TestCountsHoldWhateverHappens holds a queue against a plain list of who waits, and finds it empty in the end.
func TestCountsHoldWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := New[int](Config{MaxWaiting: 8, Quantum: time.Second, Memory: 5 * time.Second})
		now, waiting, held := start, map[*Waiter[int]]bool{}, map[Flow]int{}
		flow := rapid.Custom(func(t *rapid.T) Flow {
			return Flow{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant"), rapid.SampledFrom([]string{"1", "2"}).Draw(t, "key")}
		})
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if q.Waiting() != len(waiting) || len(waiting) > 8 {
					t.Fatalf("%d wait, want %d", q.Waiting(), len(waiting))
				}
			},
			"pass": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 8000).Draw(t, "ms")) * time.Millisecond)
			},
			"short": func(*rapid.T) { q.Short(now) },
			"hold": func(t *rapid.T) {
				f := flow.Draw(t, "flow")
				held[f]++
				q.Hold(now, f, 1)
			},
			"let go": func(t *rapid.T) {
				if f := flow.Draw(t, "flow"); held[f] > 0 {
					held[f]--
					q.Hold(now, f, -1)
				}
			},
			"push": func(t *rapid.T) {
				w, out := q.Push(now, flow.Draw(t, "flow"), Class(rapid.IntRange(0, 1).Draw(t, "class")), 0)
				waiting[w] = true
				if out != nil {
					if !waiting[out] {
						t.Fatal("one that did not wait was driven out")
					}
					delete(waiting, out)
				}
			},
			"next": func(t *rapid.T) {
				w := q.Next(now)
				if w == nil && len(waiting) > 0 || w != nil && !waiting[w] {
					t.Fatalf("next is %+v of %d", w, len(waiting))
				}
				delete(waiting, w)
			},
			"next of": func(t *rapid.T) {
				f := flow.Draw(t, "flow")
				w, own := q.NextOf(now, f, 1, start)
				if w != nil && (!waiting[w] || own != (w.Flow == f)) || w == nil && !own {
					t.Fatalf("next is %+v of %d", w, len(waiting))
				}
				delete(waiting, w)
			},
			"remove": func(t *rapid.T) {
				for w := range waiting {
					if !q.Remove(w) || q.Remove(w) {
						t.Fatal("a waiter was not removed, or twice")
					}
					delete(waiting, w)
					return
				}
			},
		})
		for w := range waiting {
			q.Remove(w)
		}
		for f, n := range held {
			q.Hold(now, f, float64(-n))
		}
		q.sweep()
		if len(q.tenants) != 0 || q.keys != 0 {
			t.Fatalf("%d tenants and %d keys are left", len(q.tenants), q.keys)
		}
	})
}

func BenchmarkNextOfTenThousandWaiters(b *testing.B) {
	for _, flows := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			q := New[int](Config{MaxWaiting: 20_000, Quantum: time.Second, Memory: time.Minute})
			now := start
			for i := range 10_000 {
				q.Push(now, Flow{fmt.Sprint(i % flows % 100), fmt.Sprint(i % flows)}, Foreground, i)
			}
			for b.Loop() {
				now = now.Add(time.Millisecond)
				w := q.Next(now)
				q.Push(now, w.Flow, Foreground, 0)
			}
		})
	}
}

func TestLittleChangesHandsAtATime(t *testing.T) {
	for name, c := range map[string]struct {
		holds int // of the one who waits
		want  int
	}{"who has some": {1, 10}, "who has nothing": {0, 80}} {
		q := New[string](Config{MaxWaiting: 1000, Quantum: time.Second, Pause: 10 * time.Second, Memory: time.Minute})
		rich, poor := Flow{"a", "rich"}, Flow{"b", "poor"}
		q.Hold(start, rich, 1000)
		q.Hold(start, poor, float64(c.holds))
		q.Short(start)
		for range 1000 {
			q.Push(start, poor, Foreground, "poor")
		}
		handed := 0
		for ms := time.Second; ms <= 101*time.Second; ms += 10 * time.Millisecond {
			if w, own := q.NextOf(start.Add(ms), rich, 1, start); w != nil && !own {
				handed++
			}
		}
		if handed < c.want || handed > c.want+1 {
			t.Errorf("in 100 s %d changed hands for one %s, want %d", handed, name, c.want)
		}
	}
}
