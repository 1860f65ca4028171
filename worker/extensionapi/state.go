package extensionapi

import (
	"fmt"
	"slices"
)

// maxExtensions is how many extensions an environment may have, as on AWS.
const maxExtensions = 10

// The events that an extension may subscribe to.
const (
	invokeEvent   = "INVOKE"
	shutdownEvent = "SHUTDOWN"
)

// phase is where an extension is in its dialogue with the Extensions API.
type phase uint8

const (
	// started: its process runs.
	started phase = iota
	registered
	// ready: it waits for an event.
	ready
	// running: it was given one.
	running
	initFailed
	exitFailed
	// launchFailed: its process could not be started.
	launchFailed
)

// The names are those that AWS's runtime interface emulator answers with.
var phaseNames = [...]string{"Started", "Registered", "Ready", "Running", "InitError", "ExitError", "LaunchError"}

func (p phase) String() string { return phaseNames[p] }

type extension struct {
	name, id string
	// external is one with a process of its own.
	external  bool
	phase     phase
	events    []string
	errorType string
}

// roster is the whole memory of the Extensions API. The zero value is an environment whose INIT has just begun.
type roster struct {
	extensions []*extension
	// closed means that no internal extension may register any more.
	closed bool
	// awaited means that it is to be told when the extensions have settled: all of them if everyone, else those that were given the
	// invocation.
	awaited, everyone bool
	// fatal is the type of the first error that an extension reported, "" if none did.
	fatal string
}

// launch adds an external extension.
func (r *roster) launch(name, id string) *extension {
	e := &extension{name: name, id: id, external: true}
	r.extensions = append(r.extensions, e)
	return e
}

// register takes an extension's registration. id becomes that of an internal one.
func (r *roster) register(name, id string, events []string) (*extension, *refusal) {
	i := slices.IndexFunc(r.extensions, func(e *extension) bool { return e.external && e.name == name })
	if refused := checkEvents(events, i >= 0); refused != nil {
		return nil, refused
	}
	if i < 0 {
		return r.registerInternal(name, id, events)
	}
	e := r.extensions[i]
	if e.phase != started {
		return nil, forbidden(e.phase, "Registered", name)
	}
	e.phase, e.events = registered, events
	return e, nil
}

func checkEvents(events []string, external bool) *refusal {
	for _, e := range events {
		switch {
		case e == invokeEvent, e == shutdownEvent && external:
		case e == shutdownEvent:
			return &refusal{"Extension.InvalidEventType", e + ": ShutdownEventNotSupportedForInternalExtension"}
		default:
			return &refusal{"Extension.InvalidEventType", e + ": ErrorInvalidEventType"}
		}
	}
	return nil
}

func (r *roster) registerInternal(name, id string, events []string) (*extension, *refusal) {
	switch {
	case r.closed:
		return nil, &refusal{"Extension.RegistrationClosed", "Extension registration closed already"}
	case len(r.extensions) >= maxExtensions:
		return nil, &refusal{"Extension.TooManyExtensions", fmt.Sprintf("Extension limit (%d) reached", maxExtensions)}
	case slices.ContainsFunc(r.extensions, func(e *extension) bool { return e.name == name }):
		return nil, &refusal{"Extension.InvalidExtensionState", "Extension with this name already registered"}
	}
	e := &extension{name: name, id: id, phase: registered, events: events}
	r.extensions = append(r.extensions, e)
	return e, nil
}

// find returns the extension with an id, nil if there is none.
func (r *roster) find(id string) *extension {
	for _, e := range r.extensions {
		if e.id == id && e.phase != started {
			return e
		}
	}
	return nil
}

// next takes the word that e waits for an event.
func (r *roster) next(e *extension) *refusal {
	if e.phase != registered && e.phase != running {
		return forbidden(e.phase, "Ready", e.id)
	}
	e.phase = ready
	return nil
}

// initError takes the word that the INIT of e failed.
func (r *roster) initError(e *extension, errorType string) *refusal {
	if e.phase != registered && e.phase != initFailed {
		return forbidden(e.phase, "InitError", e.id)
	}
	r.fail(e, initFailed, errorType, "Extension.InitError")
	return nil
}

// exitError takes the word that e is going to end.
func (r *roster) exitError(e *extension, errorType string) *refusal {
	if e.phase == initFailed || e.phase == started {
		return forbidden(e.phase, "Exited", e.id)
	}
	r.fail(e, exitFailed, errorType, "Extension.ExitError")
	return nil
}

func (r *roster) fail(e *extension, p phase, errorType, fatal string) {
	if e.phase == p {
		return
	}
	e.phase, e.errorType = p, errorType
	if r.fatal == "" {
		r.fatal = fatal
	}
}

// initialized says that the runtime has ended its INIT: no extension may register any more, and when all are ready INIT has ended.
func (r *roster) initialized() { r.closed, r.awaited, r.everyone = true, true, true }

// release hands an invocation out, and returns the extensions that it is for.
func (r *roster) release() []*extension {
	r.awaited, r.everyone = true, false
	var to []*extension
	for _, e := range r.extensions {
		if e.phase == ready && slices.Contains(e.events, invokeEvent) {
			e.phase = running
			to = append(to, e)
		}
	}
	return to
}

// settle reports whether what was awaited has come about, once.
func (r *roster) settle() bool {
	if !r.awaited {
		return false
	}
	for _, e := range r.extensions {
		if e.phase != ready && (r.everyone || slices.Contains(e.events, invokeEvent)) {
			return false
		}
	}
	r.awaited = false
	return true
}

// complete reports whether every external extension has registered.
func (r *roster) complete() bool {
	return !slices.ContainsFunc(r.extensions, func(e *extension) bool { return e.external && (e.phase == started || e.phase == launchFailed) })
}

// refusal is an error answer of the API, with status 403.
type refusal struct{ Type, Message string }

func forbidden(from phase, to, who string) *refusal {
	return &refusal{"Extension.InvalidExtensionState",
		fmt.Sprintf("State transition from %v to %s failed for extension %s. Error: State transition is not allowed", from, to, who)}
}
