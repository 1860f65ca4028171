package runtimeapi

import "errors"

// maxOther bounds the body of a request that is not of the Runtime API.
const maxOther = 64 << 10

// Request is a request that is not of the Runtime API.
type Request struct {
	Method, Path string
	// Name, Identifier, Features and ErrorType are the fields Lambda-Extension-Name, -Identifier, -Accept-Feature and
	// -Function-Error-Type.
	Name, Identifier, Features, ErrorType string
	Body                                  []byte
}

// Response answers a Request, with JSON in its body.
type Response struct {
	// Status is 404 for a request that means nothing, and 405 for one whose method is wrong. Both have no Body.
	Status int
	Body   []byte
	// Identifier and EventIdentifier are the fields Lambda-Extension-Identifier and -Event-Identifier, "" if there is none.
	Identifier, EventIdentifier string
}

// Others answers requests that are not of the Runtime API. It is safe for concurrent use, and may block.
type Others interface {
	Answer(r Request) Response
}

// other has a request answered that is not of the Runtime API.
func (s *Server) other(x exchange) error {
	if s.others == nil {
		return notFound(x.reply)
	}
	if err := x.proceed(); err != nil {
		return err
	}
	b, err := x.body.read(maxOther)
	if errors.Is(err, errTooLarge) {
		return writeRefusal(x.reply, entityTooLarge(maxOther))
	}
	if err != nil {
		return err
	}
	e := x.extension
	r := s.others.Answer(Request{Method: x.method, Path: x.path, Name: e.name, Identifier: e.id, Features: e.features, ErrorType: e.errorType, Body: b})
	switch r.Status {
	case 404:
		return notFound(x.reply)
	case 405:
		return writeStatus(x.reply, 405, "text/plain; charset=utf-8", nil)
	}
	writeHead(x.reply, r.Status, "application/json", len(r.Body))
	writeField(x.reply, "Lambda-Extension-Identifier", r.Identifier)
	writeField(x.reply, "Lambda-Extension-Event-Identifier", r.EventIdentifier)
	return endHead(x.reply, r.Body)
}
