package api

import "reflect"

// FirstRefused returns the first member of in that a handler enforcing paths refuses, "" if there is none.
func FirstRefused(op *Operation, paths []string, in any) string {
	var enforces []Enforced
	for _, p := range paths {
		enforces = append(enforces, Enforced{Path: p})
	}
	return refusalsOf(op, enforces).firstSet(reflect.ValueOf(in).Elem())
}
