package forecast

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// held are the minutes since now in which a level of f is held.
func held(f *Forecaster[string], level int, now time.Time) (minutes []int) {
	for m := range int(Horizon / Bin) {
		if f.Holds("f", level, now.Add(time.Duration(m)*Bin)) {
			minutes = append(minutes, m)
		}
	}
	return minutes
}

// callEvery calls f so many times, and returns the time of the last call.
func callEvery(f *Forecaster[string], times int, gap time.Duration, memoryMB int) time.Time {
	now := start
	for i := range times {
		now = start.Add(time.Duration(i) * gap)
		f.Called("f", 1, memoryMB, now)
	}
	return now
}

func TestAFunctionThatIsCalledRegularlyIsThereInTime(t *testing.T) {
	f := New[string](Config{Policy: DefaultPolicy()})
	now := callEvery(f, 10, 40*time.Minute, 512)
	minutes := held(f, 1, now)
	if fmt.Sprint(minutes) != "[0 39 40]" {
		t.Errorf("it is held in the minutes %v after a call", minutes)
	}
	if due := f.Due(now.Add(38*time.Minute), 10); len(due) != 0 {
		t.Errorf("too early %v is due", due)
	}
	if due := f.Due(now.Add(39*time.Minute), 10); len(due) != 1 || due[0] != "f" {
		t.Errorf("%v is due", due)
	}
	if due := f.Due(now.Add(40*time.Minute), 10); len(due) != 0 {
		t.Errorf("%v is due again", due)
	}
}

func TestACallMakesAnotherPlan(t *testing.T) {
	f := New[string](Config{Policy: DefaultPolicy()})
	now := callEvery(f, 10, 40*time.Minute, 512)
	f.Idle("f")
	f.Called("f", 1, 512, now.Add(5*time.Minute))
	if due := f.Due(now.Add(41*time.Minute), 10); len(due) != 0 {
		t.Errorf("%v is due by what was planned before", due)
	}
}

func TestWhatIsCalledOftenStays(t *testing.T) {
	f := New[string](Config{Policy: DefaultPolicy()})
	now := callEvery(f, 30, 3*time.Minute, 1024)
	if minutes := held(f, 1, now); fmt.Sprint(minutes) != "[0 2 3]" {
		t.Errorf("one that needs much is held in the minutes %v after a call", minutes)
	}
	f = New[string](Config{Policy: DefaultPolicy()})
	now = callEvery(f, 30, 3*time.Minute, 128)
	if minutes := held(f, 1, now); len(minutes) < 4 || minutes[3] != 3 {
		t.Errorf("one that needs little is held in the minutes %v", minutes)
	}
}

func TestWhatIsNotKnownStaysForAsLongAsItsMemoryIsWorth(t *testing.T) {
	longest := int(Horizon / Bin)
	for _, memoryMB := range []int{128, 512, 2048, 10240} {
		f := New[string](Config{Policy: DefaultPolicy()})
		f.Called("f", 1, memoryMB, start)
		n := len(held(f, 1, start))
		if n < 1 || n > longest {
			t.Errorf("one of %d MB is held for %d minutes, one that needs less for %d", memoryMB, n, longest)
		}
		longest = n
	}
	f := New[string](Config{Policy: DefaultPolicy()})
	f.Called("f", 1, 128, start)
	few := len(held(f, 1, start))
	f.SetPrice(DefaultPolicy().Price / 4)
	if many := len(held(f, 1, start)); many <= few {
		t.Errorf("where memory is worth less it is held for %d minutes, else for %d", many, few)
	}
	if f.Holds("another", 1, start) {
		t.Error("a function is held that was never called")
	}
}

func TestEveryLevelIsHeldForItself(t *testing.T) {
	f := New[string](Config{Policy: DefaultPolicy()})
	now := start
	for i := range 120 { // always one, and eight together each half an hour
		now = start.Add(time.Duration(i) * time.Minute)
		f.Called("f", 1, 128, now)
		if i%30 == 29 {
			for n := 2; n <= 8; n++ {
				f.Called("f", n, 128, now)
			}
		}
	}
	if one, eight := held(f, 1, now), held(f, 8, now); len(one) < 2 || one[1] != 1 || len(eight) == 0 || eight[len(eight)-1] != 30 {
		t.Errorf("one is held in %v, the eighth in %v", one, eight)
	}
	if f.Holds("f", 9, now) {
		t.Error("one is held that was never needed")
	}
}

