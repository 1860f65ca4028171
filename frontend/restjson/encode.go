package restjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/api"
)

// Response is an answer as it goes out.
type Response struct {
	Status int
	// Header holds what the shape says: Content-Type if there is a body, and the members that travel in headers.
	Header http.Header
	// Body is nil if the operation's output has no body.
	Body []byte
}

// Encode returns the answer that carries out, a pointer to op.Output. Members that are nil are left out. Event streams have no
// encoding: an output that has one set is an error, as is one of another type.
func (c *Codec) Encode(op *api.Operation, out any) (Response, error) {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.Type().Elem() != op.Output || v.IsNil() {
		return Response{}, fmt.Errorf("encode %s: output is %T", op.Name, out)
	}
	resp, err := c.encode(c.planOf(op).output, v.Elem())
	if err != nil {
		return Response{}, fmt.Errorf("encode %s: %w", op.Name, err)
	}
	if resp.Status == 0 {
		resp.Status = op.Status
	}
	return resp, nil
}

// encode leaves Status 0 if no member says it.
func (c *Codec) encode(l layout, out reflect.Value) (Response, error) {
	resp := Response{Header: http.Header{}}
	if err := c.encodeBody(&resp, l, out); err != nil {
		return resp, err
	}
	for _, b := range l.headers {
		if f := out.Field(b.index); !f.IsNil() {
			s, err := headerValue(f.Elem())
			if err != nil {
				return resp, err
			}
			resp.Header[b.name] = []string{s}
		}
	}
	if l.status != nil {
		if f := out.Field(l.status.index); !f.IsNil() {
			resp.Status = int(f.Elem().Int())
		}
	}
	return resp, nil
}

func (c *Codec) encodeBody(resp *Response, l layout, out reflect.Value) (err error) {
	if l.payload == nil {
		if l.body != nil {
			resp.Header["Content-Type"] = []string{"application/json"}
			resp.Body, err = c.appendValue(nil, out)
		}
		return err
	}
	f := out.Field(l.payload.index)
	switch {
	case f.IsNil():
		return nil
	case l.payload.name == "blob":
		resp.Header["Content-Type"] = []string{"application/octet-stream"}
		resp.Body = f.Bytes()
		return nil
	case l.payload.name == "events":
		return errors.New("event streams are not supported")
	}
	resp.Header["Content-Type"] = []string{"application/json"}
	resp.Body, err = c.appendValue(nil, f)
	return err
}

func headerValue(v reflect.Value) (string, error) {
	switch v.Kind() {
	case reflect.String:
		return v.String(), nil
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	case reflect.Int32, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10), nil
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			return t.UTC().Format(http.TimeFormat), nil
		}
	}
	return "", unsupported(v.Type())
}

// appendValue appends the JSON of v to b.
func (c *Codec) appendValue(b []byte, v reflect.Value) ([]byte, error) {
	switch v.Kind() {
	case reflect.Pointer:
		return c.appendValue(b, v.Elem())
	case reflect.String:
		return appendString(b, v.String()), nil
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Float64:
		return appendFloat(b, v.Float())
	case reflect.Slice:
		if isBlob(v.Type()) {
			return appendBlob(b, v.Bytes()), nil
		}
		return c.appendList(b, v)
	case reflect.Map:
		return c.appendMap(b, v)
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			return appendTimestamp(b, t), nil
		}
		return c.appendStructure(b, v)
	}
	return nil, unsupported(v.Type())
}

func (c *Codec) appendStructure(b []byte, v reflect.Value) (_ []byte, err error) {
	b = append(b, '{')
	first := true
	for _, f := range c.structs[v.Type()].fields {
		fv := v.Field(f.index)
		if fv.IsNil() {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(append(b, '"'), f.name...), '"', ':')
		if b, err = c.appendValue(b, fv); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return append(b, '}'), nil
}

func (c *Codec) appendList(b []byte, v reflect.Value) (_ []byte, err error) {
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = c.appendValue(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// appendMap sorts the keys, so that an answer's bytes depend on its content alone.
func (c *Codec) appendMap(b []byte, v reflect.Value) (_ []byte, err error) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k.String()), ':')
		if b, err = c.appendValue(b, v.MapIndex(k)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e || s[i] == '"' || s[i] == '\\' {
			return appendEscaped(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendEscaped(b []byte, s string) []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic("restjson: encode a string: " + err.Error()) // a string always has a JSON form
	}
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}

func appendFloat(b []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("number %v has no form in JSON", f)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64), nil
}

func appendBlob(b, blob []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, blob)
	return append(b, '"')
}

// appendTimestamp appends t as seconds since 1970, with milliseconds if it has some.
func appendTimestamp(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	if ms%1000 == 0 {
		return strconv.AppendInt(b, ms/1000, 10)
	}
	return strconv.AppendFloat(b, float64(ms)/1000, 'f', 3, 64)
}

// Error returns the answer that carries an error. Extra holds further members of the exception by name ("Reason",
// "retryAfterSeconds"); one that AWS does not model for the code is left out, and so is "Type" if given empty. Without a
// "Type" it is "User", or "Server" where AWS's model makes the fault the service's. An exception that AWS does not model has a message alone.
func (c *Codec) Error(code string, status int, message string, extra map[string]string) Response {
	resp := Response{Status: status, Header: http.Header{}}
	resp.Header.Set("Content-Type", "application/json")
	resp.Header.Set("X-Amzn-Errortype", code)
	e, modelled := c.exceptions[code]
	if !modelled {
		name := "message"
		if code == "SerializationException" {
			name = "Message" // it comes from a lower layer of AWS's services than the others
		}
		resp.Body = append(appendMessage([]byte{'{'}, name, message), '}')
		return resp
	}
	resp.Body = []byte{'{'}
	for _, m := range e.Members {
		value := extraMember(e, m.Name, extra)
		switch {
		case value == "":
		case m.Header != "":
			resp.Header.Set(m.Header, value)
		default:
			resp.Body = append(append(appendString(resp.Body, m.Name), ':'), appendString(nil, value)...)
			resp.Body = append(resp.Body, ',')
		}
	}
	resp.Body = append(appendMessage(resp.Body, e.MessageMember, message), '}')
	return resp
}

// appendMessage appends the message's member: null if it is empty, as AWS has it.
func appendMessage(b []byte, name, message string) []byte {
	b = append(appendString(b, name), ':')
	if message == "" {
		return append(b, "null"...)
	}
	return appendString(b, message)
}

func extraMember(e api.Exception, name string, extra map[string]string) string {
	value, ok := extra[name]
	switch {
	case ok || name != "Type":
		return value
	case e.Server:
		return "Server"
	}
	return "User"
}
