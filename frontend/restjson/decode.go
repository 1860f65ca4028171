package restjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"

	"kiln"
)

// maxElements bounds the list elements and map entries of one body together, so that a small body of empty elements does not
// become a large input. AWS's longest list, a checkpoint's operations, stays far below.
const maxElements = 20_000

// Decode returns the input of a request that Route matched: a pointer to m.Operation.Input. The body must have been read to its
// end and bounded by the caller; a raw payload in the input is body itself, not a copy.
//
// Members of a JSON body that the operation does not have are ignored, as AWS ignores them; they are no member that could be
// enforced. Of a member given twice the last counts, and null is the same as absent. The error is a *kiln.Error: of kind
// InvalidRequestContent if the body is not JSON, of kind Serialization if a value does not have its member's type.
func (c *Codec) Decode(m Match, h http.Header, body []byte) (any, error) {
	in := reflect.New(m.Operation.Input)
	l := c.planOf(m.Operation).input
	if err := l.decodeAddress(in.Elem(), m, h); err != nil {
		return nil, err
	}
	if err := c.decodeBody(in.Elem(), l, body); err != nil {
		return nil, err
	}
	return in.Interface(), nil
}

// mismatch returns AWS's error about a value that its member cannot hold. It does not say which member.
func mismatch(text string) error { return kiln.Errorf(kiln.Serialization, "%s", text) }

// decodeAddress sets the members that travel in the path, the query and the headers.
func (l *layout) decodeAddress(in reflect.Value, m Match, h http.Header) error {
	for _, b := range l.labels {
		if err := setScalar(in.Field(b.index), m.labels[b.name]); err != nil {
			return err
		}
	}
	for _, b := range l.params {
		if err := setParameter(in.Field(b.index), m.query[b.name]); err != nil {
			return err
		}
	}
	for _, b := range l.headers {
		// A header without a value is as good as none: proxies add and drop them.
		if s := h.Get(b.name); s != "" {
			if err := setScalar(in.Field(b.index), s); err != nil {
				return err
			}
		}
	}
	return nil
}

// setParameter sets a member from the values of its query parameter; a scalar takes the first.
func setParameter(v reflect.Value, values []string) error {
	if len(values) == 0 {
		return nil
	}
	if v.Kind() != reflect.Slice {
		return setScalar(v, values[0])
	}
	list := reflect.MakeSlice(v.Type(), len(values), len(values))
	for i, s := range values {
		if err := parseScalar(list.Index(i), s); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

func setScalar(v reflect.Value, s string) error {
	p := reflect.New(v.Type().Elem())
	if err := parseScalar(p.Elem(), s); err != nil {
		return err
	}
	v.Set(p)
	return nil
}

// parseScalar sets v from the text of a label, parameter or header.
func parseScalar(v reflect.Value, s string) error {
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(s) {
			return mismatch("Value is not UTF-8")
		}
		v.SetString(s)
	case reflect.Bool:
		if s != "true" && s != "false" {
			return mismatch("STRING_VALUE can not be converted to a Boolean")
		}
		v.SetBool(s == "true")
	case reflect.Int32, reflect.Int64:
		return setInteger(v, s, "STRING_VALUE")
	case reflect.Struct:
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return mismatch("STRING_VALUE can not be converted to a Timestamp")
		}
		v.Set(reflect.ValueOf(t.UTC()))
	default:
		return unsupported(v.Type())
	}
	return nil
}

func setInteger(v reflect.Value, s, token string) error {
	n, err := strconv.ParseInt(s, 10, v.Type().Bits())
	if err != nil {
		return mismatch(token + " can not be converted to " + numberName(v.Kind()))
	}
	v.SetInt(n)
	return nil
}

func (c *Codec) decodeBody(in reflect.Value, l layout, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	switch {
	case l.payload != nil && l.payload.name == "blob":
		in.Field(l.payload.index).SetBytes(body)
		return nil
	case l.payload != nil:
		return c.decodeJSON(in.Field(l.payload.index), body)
	case l.body != nil:
		return c.decodeJSON(in, body)
	}
	return nil
}

