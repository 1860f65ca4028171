// Package apitest has what tests of the API's shapes share: filled shapes, and where the AWS SDK's snapshots are.
package apitest

import (
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"kiln/api"
)

// SDKDir returns the folder of the source of the pinned github.com/aws/aws-sdk-go-v2/service/lambda. A test that reads files
// there should import a package of that module too: Go caches a test's result by what the test links, not by what it reads in
// other modules, and would not run it again when the version changes.
func SDKDir(t testing.TB) string {
	t.Helper()
	b, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/lambda").Output()
	dir := strings.TrimSpace(string(b))
	if err != nil || dir == "" {
		t.Fatalf("find the AWS SDK in the module cache (try go mod download): %v", err)
	}
	return dir
}

// Filled returns a pointer to a value of the structure t with every member set to what the SDK's snapshots set it to: a string
// named "__Member__" after its member, an enum's first value, 1, true, "blob", the first second of 2000, two elements in each
// list, one entry in each map. A member that becomes the status is 200. An event stream is left out.
func Filled(t reflect.Type) any {
	p := reflect.New(t)
	for i := range t.NumField() {
		f := t.Field(i)
		switch v := p.Elem().Field(i); {
		case f.Tag.Get("payload") == "events":
		case f.Tag.Get("status") != "":
			n := int32(200)
			v.Set(reflect.ValueOf(&n))
		default:
			fill(v, f.Name, f.Tag.Get("enum"))
		}
	}
	return p.Interface()
}

func fill(v reflect.Value, name, enum string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name, enum)
	case reflect.Slice:
		fillSlice(v, enum)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, "Value", enum)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key0"), e)
	case reflect.String:
		v.SetString("__" + name + "__")
		if enum != "" {
			v.SetString(api.Enum(enum)[0])
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Struct:
		fillStruct(v)
	default:
		panic("apitest: no value for a " + v.Type().String())
	}
}

func fillSlice(v reflect.Value, enum string) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes([]byte("blob"))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 2, 2))
	for i := range v.Len() {
		fill(v.Index(i), "Member", enum)
	}
}

func fillStruct(v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
		return
	}
	v.Set(reflect.ValueOf(Filled(v.Type())).Elem())
}
