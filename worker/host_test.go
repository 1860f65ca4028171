package worker

import (
	"testing"
	"time"

	"kiln"
)

func TestLimitsFollowFromMemory(t *testing.T) {
	for _, c := range []struct {
		memoryMB int
		cpus     float64
	}{{1769, 1}, {3538, 2}, {128, 128.0 / 1769}} {
		l := limits(&kiln.Version{Config: kiln.Config{MemoryMB: c.memoryMB, EphemeralMB: 512}})
		if l.CPUs != c.cpus || l.MemoryBytes != int64(c.memoryMB)<<20 || l.TmpBytes != 512<<20 {
			t.Errorf("%d MB: %+v", c.memoryMB, l)
		}
	}
}

func TestLogStreamsAreNamedAsOnAWS(t *testing.T) {
	v := &kiln.Version{Qualifier: kiln.LatestVersion}
	got := stream("abc", v, time.Date(2026, 3, 4, 23, 0, 0, 0, time.UTC))
	if got != "2026/03/04/[$LATEST]abc" {
		t.Error(got)
	}
}
