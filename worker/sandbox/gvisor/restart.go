package gvisor

import "time"

const (
	// maxRestarts is how many launchers may follow one another within restartWindow. One that ends as often does not end by chance,
	// and whoever watches the node is to know.
	maxRestarts   = 5
	restartWindow = time.Minute
	// firstRestart is the pause before the second launcher within that time; each further one is twice as long.
	firstRestart = 100 * time.Millisecond
)

// restarts decides whether and when a launcher that ended is followed by another. The zero value has seen none end.
type restarts struct {
	// ends are those within restartWindow of the last.
	ends []time.Time
}

// next takes the end of a launcher. The first is followed at once.
func (r *restarts) next(now time.Time) (pause time.Duration, again bool) {
	for len(r.ends) > 0 && now.Sub(r.ends[0]) >= restartWindow {
		r.ends = r.ends[1:]
	}
	r.ends = append(r.ends, now)
	switch n := len(r.ends); {
	case n > maxRestarts:
		return 0, false
	case n == 1:
		return 0, true
	default:
		return firstRestart << (n - 2), true
	}
}
