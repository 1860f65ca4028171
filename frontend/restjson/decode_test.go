package restjson_test

import (
	"bytes"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"kiln"
	"kiln/api"
	"kiln/frontend/restjson"
)

func ptr[T any](v T) *T { return &v }

func decode(t testing.TB, method, uri string, h http.Header, body string) (any, error) {
	t.Helper()
	m, err := restjson.NewRouter(api.Operations()).Route(newRequest(t, method, uri))
	if err != nil {
		t.Fatal(err)
	}
	return restjson.NewCodec(api.Operations()).Decode(m, h, []byte(body))
}

func TestDecodeTakesWhatJSONAllows(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       api.CreateFunctionRequest
	}{
		{"no body", ``, api.CreateFunctionRequest{}},
		{"an empty object", ` { } `, api.CreateFunctionRequest{}},
		{"space everywhere", "\t{ \"Timeout\" :\r\n 3 , \"Publish\" : true }\n", api.CreateFunctionRequest{Timeout: ptr(int32(3)), Publish: ptr(true)}},
		{"null", `{"Timeout":null,"Layers":null,"Code":null}`, api.CreateFunctionRequest{}},
		{"false and zero", `{"Timeout":0,"Publish":false,"Description":""}`, api.CreateFunctionRequest{Timeout: ptr(int32(0)), Publish: ptr(false), Description: ptr("")}},
		{"given but empty", `{"Layers":[],"Tags":{},"VpcConfig":{},"Code":{"ZipFile":""}}`, api.CreateFunctionRequest{
			Layers: []string{}, Tags: map[string]string{}, VpcConfig: &api.VpcConfig{}, Code: &api.FunctionCode{ZipFile: []byte{}}}},
		{"a member given twice", `{"Timeout":3,"Timeout":4,"Tags":{"a":"1","b":"2"},"Tags":{"a":"3"}}`, api.CreateFunctionRequest{Timeout: ptr(int32(4)), Tags: map[string]string{"a": "3"}}},
		{"a member taken back", `{"Timeout":3,"Timeout":null}`, api.CreateFunctionRequest{}},
		{"unknown members", `{"X":[{"a":"]}"},1,null,true,-1e3],"Y":{"Timeout":9},"Z":"\"","timeout":7,"Timeout":3}`, api.CreateFunctionRequest{Timeout: ptr(int32(3))}},
		{"escapes", `{"Description":"\u00e9\ud83d\ude00\"\\\/\n"}`, api.CreateFunctionRequest{Description: ptr("é😀\"\\/\n")}},
		{"base64 with an escaped slash", `{"Code":{"ZipFile":"\/\/8="}}`, api.CreateFunctionRequest{Code: &api.FunctionCode{ZipFile: []byte{0xff, 0xff}}}},
		{"the widest integers", `{"Timeout":-2147483648,"MemorySize":2147483647}`, api.CreateFunctionRequest{Timeout: ptr(int32(-2147483648)), MemorySize: ptr(int32(2147483647))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decode(t, "POST", "/2015-03-31/functions", nil, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, &c.want) {
				t.Errorf("decoded\n%s\nwant\n%s", show(t, got), show(t, c.want))
			}
		})
	}
}

