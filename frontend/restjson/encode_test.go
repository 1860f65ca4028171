package restjson_test

import (
	"encoding/json"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"kiln/api"
	"kiln/frontend/restjson"
)

func TestInvokesAnswerTravelsInStatusHeadersAndBody(t *testing.T) {
	resp, err := restjson.NewCodec(api.Operations()).Encode(api.Invoke, &api.InvocationResponse{
		StatusCode: ptr(int32(202)), ExecutedVersion: ptr("$LATEST"), FunctionError: ptr("Unhandled"), Payload: []byte("null"),
	})
	want := restjson.Response{Status: 202, Body: []byte("null"), Header: http.Header{
		"X-Amz-Executed-Version": {"$LATEST"}, "X-Amz-Function-Error": {"Unhandled"}, "Content-Type": {"application/octet-stream"}}}
	if err != nil || !reflect.DeepEqual(resp, want) {
		t.Errorf("Encode = %+v, %v; want %+v", resp, err, want)
	}
}

func TestAnOutputWithoutABodyHasNone(t *testing.T) {
	codec := restjson.NewCodec(api.Operations())
	for _, c := range []struct {
		op     *api.Operation
		out    any
		status int
	}{
		{api.DeleteAlias, &api.Unit{}, 204},
		{api.DeleteFunction, &api.DeleteFunctionResponse{StatusCode: ptr(int32(204))}, 204},
		{api.DeleteFunction, &api.DeleteFunctionResponse{}, 200},
		{api.Invoke, &api.InvocationResponse{StatusCode: ptr(int32(204))}, 204},
	} {
		resp, err := codec.Encode(c.op, c.out)
		if err != nil || resp.Status != c.status || resp.Body != nil || len(resp.Header) != 0 {
			t.Errorf("%s: %+v, %v", c.op.Name, resp, err)
		}
	}
}

func TestJSONOfAnOutput(t *testing.T) {
	codec := restjson.NewCodec(api.Operations())
	for _, c := range []struct {
		name string
		op   *api.Operation
		out  any
		want string
	}{
		{"nothing set", api.ListFunctions, &api.ListFunctionsResponse{}, `{}`},
		{"an empty list", api.ListFunctions, &api.ListFunctionsResponse{Functions: []api.FunctionConfiguration{}}, `{"Functions":[]}`},
		{"a map in order", api.ListTags, &api.ListTagsResponse{Tags: map[string]string{"b": "2", "a": "1"}}, `{"Tags":{"a":"1","b":"2"}}`},
		{"text beyond ASCII", api.ListTags, &api.ListTagsResponse{Tags: map[string]string{"é<": "\"\\\n"}}, `{"Tags":{"é<":"\"\\\n"}}`},
		{"a double", api.GetAlias, &api.AliasConfiguration{RoutingConfig: &api.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{"2": 0.05}}},
			`{"RoutingConfig":{"AdditionalVersionWeights":{"2":0.05}}}`},
		{"a whole second", api.GetEventSourceMapping, &api.EventSourceMappingConfiguration{LastModified: ptr(time.Unix(1700000000, 0))}, `{"LastModified":1700000000}`},
		{"milliseconds", api.GetEventSourceMapping, &api.EventSourceMappingConfiguration{LastModified: ptr(time.UnixMilli(1700000000042))}, `{"LastModified":1700000000.042}`},
	} {
		resp, err := codec.Encode(c.op, c.out)
		if err != nil || string(resp.Body) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.name, resp.Body, err, c.want)
		}
	}
}

func TestEncodeRefusesWhatHasNoForm(t *testing.T) {
	codec := restjson.NewCodec(api.Operations())
	for name, c := range map[string]struct {
		op  *api.Operation
		out any
	}{
		"an event stream":   {api.InvokeWithResponseStream, &api.InvokeWithResponseStreamResponse{EventStream: &api.InvokeWithResponseStreamResponseEvent{}}},
		"another output":    {api.Invoke, &api.Unit{}},
		"a nil output":      {api.DeleteAlias, (*api.Unit)(nil)},
		"nothing":           {api.DeleteAlias, nil},
		"no number":         {api.GetAlias, &api.AliasConfiguration{RoutingConfig: &api.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{"2": math.NaN()}}}},
		"a number too many": {api.GetAlias, &api.AliasConfiguration{RoutingConfig: &api.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{"2": math.Inf(1)}}}},
	} {
		if resp, err := codec.Encode(c.op, c.out); err == nil {
			t.Errorf("%s: %+v", name, resp)
		}
	}
}

// The bodies are what AWS answered, as far as clients can see.
func TestErrorsHaveAWSsForm(t *testing.T) {
	codec := restjson.NewCodec(api.Operations())
	for _, c := range []struct {
		code    string
		status  int
		message string
		extra   map[string]string
		body    string
		retry   string
	}{
		{"ResourceNotFoundException", 404, "Function not found: f", nil, `{"Type":"User","Message":"Function not found: f"}`, ""},
		{"InvalidParameterValueException", 400, "a \"b\"", nil, `{"Type":"User","message":"a \"b\""}`, ""},
		{"InvalidParameterValueException", 400, "m", map[string]string{"Type": ""}, `{"message":"m"}`, ""},
		{"TooManyRequestsException", 429, "Rate Exceeded.", map[string]string{"Reason": "ConcurrentInvocationLimitExceeded", "retryAfterSeconds": "1"},
			`{"Type":"User","Reason":"ConcurrentInvocationLimitExceeded","message":"Rate Exceeded."}`, "1"},
		{"ResourceConflictException", 409, "m", map[string]string{"Reason": "x"}, `{"Type":"User","message":"m"}`, ""},
		{"ServiceException", 500, "m", nil, `{"Type":"Server","Message":"m"}`, ""},
		{"ValidationException", 400, "1 validation error detected", map[string]string{"Type": "User"}, `{"message":"1 validation error detected"}`, ""},
		{"AccessDeniedException", 403, "", nil, `{"message":null}`, ""},
	} {
		resp := codec.Error(c.code, c.status, c.message, c.extra)
		if string(resp.Body) != c.body || resp.Status != c.status || resp.Header.Get("Retry-After") != c.retry || resp.Header.Get("X-Amzn-ErrorType") != c.code {
			t.Errorf("%s: %+v %s", c.code, resp, resp.Body)
		}
		if !json.Valid(resp.Body) {
			t.Errorf("%s: no JSON: %s", c.code, resp.Body)
		}
	}
}

func BenchmarkInvoke(b *testing.B) {
	router, codec := restjson.NewRouter(api.Operations()), restjson.NewCodec(api.Operations())
	req := newRequest(b, "POST", "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af/invocations?Qualifier=%24LATEST")
	req.Header.Set("X-Amz-Log-Type", "Tail")
	body := []byte(strings.Repeat("x", 1024))
	for b.Loop() {
		m, err := router.Route(req)
		if err != nil {
			b.Fatal(err)
		}
		in, err := codec.Decode(m, req.Header, body)
		if err != nil {
			b.Fatal(err)
		}
		out := &api.InvocationResponse{StatusCode: ptr(int32(200)), ExecutedVersion: ptr("$LATEST"), Payload: in.(*api.InvocationRequest).Payload}
		if _, err := codec.Encode(m.Operation, out); err != nil {
			b.Fatal(err)
		}
	}
}
