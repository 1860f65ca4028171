package api

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
)

// Table returns the document, in Markdown, that says what the handlers make of the API: every operation that is served with
// what becomes of each member, and every one that is not.
func Table(handlers []Handler) []byte {
	served := map[*Operation]Handler{}
	for _, h := range handlers {
		served[h.Operation] = h
	}
	ops := Operations()
	var b bytes.Buffer
	fmt.Fprintf(&b, "# The Lambda API in kiln\n\nGenerated from the code; do not edit.\n\n")
	fmt.Fprintf(&b, "kiln serves %d of the Lambda API's %d operations. ", len(served), len(ops))
	b.WriteString("A member is *enforced*, or a request that sets it is *refused* with InvalidParameterValueException. No member is accepted and ignored.\n\n")
	b.WriteString("| Operation | Request | |\n|---|---|---|\n")
	for _, op := range ops {
		state := "answers 501 ServiceException"
		if _, ok := served[op]; ok {
			state = fmt.Sprintf("[served](#%s)", strings.ToLower(op.Name))
		}
		fmt.Fprintf(&b, "| %s | `%s %s` | %s |\n", op.Name, op.Method, op.uri(), state)
	}
	for _, op := range ops {
		if h, ok := served[op]; ok {
			writeMembers(&b, h)
		}
	}
	return b.Bytes()
}

func (o *Operation) uri() string {
	if o.Query != "" {
		return o.Path + "?" + o.Query
	}
	return o.Path
}

func writeMembers(b *bytes.Buffer, h Handler) {
	fmt.Fprintf(b, "\n## %s\n\n", h.Operation.Name)
	if h.Operation.Input.NumField() == 0 {
		b.WriteString("No members.\n")
		return
	}
	notes := map[string]string{}
	for _, e := range h.Enforces {
		notes[e.Path] = e.Note
	}
	b.WriteString("| Member | |\n|---|---|\n")
	writeRows(b, h.Operation.Input, "", notes)
}

// writeRows writes a row for every member of t; a structure that is enforced or refused as a whole gets one for all its members.
func writeRows(b *bytes.Buffer, t reflect.Type, prefix string, notes map[string]string) {
	for i := range t.NumField() {
		path := prefix + t.Field(i).Name
		s := structOf(t.Field(i).Type)
		if s != nil {
			if anyBelow(notes, path+".") && !hasKey(notes, path+".*") {
				writeRows(b, s, path+".", notes)
				continue
			}
			path += ".*"
		}
		writeRow(b, path, notes)
	}
}

func writeRow(b *bytes.Buffer, path string, notes map[string]string) {
	note, ok := notes[path]
	switch {
	case !ok:
		fmt.Fprintf(b, "| `%s` | refused |\n", path)
	case note == "":
		fmt.Fprintf(b, "| `%s` | enforced |\n", path)
	default:
		fmt.Fprintf(b, "| `%s` | enforced: %s |\n", path, note)
	}
}

func hasKey(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

func anyBelow(m map[string]string, prefix string) bool {
	for key := range m {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}
