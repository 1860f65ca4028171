package restjson

import (
	"fmt"
	"net/http"
	"reflect"
	"time"

	"kiln/api"
)

// Codec decodes inputs and encodes outputs and errors. Where each member travels is worked out once, when the Codec is made.
type Codec struct {
	plans      map[*api.Operation]*plan
	structs    map[reflect.Type]*structure
	exceptions map[string]api.Exception
}

// plan says where the members of an operation's input and output travel.
type plan struct {
	input, output layout
}

// layout says where the members of one shape travel.
type layout struct {
	labels, params, headers []binding
	// status and payload are nil if the shape has no such member.
	status, payload *binding
	// body holds the members of the JSON body, nil if there are none.
	body *structure
}

// binding is a member that travels outside of the JSON body.
type binding struct {
	index int
	// name is what the member is called where it travels.
	name string
}

// structure is a shape in JSON: the members that are part of it, in order.
type structure struct {
	fields []field
	byName map[string]int // to the index in fields
}

type field struct {
	index int
	name  string
}

// NewCodec returns a Codec for ops.
func NewCodec(ops []*api.Operation) *Codec {
	c := &Codec{
		plans:      make(map[*api.Operation]*plan, len(ops)),
		structs:    map[reflect.Type]*structure{},
		exceptions: map[string]api.Exception{},
	}
	for _, e := range api.Exceptions() {
		c.exceptions[e.Code] = e
	}
	for _, op := range ops {
		c.plans[op] = &plan{input: c.newLayout(op.Input), output: c.newLayout(op.Output)}
	}
	return c
}

// planOf panics for an operation that the Codec was not made for.
func (c *Codec) planOf(op *api.Operation) *plan {
	p := c.plans[op]
	if p == nil {
		panic("restjson: the codec does not know the operation " + op.Name)
	}
	return p
}

func (c *Codec) newLayout(t reflect.Type) layout {
	var l layout
	for i := range t.NumField() {
		f := t.Field(i)
		where, name := travels(f.Tag)
		l.bind(where, binding{index: i, name: name})
		c.learn(f.Type)
	}
	if s := c.structureOf(t); len(s.fields) > 0 {
		l.body = s
	}
	return l
}

// travels returns the key of a field's tag that says where the member travels, and the key's value; "" for the JSON body.
func travels(tag reflect.StructTag) (where, name string) {
	for _, key := range []string{"label", "query", "header", "payload", "status"} {
		if name, ok := tag.Lookup(key); ok {
			return key, name
		}
	}
	return "", ""
}

func (l *layout) bind(where string, b binding) {
	switch where {
	case "label":
		l.labels = append(l.labels, b)
	case "query":
		l.params = append(l.params, b)
	case "header":
		b.name = http.CanonicalHeaderKey(b.name)
		l.headers = append(l.headers, b)
	case "payload":
		l.payload = &b
	case "status":
		l.status = &b
	}
}

// learn makes the structures within t known.
func (c *Codec) learn(t reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		c.learn(t.Elem())
	case reflect.Struct:
		if isTime(t) || c.structs[t] != nil {
			return
		}
		c.structureOf(t)
		for i := range t.NumField() {
			c.learn(t.Field(i).Type)
		}
	}
}

// structureOf returns the structure of t, making it if it is new.
func (c *Codec) structureOf(t reflect.Type) *structure {
	if s := c.structs[t]; s != nil {
		return s
	}
	s := &structure{byName: map[string]int{}}
	for i := range t.NumField() {
		f := t.Field(i)
		if where, _ := travels(f.Tag); where == "" {
			s.byName[f.Name] = len(s.fields)
			s.fields = append(s.fields, field{index: i, name: f.Name})
		}
	}
	c.structs[t] = s
	return s
}

func isTime(t reflect.Type) bool { return t == reflect.TypeFor[time.Time]() }

// isBlob reports whether t is a blob and not a list.
func isBlob(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

func unsupported(t reflect.Type) error { return fmt.Errorf("type %s has no form in restJson1", t) }
