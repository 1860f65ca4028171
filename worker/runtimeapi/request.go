package runtimeapi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Bounds of one request. A runtime may send a stack trace of up to 1 MB as the header Lambda-Runtime-Function-XRay-Error-Cause.
const (
	maxHead   = 1<<20 + 64<<10
	maxFields = 100
)

// malformed is a request that breaks RFC 9112 or this server's narrower grammar: no line ends but CRLF, no folded lines, no
// absolute-form, no transfer coding but one "chunked", never beside Content-Length. Its connection is closed, because where
// the next request starts is not known.
type malformed string

func (m malformed) Error() string { return string(m) }

// request is the head of an HTTP/1.1 request, reduced to what the Runtime API reads.
type request struct {
	method, path string
	// length is the length of the body, -1 if it is chunked.
	length int64
	// close ends the connection after this request.
	close bool
	// expect is set when the client waits for "100 Continue" before it sends the body.
	expect bool

	errorType    string
	responseMode string
	extension    extensionFields

	http10                  bool
	hosts, lengths, codings int
}

// extensionFields are the fields of requests of extensions.
type extensionFields struct{ name, id, features, errorType string }

// readRequest reads the head of the next request. It returns io.EOF only between requests.
func readRequest(r *bufio.Reader) (*request, error) {
	budget := maxHead
	line, err := readLine(r, &budget)
	if err != nil {
		return nil, err
	}
	req := &request{}
	if err := req.parseLine(string(line)); err != nil {
		return nil, err
	}
	if err := readFields(r, budget, req.setField); err != nil {
		return nil, err
	}
	return req, req.check()
}

// parseLine parses the request line.
func (q *request) parseLine(line string) error {
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken(method) {
		return malformed("malformed request line")
	}
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		q.http10, q.close = true, true
	default:
		return malformed("unsupported protocol version")
	}
	if !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, isControl) {
		return malformed("malformed request target")
	}
	q.method = method
	q.path, _, _ = strings.Cut(target, "?")
	return nil
}

func (q *request) setField(name, value string) error {
	switch strings.ToLower(name) {
	case "host":
		q.hosts++
	case "content-length":
		return q.setLength(value)
	case "transfer-encoding":
		return q.setCoding(value)
	case "connection":
		q.close = q.close || hasOption(value, "close")
	case "expect":
		q.expect = strings.EqualFold(value, "100-continue")
	case "lambda-runtime-function-error-type":
		q.errorType = value
	case "lambda-runtime-function-response-mode":
		q.responseMode = value
	case "lambda-extension-name":
		q.extension.name = value
	case "lambda-extension-identifier":
		q.extension.id = value
	case "lambda-extension-accept-feature":
		q.extension.features = value
	case "lambda-extension-function-error-type":
		q.extension.errorType = value
	}
	return nil
}

func (q *request) setLength(value string) error {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return malformed("malformed Content-Length")
	}
	q.lengths++
	q.length = int64(n)
	return nil
}

func (q *request) setCoding(value string) error {
	if !strings.EqualFold(value, "chunked") {
		return malformed("unsupported Transfer-Encoding")
	}
	q.codings++
	return nil
}

// check refuses what can be read in two ways.
func (q *request) check() error {
	switch {
	case q.hosts > 1 || q.hosts == 0 && !q.http10:
		return malformed("one Host field is required")
	case q.lengths+q.codings > 1:
		return malformed("ambiguous body length")
	case q.codings == 1:
		q.length = -1
	}
	return nil
}

// readFields reads header or trailer fields up to the empty line, of at most budget bytes.
func readFields(r *bufio.Reader, budget int, set func(name, value string) error) error {
	for range maxFields + 1 {
		line, err := readLine(r, &budget)
		if err != nil {
			return unexpected(err)
		}
		if len(line) == 0 {
			return nil
		}
		name, value, ok := strings.Cut(string(line), ":")
		value = strings.Trim(value, " \t")
		if !ok || !isToken(name) || strings.ContainsFunc(value, isControl) {
			return malformed("malformed header field")
		}
		if err := set(name, value); err != nil {
			return err
		}
	}
	return malformed("too many header fields")
}

// readLine reads a line ended by CRLF, without its end, and takes its length off budget. The line is valid until the next read.
func readLine(r *bufio.Reader, budget *int) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, err = readLongLine(r, bytes.Clone(line), *budget)
	}
	if err != nil {
		if len(line) > 0 {
			err = unexpected(err)
		}
		return nil, err
	}
	if *budget -= len(line); *budget < 0 {
		return nil, malformed("request head too large")
	}
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		return nil, malformed("malformed line end")
	}
	return line, nil
}

// readLongLine goes on with a line that is longer than r's buffer.
func readLongLine(r *bufio.Reader, line []byte, limit int) ([]byte, error) {
	for len(line) <= limit {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
	return nil, malformed("request head too large")
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func hasOption(list, option string) bool {
	for o := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(o, " \t"), option) {
			return true
		}
	}
	return false
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		alnum := c-'0' < 10 || c|0x20-'a' < 26
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// isControl reports whether c may not stand in a field's value: control characters but the tab.
func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
