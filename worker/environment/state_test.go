package environment

import "testing"

func TestALifeFollowsThePhases(t *testing.T) {
	for _, c := range []struct {
		from State
		e    Event
		to   State
		ok   bool
	}{
		{Starting, Booted, Initializing, true},
		{Initializing, Initialized, Idle, true},
		{Idle, Assigned, Busy, true},
		{Busy, Answered, Idle, true},
		{Busy, Retried, Busy, true},
		{Starting, Failed, Stopping, true},
		{Initializing, Failed, Stopping, true},
		{Idle, Told, Stopping, true},
		{Busy, Failed, Stopping, true},
		{Stopping, Told, Stopping, true},
		{Stopping, Destroyed, Stopped, true},
		{Starting, Assigned, Starting, false},
		{Busy, Assigned, Busy, false},
		{Idle, Answered, Idle, false},
		{Idle, Initialized, Idle, false},
		{Stopping, Assigned, Stopping, false},
		{Stopped, Told, Stopped, false},
		{Stopped, Assigned, Stopped, false},
		{Idle, Destroyed, Idle, false},
	} {
		to, err := c.from.Next(c.e)
		if to != c.to || (err == nil) != c.ok {
			t.Errorf("%v, %v: got %v, %v; want %v", c.from, c.e, to, err, c.to)
		}
	}
}
