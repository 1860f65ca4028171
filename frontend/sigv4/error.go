package sigv4

import "fmt"

// Code is the AWS error type of a refused request.
type Code string

// The reasons why a request is refused.
const (
	// MissingAuthenticationToken is a request without a signature.
	MissingAuthenticationToken Code = "MissingAuthenticationTokenException"
	// IncompleteSignature is a signature that lacks a part or is malformed.
	IncompleteSignature Code = "IncompleteSignatureException"
	// UnrecognizedClient is an access key or session token that does not exist.
	UnrecognizedClient Code = "UnrecognizedClientException"
	// ExpiredToken is a session token that was good once.
	ExpiredToken Code = "ExpiredTokenException"
	// InvalidSignature is a signature that does not match, is out of its scope, or is not valid at this time.
	InvalidSignature Code = "InvalidSignatureException"
)

// Error says why a request was refused, in AWS's words. It holds no secret and may be sent to the caller.
type Error struct {
	Code    Code
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

func refuse(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

func mismatch() *Error {
	return refuse(InvalidSignature, "The request signature we calculated does not match the signature you provided. "+
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
}
