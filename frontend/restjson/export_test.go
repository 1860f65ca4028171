package restjson

import (
	"reflect"

	"kiln/api"
)

// DecodeBody decodes a body alone into the input in.
func (c *Codec) DecodeBody(op *api.Operation, in any, body []byte) error {
	return c.decodeBody(reflect.ValueOf(in).Elem(), c.planOf(op).input, body)
}
