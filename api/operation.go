// Package api is the Lambda API as AWS models it: its operations, the shapes of their inputs and outputs, its enums and
// exceptions, and what kiln honours of them.
//
// A shape is a struct whose fields bear AWS's member names. Optional scalars and structures are pointers; lists, maps and blobs
// are nil when absent and empty when given empty. A field's tag says where the member travels; without one of the first five
// keys it is a member of the JSON body:
//
//	label:"Name"      a label of the path
//	query:"name"      a query parameter; a list repeats it
//	header:"Name"     a header
//	payload:"blob"    the whole body, raw ("json": the whole body, encoded; "events": an event stream)
//	status:"true"     the answer's status
//	required:"true"   AWS refuses a request without the member
//	enum:"Name"       the value, or each value of the list, is one of Enum("Name")
package api

//go:generate go run ./internal/gen

import "reflect"

// Operation is one operation of the Lambda API. The values of this package are shared: do not change one.
type Operation struct {
	// Name is AWS's name, such as "CreateFunction".
	Name string
	// Method is the HTTP method.
	Method string
	// Path is the path's template, labels in braces: "/2015-03-31/functions/{FunctionName}".
	Path string
	// Query holds the query parameters that are part of the operation's address, such as "List=ALL", or is empty.
	Query string
	// Status is the HTTP status of an answer whose output has no member for it.
	Status int
	// Input and Output are the struct types of the operation's shapes. An operation without output has Unit.
	Input, Output reflect.Type
}

// Unit is the output of an operation that answers nothing.
type Unit struct{}

// Exception is the shape of an error of the Lambda API.
type Exception struct {
	// Code is AWS's name, such as "ResourceNotFoundException".
	Code string
	// Status is the HTTP status that it is sent with.
	Status int
	// Server says that the fault is the service's, not the caller's.
	Server bool
	// MessageMember is the name of the member that holds the message: "message" or "Message".
	MessageMember string
	// Members are the other members.
	Members []ExceptionMember
}

// ExceptionMember is a member of an exception besides its message.
type ExceptionMember struct {
	Name string
	// Header is the header that the member travels in, empty for the JSON body.
	Header string
}
