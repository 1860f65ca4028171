package gvisor

import (
	"testing"
	"time"
)

func TestOnlyWhoHoldsMuchOfAShortDiskMakesRoom(t *testing.T) {
	for name, c := range map[string]struct {
		held map[string]int64
		want string
	}{
		"nobody is there":         {nil, ""},
		"nobody holds any":        {map[string]int64{"a": 0}, ""},
		"all hold next to none":   {map[string]int64{"a": 4096, "b": crowd - 1}, ""},
		"one holds more":          {map[string]int64{"a": 4096, "b": crowd}, "b"},
		"the one that holds most": {map[string]int64{"a": 300 << 20, "b": 400 << 20, "c": 1 << 10}, "b"},
	} {
		if got, ok := crowding(c.held); got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}

func TestADiskIsLookedAtBeforeItCanBeFull(t *testing.T) {
	for free, want := range map[int64]time.Duration{
		0: guardPause, diskReserve: guardPause, diskReserve + fillRate/8: 125 * time.Millisecond, 1 << 50: guardRest,
	} {
		if got := untilFull(free); got != want {
			t.Errorf("with %d bytes free it is looked at after %v, want %v", free, got, want)
		}
	}
}