func TestDecodeRefusesWhatAMemberCannotHold(t *testing.T) {
	for _, c := range []struct {
		name, body string
		kind       kiln.Kind
		want       string
	}{
		{"no JSON", `Timeout=3`, kiln.InvalidRequestContent, "Could not parse request body into json: "},
		{"half an object", `{"Timeout":3`, kiln.InvalidRequestContent, "Could not parse request body into json: "},
		{"two values", `{} {}`, kiln.InvalidRequestContent, "Could not parse request body into json: "},
		{"invalid UTF-8", "{\"Description\":\"\xff\"}", kiln.InvalidRequestContent, "Invalid UTF-8"},
		{"depth without end", strings.Repeat(`{"Code":`, 100_000) + "1" + strings.Repeat("}", 100_000), kiln.InvalidRequestContent, "depth"},
		{"a list in place of the object", `[]`, kiln.Serialization, "Start of list found where not expected"},
		{"null in place of the object", `null`, kiln.Serialization, "NULL_VALUE can not be converted to a structure or map"},
		{"a string for an integer", `{"Timeout":"3"}`, kiln.Serialization, "STRING_VALUE can not be converted to an Integer"},
		{"a fraction for an integer", `{"Timeout":3.5}`, kiln.Serialization, "NUMBER_VALUE can not be converted to an Integer"},
		{"an integer too large", `{"Timeout":2147483648}`, kiln.Serialization, "NUMBER_VALUE can not be converted to an Integer"},
		{"a number for a string", `{"Role":1}`, kiln.Serialization, "NUMBER_VALUE can not be converted to a String"},
		{"a structure for a string", `{"Role":{}}`, kiln.Serialization, "Start of structure or map found where not expected."},
		{"a string for a boolean", `{"Publish":"true"}`, kiln.Serialization, "STRING_VALUE can not be converted to a Boolean"},
		{"a string for a list", `{"Layers":"a"}`, kiln.Serialization, "STRING_VALUE can not be converted to a list"},
		{"null in a list", `{"Layers":[null]}`, kiln.Serialization, "NULL_VALUE can not be converted to a String"},
		{"null in a map", `{"Tags":{"a":null}}`, kiln.Serialization, "NULL_VALUE can not be converted to a String"},
		{"a map for a list deep down", `{"VpcConfig":{"SubnetIds":{}}}`, kiln.Serialization, "Start of structure or map found where not expected."},
		{"no base64", `{"Code":{"ZipFile":"*"}}`, kiln.Serialization, "Value is not base64"},
		{"a number for a blob", `{"Code":{"ZipFile":1}}`, kiln.Serialization, "NUMBER_VALUE can not be converted to a Blob"},
		{"elements without end", `{"FileSystemConfigs":[` + strings.Repeat("{},", 20_000) + `{}]}`, kiln.Serialization, "More than 20000 list elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, err := decode(t, "POST", "/2015-03-31/functions", nil, c.body)
			e, ok := errors.AsType[*kiln.Error](err)
			if !ok || e.Kind != c.kind || !strings.Contains(e.Message, c.want) || in != nil {
				t.Errorf("Decode = %v, %v; want kind %d and %q", in, err, c.kind, c.want)
			}
		})
	}
}

