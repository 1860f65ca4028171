package environment

import (
	"encoding/json"
	"fmt"
	"time"

	"kiln"
)

// failure is an invocation that ended without an answer from the function. The types and messages are those that AWS Lambda
// answers and its runtime interface emulator names (aws-lambda-runtime-interface-emulator, fatalerror package).
type failure struct {
	Type string
	// Message is empty where the runtime has logged by itself what failed.
	Message string
	// Status is the word of the REPORT line: "error" or "timeout".
	Status string
	// Bare says that the caller's message does not name the request.
	Bare bool
}

// The types that say more than that the runtime ended.
const (
	typeTimedOut    = "Sandbox.Timedout"
	typeOutOfMemory = "Runtime.OutOfMemory"
	typeTooLarge    = "Function.ResponseSizeTooLarge"
)

func timedOut(limit time.Duration) failure {
	return failure{Type: typeTimedOut, Message: fmt.Sprintf("Task timed out after %.2f seconds", limit.Seconds()), Status: "timeout"}
}

// exitedWith is a runtime that ended; status is as in wire.Exited.
func exitedWith(status string) failure {
	if status == "" || status == "exit status 0" {
		return failure{Type: "Runtime.ExitError", Message: "Runtime exited without providing a reason", Status: "error"}
	}
	return failure{Type: "Runtime.ExitError", Message: "Runtime exited with error: " + status, Status: "error"}
}

func outOfMemory() failure {
	return failure{Type: typeOutOfMemory, Message: "Runtime exited with error: signal: killed", Status: "error"}
}

func invalidEntrypoint(reason string) failure {
	return failure{Type: "Runtime.InvalidEntrypoint", Message: reason, Status: "error"}
}

func responseTooLarge() failure {
	return failure{
		Type:    typeTooLarge,
		Message: fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", kiln.MaxResponse),
		Status:  "error",
		Bare:    true,
	}
}

// brokenProtocol is a runtime that sent what no runtime sends.
func brokenProtocol() failure {
	return failure{Type: "Runtime.Unknown", Message: "Runtime broke the protocol of invocations", Status: "error"}
}

// kind is what the caller is told of o, in one word.
func (o outcome) kind() kiln.Outcome {
	switch {
	case o.init:
		return kiln.InitFailed
	case o.functionError:
		return kiln.FunctionFailed
	case o.failed == nil:
		return kiln.Succeeded
	}
	switch o.failed.Type {
	case typeTimedOut:
		return kiln.TimedOut
	case typeOutOfMemory:
		return kiln.OutOfMemory
	case typeTooLarge:
		return kiln.FunctionFailed
	default:
		return kiln.Crashed
	}
}

// extensionFailed is an environment that an extension ended.
func extensionFailed(kind, message string) failure {
	return failure{Type: kind, Message: message, Status: "error"}
}

// payload is the error object that the caller of the invocation gets.
func (f failure) payload(id kiln.RequestID) []byte {
	message := f.Message
	if !f.Bare {
		message = fmt.Sprintf("RequestId: %s Error: %s", id, f.Message)
	}
	b, err := json.Marshal(struct {
		ErrorType    string `json:"errorType"`
		ErrorMessage string `json:"errorMessage"`
	}{f.Type, message})
	if err != nil {
		panic(err) // two strings always encode
	}
	return b
}