func TestWhatHasChangedShows(t *testing.T) {
	f := New[string](Config{Policy: DefaultPolicy()})
	callEvery(f, 2000, 10*time.Minute, 512)
	now := start.Add(2000 * 10 * time.Minute)
	for range 400 {
		now = now.Add(90 * time.Minute)
		f.Called("f", 1, 512, now)
	}
	minutes := held(f, 1, now)
	if last := minutes[len(minutes)-1]; last != 90 {
		t.Errorf("it is held in the minutes %v", minutes)
	}
}

func TestTheNumberOfFunctionsIsBounded(t *testing.T) {
	f := New[int](Config{Policy: DefaultPolicy(), MaxFunctions: 3})
	for i := range 5 {
		f.Called(i, 1, 128, start)
	}
	f.Called(2, 1, 128, start)
	f.Called(5, 1, 128, start)
	f.Forget(4)
	for i, want := range []bool{false, false, true, false, false, true} {
		if got := f.Holds(i, 1, start); got != want {
			t.Errorf("function %d is known: %v", i, got)
		}
	}
	f.Forget(2)
	f.Forget(5)
	if len(f.functions) != 0 || f.order.Len() != 0 || len(f.coming) != 0 {
		t.Errorf("left: %+v", f)
	}
}

// mixed is a trace of functions that are called every so many minutes, more or less, or at random, or in the morning only.
func mixed(functions, minutes int) []Traced {
	random := rand.New(rand.NewPCG(1, 1))
	var all []Traced
	for i := range functions {
		fn := Traced{MemoryMB: 128 << random.IntN(3), Duration: 100 * time.Millisecond, Calls: make([]int, minutes)}
		every := 1 + random.IntN(100)
		for minute := random.IntN(every); minute < minutes; {
			fn.Calls[minute]++
			switch i % 3 {
			case 0:
				minute += every
			case 1:
				minute += 1 + random.IntN(2*every)
			default:
				minute += max(1, every+random.IntN(5)-2)
			}
		}
		all = append(all, fn)
	}
	return all
}

func TestTheForecastHasFewerColdStartsWithLessMemory(t *testing.T) {
	trace := mixed(100, 24*60)
	fixed := Replay(trace, &Fixed{Keep: 10 * time.Minute}, time.Second)
	learned := Replay(trace, NewLearning(DefaultPolicy()), time.Second)
	t.Logf("fixed %+v, forecast %+v", fixed, learned)
	if learned.Calls != fixed.Calls || 2*learned.Cold > fixed.Cold || learned.Idle > fixed.Idle {
		t.Errorf("fixed %+v, forecast %+v", fixed, learned)
	}
}

func TestReplayCountsWhatHappens(t *testing.T) {
	// Held for two minutes: the second call is warm, and two minutes in which it was not called, and the third is cold.
	trace := []Traced{{MemoryMB: 100, Duration: time.Second, Calls: []int{3, 0, 2, 0, 0, 0, 1}}}
	got := Replay(trace, &Fixed{Keep: 2 * time.Minute}, time.Minute)
	want := Outcome{Calls: 6, Cold: 2, Idle: 3 * 60 * 100, P99: time.Minute + time.Second}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func BenchmarkCalled(b *testing.B) {
	f := New[string](Config{Policy: DefaultPolicy()})
	b.ReportAllocs()
	for i := range b.N {
		f.Called("f", 1, 128, start.Add(time.Duration(i)*time.Second))
	}
}

func BenchmarkPlan(b *testing.B) {
	f := New[string](Config{Policy: DefaultPolicy()})
	b.ReportAllocs()
	for i := range b.N {
		now := start.Add(time.Duration(i) * time.Minute)
		f.Called("f", 1, 128, now)
		f.Holds("f", 1, now)
	}
}
