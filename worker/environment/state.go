package environment

import "fmt"

// State is where an execution environment is in its life:
//
//	Starting ──booted──▶ Initializing ──initialized──▶ Idle ◀──answered── Busy
//	    │                     │  ▲                      │ └───assigned─────▶ │
//	    │                     │  └──────retried─────────┘                    │
//	    └──────────failed─────┴────────────────stopped/failed────────────────┤
//	                                                                         ▼
//	                                              Stopped ◀──destroyed── Stopping
//
// The phases are AWS's INIT, INVOKE and SHUTDOWN
// (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html).
type State uint8

// The states, in the order in which a life passes through them.
const (
	// Starting: the sandbox boots. Nothing of the function has run.
	Starting State = iota
	// Initializing: the function's INIT phase runs.
	Initializing
	// Idle: it may be given an invocation. It is frozen when none comes soon.
	Idle
	// Busy: one invocation runs.
	Busy
	// Stopping: it takes no invocation any more and its sandbox is being destroyed.
	Stopping
	// Stopped: nothing is left of it.
	Stopped
)

var stateNames = [...]string{"starting", "initializing", "idle", "busy", "stopping", "stopped"}

// String returns the state's name in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Event is what happens to an environment.
type Event uint8

// The events.
const (
	Booted Event = iota
	Initialized
	// Retried: INIT ran out of time and is tried again within the first invocation, as AWS does ("suppressed init").
	Retried
	Assigned
	Answered
	// Failed: the sandbox or the runtime ended, broke the protocol or ran out of time.
	Failed
	// Told: somebody asked it to stop.
	Told
	Destroyed
)

var eventNames = [...]string{"booted", "initialized", "retried", "assigned", "answered", "failed", "told", "destroyed"}

// String returns the event's name in lower case.
func (e Event) String() string {
	if int(e) < len(eventNames) {
		return eventNames[e]
	}
	return fmt.Sprintf("Event(%d)", uint8(e))
}

// Next returns the state that follows s after e. An event that cannot happen in s is an error and leaves the state as it is.
func (s State) Next(e Event) (State, error) {
	switch {
	case e == Destroyed && s == Stopping:
		return Stopped, nil
	case (e == Failed || e == Told) && s < Stopped:
		return Stopping, nil
	case e == Booted && s == Starting:
		return Initializing, nil
	case e == Initialized && s == Initializing:
		return Idle, nil
	case e == Retried && s == Busy:
		return Busy, nil
	case e == Assigned && s == Idle:
		return Busy, nil
	case e == Answered && s == Busy:
		return Idle, nil
	}
	return s, fmt.Errorf("environment is %v: cannot be %v", s, e)
}
