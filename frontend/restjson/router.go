// Package restjson speaks the AWS protocol restJson1 for the shapes of package api.
//
// A Router finds the operation of a request, a Codec decodes its input and encodes its output or error. Both are made once, at
// start, and are safe for concurrent use.
package restjson

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"kiln"
	"kiln/api"
)

// Errors of Router.Route that are not the caller's to read: no operation has that path, or only with other methods.
var (
	ErrNoOperation      = errors.New("no operation has this path")
	ErrMethodNotAllowed = errors.New("no operation has this path and method")
)

// Match is the operation that a request asks for, and what its address says of the input.
type Match struct {
	Operation *api.Operation
	labels    map[string]string
	query     url.Values
}

// Router finds the operation that a request's method, path and query address.
type Router struct {
	root node
}

// node is a place in the tree of path segments.
type node struct {
	static map[string]*node
	label  *node
	routes []route
}

type route struct {
	op *api.Operation
	// labels are the names of the path's labels, in order.
	labels []string
	// query are the parameters that the request must have.
	query url.Values
}

// NewRouter returns a Router for ops. It panics if a path's template is malformed or two operations have the same address.
func NewRouter(ops []*api.Operation) *Router {
	r := &Router{}
	for _, op := range ops {
		r.root.add(op)
	}
	return r
}

func (n *node) add(op *api.Operation) {
	query, err := url.ParseQuery(op.Query)
	if err != nil {
		panic("restjson: query of " + op.Name + ": " + err.Error())
	}
	rt := route{op: op, query: query}
	for _, segment := range segments(op.Path) {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			rt.labels = append(rt.labels, strings.TrimSuffix(name, "}"))
		}
		n = n.child(segment)
	}
	for _, other := range n.routes {
		if other.op.Method == op.Method && other.op.Query == op.Query {
			panic("restjson: " + op.Name + " and " + other.op.Name + " have the same address")
		}
	}
	n.routes = append(n.routes, rt)
}

// child returns the node below n for a segment of a template, new if there is none.
func (n *node) child(segment string) *node {
	if strings.ContainsAny(segment, "{}") {
		if !strings.HasPrefix(segment, "{") || !strings.HasSuffix(segment, "}") || strings.HasSuffix(segment, "+}") {
			panic("restjson: unsupported path segment " + segment)
		}
		if n.label == nil {
			n.label = &node{}
		}
		return n.label
	}
	c := n.static[segment]
	if c == nil {
		c = &node{}
		if n.static == nil {
			n.static = map[string]*node{}
		}
		n.static[segment] = c
	}
	return c
}

// segments splits a path. One slash at its end means nothing: older clients send "/2015-03-31/functions/".
func segments(path string) []string {
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	return strings.Split(path, "/")
}

// maxSegments is more than any template has; a path with more is not worth splitting.
const maxSegments = 16

// Route returns the operation that r addresses. Paths are compared in their escaped form, and labels are decoded once
// afterwards: an ARN's "%2F" stays within its label. The error is ErrNoOperation, ErrMethodNotAllowed, or a *kiln.Error of
// kind InvalidRequestContent for an address that cannot be decoded.
func (r *Router) Route(req *http.Request) (Match, error) {
	path := req.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") || strings.Count(path, "/") > maxSegments {
		return Match{}, ErrNoOperation
	}
	s := search{method: req.Method, values: make([]string, 0, maxSegments)}
	if req.URL.RawQuery != "" {
		var err error
		if s.query, err = parseQuery(req.URL.RawQuery); err != nil {
			return Match{}, err
		}
	}
	s.visit(&r.root, segments(path))
	switch {
	case s.found == nil && s.otherMethod:
		return Match{}, ErrMethodNotAllowed
	case s.found == nil:
		return Match{}, ErrNoOperation
	}
	labels, err := s.labels()
	if err != nil {
		return Match{}, err
	}
	return Match{Operation: s.found.op, labels: labels, query: s.query}, nil
}

// search is one walk through the tree.
type search struct {
	method string
	query  url.Values
	// values are the segments, still escaped, that stand for labels on the way to the node being visited.
	values      []string
	found       *route
	otherMethod bool
}

// visit looks for a route below n, static segments first, and leaves s.values as they were where it finds none.
func (s *search) visit(n *node, rest []string) {
	if len(rest) == 0 {
		s.choose(n.routes)
		return
	}
	if c := n.static[rest[0]]; c != nil {
		s.visit(c, rest[1:])
	}
	if s.found != nil || n.label == nil || rest[0] == "" {
		return
	}
	s.values = append(s.values, rest[0])
	s.visit(n.label, rest[1:])
	if s.found == nil {
		s.values = s.values[:len(s.values)-1]
	}
}

// choose takes the route whose query asks the most of what the request has.
func (s *search) choose(routes []route) {
	for i := range routes {
		rt := &routes[i]
		switch {
		case rt.op.Method != s.method:
			s.otherMethod = true
		case hasAll(s.query, rt.query) && (s.found == nil || len(rt.query) > len(s.found.query)):
			s.found = rt
		}
	}
}

func hasAll(have, want url.Values) bool {
	for name := range want {
		if have.Get(name) != want.Get(name) {
			return false
		}
	}
	return true
}

func (s *search) labels() (map[string]string, error) {
	labels := make(map[string]string, len(s.values))
	for i, name := range s.found.labels {
		v, err := url.PathUnescape(s.values[i])
		if err != nil || !utf8.ValidString(v) {
			return nil, kiln.Errorf(kiln.InvalidRequestContent, "Could not decode the path: label %s is malformed", name)
		}
		labels[name] = v
	}
	return labels, nil
}

// maxParameters bounds the parameters of a query: the largest list that AWS takes there is of 50 tag keys.
const maxParameters = 200

func parseQuery(raw string) (url.Values, error) {
	if strings.Count(raw, "&") >= maxParameters {
		return nil, kiln.Errorf(kiln.InvalidRequestContent, "The query has more than %d parameters", maxParameters)
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, kiln.Errorf(kiln.InvalidRequestContent, "Could not decode the query")
	}
	return q, nil
}