// decodeJSON sets v, a structure or a pointer to one, from a whole body.
func (c *Codec) decodeJSON(v reflect.Value, body []byte) error {
	if !utf8.Valid(body) {
		return kiln.Errorf(kiln.InvalidRequestContent, "Could not parse request body into json: Invalid UTF-8")
	}
	if !json.Valid(body) {
		// Decoding checks all of the syntax before it stores anything, and says what is wrong.
		var none struct{}
		return kiln.Errorf(kiln.InvalidRequestContent, "Could not parse request body into json: %s", json.Unmarshal(body, &none))
	}
	d := &decoder{codec: c, data: body}
	return d.value(v)
}

// decoder reads values from data, which is valid JSON in UTF-8: that was checked before, so there are no syntax errors here. Its
// recursion is bounded by the depth of the shapes; a value that no shape has is skipped without recursion.
type decoder struct {
	codec    *Codec
	data     []byte
	pos      int
	elements int
}

// next returns the first byte of the next token and leaves it unread.
func (d *decoder) next() byte {
	for {
		switch b := d.data[d.pos]; b {
		case ' ', '\t', '\r', '\n', ',', ':':
			d.pos++
		default:
			return b
		}
	}
}

// value reads a value into v.
func (d *decoder) value(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if err := d.value(p.Elem()); err != nil {
			return err
		}
		v.Set(p)
		return nil
	case reflect.Slice:
		if isBlob(v.Type()) {
			return d.blob(v)
		}
		return d.list(v)
	case reflect.Map:
		return d.mapping(v)
	case reflect.Struct:
		if isTime(v.Type()) {
			return d.timestamp(v)
		}
		return d.structure(v)
	}
	return d.scalar(v)
}

func (d *decoder) structure(v reflect.Value) error {
	s := d.codec.structs[v.Type()]
	return d.object(func(name string) error {
		i, ok := s.byName[name]
		if !ok {
			d.skip()
			return nil
		}
		f := v.Field(s.fields[i].index)
		if d.null() {
			f.SetZero()
			return nil
		}
		return d.value(f)
	})
}

func (d *decoder) mapping(v reflect.Value) error {
	m := reflect.MakeMap(v.Type())
	err := d.object(func(name string) error {
		if err := d.count(); err != nil {
			return err
		}
		e := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(e); err != nil {
			return err
		}
		m.SetMapIndex(reflect.ValueOf(name), e)
		return nil
	})
	v.Set(m)
	return err
}

