package assignment

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"kiln"
)

// failTimes makes the INIT of d fail so often at a time.
func failTimes(b *breaker, d string, times int, now time.Time) {
	for range times {
		b.failed(d, now)
	}
}

func TestWhatFailsNowAndThenIsNotRefused(t *testing.T) {
	b, now := newBreaker(), at(0)
	for range 5 {
		failTimes(b, "d", tolerated-1, at(0))
		if err := b.check("d", at(0)); err != nil {
			t.Fatal(err)
		}
		b.observe("d", true, false, now)
	}
}

func TestWhatKeepsFailingIsRefusedForATimeThatDoubles(t *testing.T) {
	b := newBreaker()
	failTimes(b, "d", tolerated, at(0))
	now := at(0)
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		want *= time.Second
		err := b.check("d", now)
		e, ok := errors.AsType[*kiln.Error](err)
		if !ok || e.Kind != kiln.TooManyRequests || e.RetryAfter != want {
			t.Fatalf("got %v, want to be refused for %v", err, want)
		}
		if err := b.check("other", now); err != nil {
			t.Fatalf("another deployment is refused: %v", err)
		}
		now = now.Add(want)
		if err := b.check("d", now); err != nil {
			t.Fatalf("after %v: %v", want, err)
		}
		if err := b.check("d", now); err == nil {
			t.Fatal("two may try at once")
		}
		b.failed("d", now)
	}
	b.observe("d", true, false, now)
	if err := b.check("d", now); err != nil {
		t.Errorf("refused after it has worked: %v", err)
	}
}

func TestFailingDeploymentsAreBounded(t *testing.T) {
	b := newBreaker()
	for i := range maxFailing + 10 {
		b.failed(fmt.Sprint(i), at(0))
	}
	if len(b.failing) != maxFailing {
		t.Errorf("%d are remembered", len(b.failing))
	}
	b.failed("later", at(3600))
	if len(b.failing) != 1 {
		t.Errorf("%d are remembered an hour later, want the new one", len(b.failing))
	}
}