func TestTimestampsAreSecondsInJSON(t *testing.T) {
	for body, want := range map[string]time.Time{
		`0`:             time.Unix(0, 0).UTC(),
		`1700000000`:    time.Unix(1700000000, 0).UTC(),
		`1700000000.25`: time.UnixMilli(1700000000250).UTC(),
		`1.7E9`:         time.Unix(1700000000, 0).UTC(),
	} {
		in, err := decode(t, "POST", "/2015-03-31/event-source-mappings", nil, `{"StartingPositionTimestamp":`+body+`}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := in.(*api.CreateEventSourceMappingRequest).StartingPositionTimestamp; got == nil || !got.Equal(want) {
			t.Errorf("%s = %v, want %v", body, got, want)
		}
	}
	for _, body := range []string{`"2024-01-01T00:00:00Z"`, `1e300`, `-1`, `1e400`, `253402300800`, `true`} {
		if in, err := decode(t, "POST", "/2015-03-31/event-source-mappings", nil, `{"StartingPositionTimestamp":`+body+`}`); kiln.KindOf(err) != kiln.Serialization {
			t.Errorf("%s = %v, %v", body, in, err)
		}
	}
}

func TestParametersMustHaveTheirMembersType(t *testing.T) {
	for _, uri := range []string{
		"/2015-03-31/functions?MaxItems=x",
		"/2015-03-31/functions?MaxItems=99999999999",
		"/2015-03-31/functions?MaxItems=",
		"/2015-03-31/functions?Marker=%ff",
		"/2018-10-31/layers/l/versions/x",
		"/2025-12-01/durable-executions/a?IncludeExecutionData=yes",
		"/2025-12-01/functions/f/durable-executions?StartedAfter=1700000000",
	} {
		if in, err := decode(t, "GET", uri, nil, ""); kiln.KindOf(err) != kiln.Serialization {
			t.Errorf("%s = %v, %v", uri, in, err)
		}
	}
}

func TestARawPayloadIsTheBody(t *testing.T) {
	h := http.Header{}
	h.Set("x-amz-log-type", "Tail")
	h.Set("X-Amz-Client-Context", "")
	in, err := decode(t, "POST", "/2021-11-15/functions/f/response-streaming-invocations?Qualifier=%24LATEST", h, "not {json")
	if err != nil {
		t.Fatal(err)
	}
	want := &api.InvokeWithResponseStreamRequest{FunctionName: ptr("f"), LogType: ptr("Tail"), Qualifier: ptr("$LATEST"), Payload: []byte("not {json")}
	if !reflect.DeepEqual(in, want) {
		t.Errorf("decoded\n%s\nwant\n%s", show(t, in), show(t, want))
	}
}

func TestAnOperationWithoutABodyIgnoresOne(t *testing.T) {
	in, err := decode(t, "GET", "/2015-03-31/functions/f", nil, "{not json")
	if want := (&api.GetFunctionRequest{FunctionName: ptr("f")}); err != nil || !reflect.DeepEqual(in, want) {
		t.Errorf("Decode = %v, %v", in, err)
	}
}

func FuzzRouteAndDecode(f *testing.F) {
	f.Add("POST", "/2015-03-31/functions", `{"Code":{"ZipFile":"YQ=="},"Tags":{"a":"b"},"Layers":["l"],"X":[{}]}`)
	f.Add("POST", "/2015-03-31/event-source-mappings/", `{"StartingPositionTimestamp":1.5,"SelfManagedEventSource":{"Endpoints":{"k":["a"]}}}`)
	f.Add("PUT", "/2015-03-31/functions/f/aliases/a", `{"RoutingConfig":{"AdditionalVersionWeights":{"1":0.5}}}`)
	f.Add("DELETE", "/2017-03-31/tags/arn%3Aa%2Fb?tagKeys=a&tagKeys=b", "")
	f.Add("GET", "/2018-10-31/layers?find=LayerVersion&Arn=%20", "")
	f.Add("POST", "/2025-12-01/durable-executions/a/stop", `{"StackTrace":["\ud800"],"ErrorData":"\/"}`)
	router, codec := restjson.NewRouter(api.Operations()), restjson.NewCodec(api.Operations())
	shapes := shapesCodec()
	f.Fuzz(func(t *testing.T, method, uri, body string) {
		u, err := http.NewRequest(method, uri, nil)
		if err != nil {
			return
		}
		m, err := router.Route(u)
		if err != nil {
			return
		}
		in, err := codec.Decode(m, u.Header, []byte(body))
		if err != nil {
			if k := kiln.KindOf(err); k != kiln.Serialization && k != kiln.InvalidRequestContent {
				t.Fatalf("error %v", err)
			}
			return
		}
		shapes.checkRoundTrip(t, m.Operation, in)
	})
}

// shapes encodes inputs as if they were outputs, so that what was decoded can be decoded again.
type shapes struct {
	codec *restjson.Codec
	ops   map[*api.Operation]*api.Operation
}

func shapesCodec() shapes {
	s := shapes{ops: map[*api.Operation]*api.Operation{}}
	var mirrored []*api.Operation
	for _, op := range api.Operations() {
		s.ops[op] = &api.Operation{Name: op.Name, Method: "POST", Path: "/" + op.Name, Status: 200, Input: op.Input, Output: op.Input}
		mirrored = append(mirrored, s.ops[op])
	}
	s.codec = restjson.NewCodec(mirrored)
	return s
}

// checkRoundTrip says that the body which an input encodes to decodes, and encodes to the same again.
func (s shapes) checkRoundTrip(t *testing.T, op *api.Operation, in any) {
	t.Helper()
	mirror := s.ops[op]
	first, err := s.codec.Encode(mirror, in)
	if err != nil {
		t.Fatalf("encode what was decoded: %v", err)
	}
	again := reflect.New(op.Input).Interface()
	if err := s.codec.DecodeBody(mirror, again, first.Body); err != nil {
		t.Fatalf("decode %s: %v", first.Body, err)
	}
	second, err := s.codec.Encode(mirror, again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Body, second.Body) {
		t.Fatalf("%s\nbecame\n%s", first.Body, second.Body)
	}
}
