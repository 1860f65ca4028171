package kiln

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the class of an Error: what a program switches on. Package frontend alone turns a Kind into an HTTP status and an
// AWS error code.
type Kind uint8

// The kinds, named after the exceptions of the Lambda API that they become.
const (
	// Internal is a fault of kiln's own. Its message is logged, never sent.
	Internal Kind = iota
	// Validation is a member that breaks the API model's constraints.
	Validation
	// Serialization is a value of another type than its member has.
	Serialization
	InvalidParameterValue
	InvalidRequestContent
	ResourceNotFound
	// ProvisionedNotFound is a provisioned concurrency configuration that is not there.
	ProvisionedNotFound
	ResourceConflict
	PreconditionFailed
	RequestTooLarge
	RequestEntityTooLarge
	UnsupportedMediaType
	TooManyRequests
	CodeStorageExceeded
	PolicyLengthExceeded
	AccessDenied
	// RecursiveInvocation is a function that goes on calling itself.
	RecursiveInvocation
	// CodeVerificationFailed is a package that the function's code signing configuration does not let in.
	CodeVerificationFailed
	// CodeSigningConfigNotFound is a code signing configuration that is not there.
	CodeSigningConfigNotFound
	// InvalidRuntime is a runtime that no worker has.
	InvalidRuntime
	// InvalidZipFile is stored code that cannot be unpacked.
	InvalidZipFile
	// NotImplemented is an operation or member that kiln knows and refuses.
	NotImplemented
	// Unavailable is a request that came while the node drains or has no room: it may be sent again.
	Unavailable
)

// Error is an error that an API caller may see. Anything else that reaches the frontend is answered as Internal.
type Error struct {
	Kind    Kind
	Message string
	// Reason is the machine-readable Reason of a TooManyRequests error.
	Reason string
	// RetryAfter, if positive, tells the caller when to try again.
	RetryAfter time.Duration
	// Untyped says that AWS's answer lacks the exception's Type, as those that come from some deeper part of it do.
	Untyped bool
	// Cause is logged and never sent.
	Cause error
}

// Error returns the message, with the cause if there is one.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf returns an *Error of kind k. The message is what the caller reads: AWS's wording where AWS has one.
func Errorf(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// The Reasons of TooManyRequests errors, AWS's words.
const (
	// ConcurrencyExceeded: the account runs as much as it may, or as much as its functions may that have nothing reserved.
	ConcurrencyExceeded = "ConcurrentInvocationLimitExceeded"
	// ReservedConcurrencyExceeded: the function runs as much as is reserved for it.
	ReservedConcurrencyExceeded = "ReservedFunctionConcurrentInvocationLimitExceeded"
	// RateExceeded: the functions without a reservation are called too often, or one of them grows too fast.
	RateExceeded = "FunctionInvocationRateLimitExceeded"
	// CallerRateExceeded: the account calls other operations than invocations too often.
	CallerRateExceeded = "CallerRateLimitExceeded"
	// ReservedRateExceeded: a function with a reservation is called too often, or grows too fast.
	ReservedRateExceeded = "ReservedFunctionInvocationRateLimitExceeded"
)

// KindOf returns the kind of the first *Error in err's tree, and Internal if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
