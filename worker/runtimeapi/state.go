package runtimeapi

import "fmt"

// phase is where the runtime process is in its dialogue with the Runtime API.
type phase uint8

const (
	// started: the process runs its INIT phase.
	started phase = iota
	// initFailed: it said that INIT failed.
	initFailed
	// ready: it waits for an invocation.
	ready
	// running: it was given one.
	running
	// answered: it has answered that one and not yet asked for another.
	answered
)

// The names are those that AWS's runtime interface emulator answers with.
var phaseNames = [...]string{"Started", "InitError", "Ready", "Running", "RuntimeResponseSentState"}

func (p phase) String() string { return phaseNames[p] }

// call is what can happen to a state.
type call uint8

const (
	// next: the runtime asks for an invocation.
	next call = iota
	// deliver: the worker sent the invocation that the runtime waits for.
	deliver
	// respond: the runtime answers an invocation.
	respond
	// respondError: the runtime says that an invocation failed.
	respondError
	// initError: the runtime says that INIT failed.
	initError
)

// The names of the states that a call would lead to, as the emulator has them.
var callNames = [...]string{"Ready", "Running", "InvocationResponse", "InvocationErrorResponse", "InitError"}

func (c call) String() string { return callNames[c] }

// state is the whole memory of the Runtime API. The zero value is a runtime process that has just started.
type state struct {
	phase phase
	// id is the last invocation given out, "" if none was.
	id string
}

// step returns the state after c. id is the invocation that respond and respondError name and that deliver brings. A call that
// is not allowed changes nothing and returns the answer that refuses it.
func step(s state, c call, id string) (state, *refusal) {
	if (c == respond || c == respondError) && (id == "" || id != s.id) {
		return s, &refusal{400, "InvalidRequestID", "Invalid request ID"}
	}
	switch {
	case c == next && (s.phase == started || s.phase == answered):
		return state{ready, s.id}, nil
	case c == next && s.phase == running:
		// A client that lost the invocation on its way is given it again.
		return s, nil
	case c == deliver && s.phase == ready:
		return state{running, id}, nil
	case (c == respond || c == respondError) && s.phase == running:
		return state{answered, s.id}, nil
	case c == initError && s.phase == started:
		return state{initFailed, s.id}, nil
	}
	return s, forbidden(s.phase, c)
}

// refusal is an error answer of the Runtime API.
type refusal struct {
	Status  int
	Type    string
	Message string
}

func forbidden(from phase, c call) *refusal {
	return &refusal{403, "InvalidStateTransition",
		fmt.Sprintf("State transition from %v to %v failed for runtime. Error: State transition is not allowed", from, c)}
}
