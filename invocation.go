package kiln

import (
	"fmt"
	"time"
)

// RequestID names one invocation, everywhere: in the API's answer, the function's context and every log line. It is a UUID.
type RequestID string

// Invocation is one event on its way to a function.
type Invocation struct {
	ID RequestID
	// Payload is the event, JSON text of at most MaxPayload bytes. The receiver must not change it.
	Payload []byte
	// ClientContext is the decoded X-Amz-Client-Context: JSON, or "" if the caller sent none.
	ClientContext string
	// TraceID is the X-Amzn-Trace-Id header that the function sees.
	TraceID string
	// Lineage is the caller's, which is not part of TraceID yet.
	Lineage Lineage
	// FunctionARN is the ARN by which the function was called, qualifier included if the caller gave one.
	FunctionARN string
}

// Result is what a function answered. A function that failed has a Result too; an error is returned only when the platform
// could not run it.
type Result struct {
	// Payload is the function's answer, or the error object when FunctionError is set.
	Payload []byte
	// FunctionError is "Unhandled" (the function or its runtime failed), "Handled" (a runtime said so), or "".
	FunctionError string
	Outcome       Outcome
	// LogTail is the end of what was logged for this invocation, at most MaxLogTail bytes.
	LogTail []byte
	Timing  Timing
	// Unsettled says that extensions go on with the invocation: its environment is not free yet.
	Unsettled bool
}

// Outcome is how an invocation that ran has ended.
type Outcome uint8

// The outcomes. All but Succeeded have a FunctionError.
const (
	Succeeded Outcome = iota
	// FunctionFailed: the handler raised an error, or answered what cannot be sent on.
	FunctionFailed
	// InitFailed: the INIT phase failed, for whatever reason, and the handler was never called.
	InitFailed
	TimedOut
	OutOfMemory
	// Crashed: the runtime ended or broke the protocol of invocations.
	Crashed
)

var outcomeNames = [...]string{"succeeded", "function_failed", "init_failed", "timed_out", "out_of_memory", "crashed"}

// String returns the outcome's name in lower case.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// Start is how an environment came to its runtime process.
type Start uint8

// The kinds of starts.
const (
	// Warm: it was there.
	Warm Start = iota
	// Booted: its sandbox was booted for it.
	Booted
	// Adopted: it waited, in a sandbox that was booted ahead.
	Adopted
	// Restarted: it was started in a sandbox that was booted ahead.
	Restarted
)

var startNames = [...]string{"warm", "booted", "adopted", "restarted"}

// String returns the kind's name in lower case.
func (s Start) String() string {
	if int(s) < len(startNames) {
		return startNames[s]
	}
	return fmt.Sprintf("Start(%d)", uint8(s))
}

// Timing says where the time of an invocation went. All but Queue and Handler are zero for a warm start.
type Timing struct {
	Start Start
	// Queue is what the invocation waited for others: for room, where there was none, for memory of theirs that was being given back, and
	// for its turn to boot a sandbox. A warm start may have waited too.
	Queue time.Duration
	// Sandbox is from there until the sandbox's first process runs; zero if one was booted ahead.
	Sandbox time.Duration
	// Mount is what it took to give a sandbox that was booted ahead the function's limits and files.
	Mount time.Duration
	// Guest is from there until the runtime process was started, or was told its function.
	Guest time.Duration
	// Init is the function's INIT phase, as REPORT's Init Duration.
	Init time.Duration
	// Handler is the INVOKE phase as the worker saw it, as REPORT's Duration.
	Handler time.Duration
}

// Limits of the API (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html). Sizes are in bytes.
const (
	// MaxPayload bounds a synchronous request's payload.
	MaxPayload = 6 << 20
	// MaxResponse bounds a function's answer. The 100 bytes are AWS's own allowance
	// (aws-lambda-runtime-interface-emulator, interop.MaxPayloadSize).
	MaxResponse = 6<<20 + 100
	// MaxClientContext bounds X-Amz-Client-Context in its base64 form.
	MaxClientContext = 3583
	// MaxLogTail bounds X-Amz-Log-Result before base64.
	MaxLogTail = 4 << 10

	MaxZip = 50 << 20
	// MaxUnzipped bounds a function's code and its layers together.
	MaxUnzipped        = 250 << 20
	MaxLayers          = 5
	MaxEnvironment     = 4 << 10
	MinMemoryMB        = 128
	MaxMemoryMB        = 10240
	DefaultMemoryMB    = 128
	MinEphemeralMB     = 512
	MaxEphemeralMB     = 10240
	DefaultTimeout     = 3 * time.Second
	MaxTimeout         = 900 * time.Second
	InitTimeout        = 10 * time.Second
	DefaultConcurrency = 1000
	// MinUnreserved is how much of an account's concurrency cannot be reserved for functions.
	MinUnreserved = 100
)
