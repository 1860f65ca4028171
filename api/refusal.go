package api

import (
	"fmt"
	"reflect"
	"time"
)

// refusals are the members of a structure that a handler does not enforce, in the order of its fields.
type refusals struct {
	fields []refusal
}

// refusal is a field that must be absent or, if it holds structures, must have none of the members below.
type refusal struct {
	index int
	path  string
	below *refusals // nil: the field itself must be absent
}

// refusalsOf returns what an input of op may not have, given what is enforced. It panics where Handle says.
func refusalsOf(op *Operation, enforces []Enforced) *refusals {
	left := map[string]bool{}
	for _, e := range enforces {
		left[e.Path] = true
	}
	r := newRefusals(op.Input, "", func(path string) bool {
		ok := left[path]
		delete(left, path)
		return ok
	})
	for _, e := range enforces {
		if left[e.Path] {
			panic(fmt.Sprintf("api: %s enforces %s, which is no member or is enforced as part of another path", op.Name, e.Path))
		}
	}
	r.checkRequired(op)
	return r
}

// newRefusals returns the members of structure t that are not covered. It asks once for every path it
// visits, a structure's ending in ".*".
func newRefusals(t reflect.Type, prefix string, covered func(path string) bool) *refusals {
	r := &refusals{}
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + f.Name
		switch s := structOf(f.Type); {
		case s == nil && !covered(path):
			r.fields = append(r.fields, refusal{index: i, path: path})
		case s != nil && !covered(path+".*"):
			if below := newRefusals(s, path+".", covered); len(below.fields) > 0 {
				r.fields = append(r.fields, refusal{index: i, path: path, below: below})
			}
		}
	}
	return r
}

// structOf returns the structure that a member of type t is or is a list of, nil if it is none.
func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return nil
	}
	return t
}

// checkRequired panics if a request could never be served because a member that it must have is refused.
func (r *refusals) checkRequired(op *Operation) {
	for _, f := range r.fields {
		if f.below == nil && op.Input.Field(f.index).Tag.Get("required") != "" {
			panic(fmt.Sprintf("api: %s does not enforce its required member %s", op.Name, f.path))
		}
	}
}

// firstSet returns the path of the first member set in the structure v that is refused, "" if there is none. A scalar is set
// when it was given, whatever its value; a list, map or blob when it has content; a structure when one of its members is.
func (r *refusals) firstSet(v reflect.Value) string {
	for _, f := range r.fields {
		if path := f.firstSet(v.Field(f.index)); path != "" {
			return path
		}
	}
	return ""
}

func (f refusal) firstSet(v reflect.Value) string {
	switch {
	case v.IsNil():
		return ""
	case v.Kind() == reflect.Pointer && f.below != nil:
		return f.below.firstSet(v.Elem())
	case v.Kind() == reflect.Pointer:
		return f.path
	case f.below != nil:
		return f.below.firstInList(v)
	case v.Len() > 0:
		return f.path
	}
	return ""
}

func (r *refusals) firstInList(list reflect.Value) string {
	for i := range list.Len() {
		if path := r.firstSet(list.Index(i)); path != "" {
			return path
		}
	}
	return ""
}