// object calls member for each member of an object, positioned at its value.
func (d *decoder) object(member func(name string) error) error {
	if d.next() != '{' {
		return d.unexpected("a structure or map")
	}
	d.pos++
	for d.next() != '}' {
		name, err := d.text()
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
	d.pos++
	return nil
}

func (d *decoder) list(v reflect.Value) error {
	if d.next() != '[' {
		return d.unexpected("a list")
	}
	d.pos++
	list := reflect.MakeSlice(v.Type(), 0, 0)
	for d.next() != ']' {
		if err := d.count(); err != nil {
			return err
		}
		e := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(e); err != nil {
			return err
		}
		list = reflect.Append(list, e)
	}
	d.pos++
	v.Set(list)
	return nil
}

// count allows for one more element or entry.
func (d *decoder) count() error {
	if d.elements++; d.elements > maxElements {
		return mismatch("More than " + strconv.Itoa(maxElements) + " list elements and map entries in one request")
	}
	return nil
}

func (d *decoder) blob(v reflect.Value) error {
	if d.next() != '"' {
		return d.unexpected("a Blob")
	}
	text := d.token()
	raw := text[1 : len(text)-1]
	// Some encoders write "/" as "\/".
	if bytes.IndexByte(raw, '\\') >= 0 {
		var s string
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		raw = []byte(s)
	}
	blob := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
	n, err := base64.StdEncoding.Decode(blob, raw)
	if err != nil {
		return mismatch("Value is not base64")
	}
	v.SetBytes(blob[:n])
	return nil
}

// maxTimestamp is the last second of the year 9999, after which RFC 3339 ends.
const maxTimestamp = 253402300799

func (d *decoder) timestamp(v reflect.Value) error {
	if !d.isNumber() {
		return d.unexpected("a Timestamp")
	}
	seconds, err := strconv.ParseFloat(string(d.token()), 64)
	if err != nil || seconds < 0 || seconds > maxTimestamp {
		return mismatch("NUMBER_VALUE can not be converted to a Timestamp")
	}
	v.Set(reflect.ValueOf(time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()))
	return nil
}

func (d *decoder) scalar(v reflect.Value) error {
	first := d.next()
	switch v.Kind() {
	case reflect.String:
		if first != '"' {
			return d.unexpected("a String")
		}
		s, err := d.text()
		v.SetString(s)
		return err
	case reflect.Bool:
		if first != 't' && first != 'f' {
			return d.unexpected("a Boolean")
		}
		v.SetBool(string(d.token()) == "true")
		return nil
	}
	return d.number(v)
}

func (d *decoder) number(v reflect.Value) error {
	switch {
	case !d.isNumber():
		return d.unexpected(numberName(v.Kind()))
	case v.Kind() != reflect.Float64:
		return setInteger(v, string(d.token()), "NUMBER_VALUE")
	}
	f, err := strconv.ParseFloat(string(d.token()), 64)
	if err != nil {
		return mismatch("NUMBER_VALUE can not be converted to a Double")
	}
	v.SetFloat(f)
	return nil
}

// numberName is what AWS calls a kind of number.
func numberName(k reflect.Kind) string {
	switch k {
	case reflect.Int32:
		return "an Integer"
	case reflect.Int64:
		return "a Long"
	}
	return "a Double"
}

func (d *decoder) isNumber() bool {
	b := d.next()
	return b == '-' || '0' <= b && b <= '9'
}

// null reads a null if there is one.
func (d *decoder) null() bool {
	if d.next() != 'n' {
		return false
	}
	d.token()
	return true
}

// text reads a string.
func (d *decoder) text() (string, error) {
	d.next()
	raw := d.token()
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// token reads the string, number or literal at the position.
func (d *decoder) token() []byte {
	start := d.pos
	if d.data[d.pos] == '"' {
		for d.pos++; d.data[d.pos] != '"'; d.pos++ {
			if d.data[d.pos] == '\\' {
				d.pos++
			}
		}
		d.pos++
		return d.data[start:d.pos]
	}
	for d.pos < len(d.data) && !ends(d.data[d.pos]) {
		d.pos++
	}
	return d.data[start:d.pos]
}

// ends reports whether b ends a number or literal.
func ends(b byte) bool {
	switch b {
	case ' ', '\t', '\r', '\n', ',', ']', '}':
		return true
	}
	return false
}

// skip reads any value.
func (d *decoder) skip() {
	depth := 0
	for {
		switch d.next() {
		case '{', '[':
			depth++
			d.pos++
		case '}', ']':
			depth--
			d.pos++
		default:
			d.token()
		}
		if depth == 0 {
			return
		}
	}
}

// unexpected says, in AWS's words, what was found in place of what.
func (d *decoder) unexpected(want string) error {
	found := "NUMBER_VALUE"
	switch d.next() {
	case '{':
		return mismatch("Start of structure or map found where not expected.")
	case '[':
		return mismatch("Start of list found where not expected")
	case '"':
		found = "STRING_VALUE"
	case 't':
		found = "TRUE_VALUE"
	case 'f':
		found = "FALSE_VALUE"
	case 'n':
		found = "NULL_VALUE"
	}
	return mismatch(found + " can not be converted to " + want)
}
