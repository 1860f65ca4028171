package admission

import (
	"errors"
	"sync"
	"testing"

	"kiln"
)

func TestLimitHoldsPerAccount(t *testing.T) {
	l := NewLimiter(2)
	a1, err1 := l.Acquire("111111111111")
	_, err2 := l.Acquire("111111111111")
	if err1 != nil || err2 != nil {
		t.Fatalf("below the limit: %v, %v", err1, err2)
	}
	_, err := l.Acquire("111111111111")
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok || e.Kind != kiln.TooManyRequests || e.Reason != "ConcurrentInvocationLimitExceeded" || e.RetryAfter <= 0 {
		t.Fatalf("above the limit: %#v", err)
	}
	if _, err := l.Acquire("222222222222"); err != nil {
		t.Errorf("another account is held to the first one's use: %v", err)
	}
	a1.Release()
	if _, err := l.Acquire("111111111111"); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

func TestReleasedTwicePanics(t *testing.T) {
	l := NewLimiter(1)
	lease, err := l.Acquire("111111111111")
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	defer func() {
		if recover() == nil {
			t.Error("a second release went unnoticed")
		}
	}()
	lease.Release()
}

func TestNeverMoreThanTheLimitRuns(t *testing.T) {
	const limit, callers, calls = 5, 20, 500
	l := NewLimiter(limit)
	var mu sync.Mutex
	running, most := 0, 0
	count := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		running += d
		most = max(most, running)
	}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range calls {
				lease, err := l.Acquire("111111111111")
				if err != nil {
					continue
				}
				count(1)
				count(-1)
				lease.Release()
			}
		})
	}
	wg.Wait()
	if most > limit || most == 0 {
		t.Errorf("%d ran at a time, the limit is %d", most, limit)
	}
	if len(l.running) != 0 {
		t.Errorf("after all releases %v is still counted", l.running)
	}
}
