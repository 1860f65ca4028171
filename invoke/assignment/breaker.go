package assignment

import (
	"fmt"
	"math"
	"time"

	"kiln"
)

// breaker refuses deployments whose INIT keeps failing, each for a time that doubles, so that what cannot work costs others no starts.
// It decides and does nothing else: no lock, no clock.
type breaker struct{ failing map[string]failure }

// failure is a deployment's last failures in a row, and until when it is refused.
type failure struct {
	count int
	until time.Time
}

const (
	// tolerated is how many INITs may fail in a row: enough for a developer who looks for the reason, and for what comes and goes.
	tolerated = 10
	// minPause and maxPause bound how long a deployment is refused before another INIT is tried.
	minPause = time.Second
	maxPause = time.Minute
	// maxFailing bounds how many deployments are remembered. Beyond it, others are not refused.
	maxFailing = 10_000
)

func newBreaker() *breaker { return &breaker{failing: make(map[string]failure)} }

// check returns an error of kind TooManyRequests while d is refused. When that is over one caller may try, and others again if
// nothing is heard of it.
func (b *breaker) check(d string, now time.Time) error {
	f, ok := b.failing[d]
	if !ok || f.count < tolerated {
		return nil
	}
	if rest := f.until.Sub(now); rest > 0 {
		seconds := time.Duration(math.Ceil(rest.Seconds())) * time.Second
		e := kiln.Errorf(kiln.TooManyRequests,
			"The function's initialization has failed %d times in a row. It is tried again in %d s.", f.count, seconds/time.Second)
		e.RetryAfter, e.Cause = seconds, fmt.Errorf("deployment %s keeps failing", d)
		return e
	}
	f.until = now.Add(2 * kiln.InitTimeout)
	b.failing[d] = f
	return nil
}

// failed says that an INIT of d failed.
func (b *breaker) failed(d string, now time.Time) {
	f, ok := b.failing[d]
	if !ok && len(b.failing) >= maxFailing {
		if b.expire(now); len(b.failing) >= maxFailing {
			return
		}
	}
	f.count++
	f.until = now.Add(pause(f.count))
	b.failing[d] = f
}

// pause is how long a deployment is refused after n failures in a row.
func pause(n int) time.Duration {
	return min(minPause<<min(max(n-tolerated, 0), 10), maxPause)
}

// observe takes how an invocation of d has ended: after an INIT that failed, or with an environment that can take another.
func (b *breaker) observe(d string, reusable, initFailed bool, now time.Time) {
	switch {
	case initFailed:
		b.failed(d, now)
	case reusable && len(b.failing) > 0:
		b.forget(d)
	}
}

// forget makes nothing of what has failed of d.
func (b *breaker) forget(d string) { delete(b.failing, d) }

// expire forgets what nobody has called for longer than any pause.
func (b *breaker) expire(now time.Time) {
	for d, f := range b.failing {
		if now.Sub(f.until) > maxPause {
			delete(b.failing, d)
		}
	}
}
