package gvisor

import (
	"slices"
	"testing"
	"time"
)

func TestLaunchersThatKeepEndingAreGivenUp(t *testing.T) {
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const never = time.Duration(-1)
	for name, c := range map[string]struct {
		ends []time.Duration
		want []time.Duration
	}{
		"one": {[]time.Duration{0}, []time.Duration{0}},
		"at once each": {
			[]time.Duration{0, 0, 0, 0, 0, 0},
			[]time.Duration{0, firstRestart, 2 * firstRestart, 4 * firstRestart, 8 * firstRestart, never},
		},
		"a minute apart each": {
			[]time.Duration{0, time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute},
			[]time.Duration{0, 0, 0, 0, 0, 0},
		},
		"twice a minute": {
			[]time.Duration{0, 30 * time.Second, 61 * time.Second, 91 * time.Second},
			[]time.Duration{0, firstRestart, firstRestart, firstRestart},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var r restarts
			var got []time.Duration
			for _, end := range c.ends {
				pause, again := r.next(epoch.Add(end))
				if !again {
					pause = never
				}
				got = append(got, pause)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("pauses %v, want %v", got, c.want)
			}
		})
	}
}
