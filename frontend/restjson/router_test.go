package restjson_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"kiln"
	"kiln/api"
	"kiln/frontend/restjson"
)

// newRequest returns the request as a server would see it.
func newRequest(t testing.TB, method, uri string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Request{Method: method, URL: u, Header: http.Header{}}
}

func TestRouteFindsTheOperationAndItsLabels(t *testing.T) {
	router, codec := restjson.NewRouter(api.Operations()), restjson.NewCodec(api.Operations())
	for _, c := range []struct {
		name, method, uri string
		op                *api.Operation
		label             func(in any) *string
		want              string
	}{
		{"an encoded ARN", "GET", "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af", api.GetFunction, functionName, "arn:aws:lambda:us-east-1:000000000000:function:f"},
		{"an ARN as it is", "GET", "/2015-03-31/functions/arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST", api.GetFunction, functionName, "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST"},
		{"an encoded slash", "GET", "/2015-03-31/functions/a%2Fb/configuration", api.GetFunctionConfiguration, nameOfConfiguration, "a/b"},
		{"what was encoded twice", "GET", "/2015-03-31/functions/a%252Fb", api.GetFunction, functionName, "a%2Fb"},
		{"a plus sign", "GET", "/2015-03-31/functions/a+b", api.GetFunction, functionName, "a+b"},
		{"dots", "GET", "/2015-03-31/functions/..", api.GetFunction, functionName, ".."},
		{"a slash at the end", "GET", "/2015-03-31/functions/f/", api.GetFunction, functionName, "f"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := router.Route(newRequest(t, c.method, c.uri))
			if err != nil || m.Operation != c.op {
				t.Fatalf("Route = %v, %v", m.Operation, err)
			}
			in, err := codec.Decode(m, http.Header{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.label(in); got == nil || *got != c.want {
				t.Errorf("label = %v, want %q", got, c.want)
			}
		})
	}
}

func functionName(in any) *string { return in.(*api.GetFunctionRequest).FunctionName }
func nameOfConfiguration(in any) *string {
	return in.(*api.GetFunctionConfigurationRequest).FunctionName
}

func TestRouteTellsOperationsOfOnePathApart(t *testing.T) {
	router := restjson.NewRouter(api.Operations())
	for _, c := range []struct {
		method, uri string
		op          *api.Operation
		err         error
	}{
		{"GET", "/2015-03-31/functions", api.ListFunctions, nil},
		{"GET", "/2015-03-31/functions/", api.ListFunctions, nil},
		{"GET", "/2015-03-31/functions/?Marker=", api.ListFunctions, nil},
		{"POST", "/2015-03-31/functions", api.CreateFunction, nil},
		{"GET", "/2018-10-31/layers", api.ListLayers, nil},
		{"GET", "/2018-10-31/layers?find=LayerVersion&Arn=a", api.GetLayerVersionByArn, nil},
		{"GET", "/2018-10-31/layers?find=other", api.ListLayers, nil},
		{"GET", "/2019-09-30/functions/f/provisioned-concurrency?List=ALL", api.ListProvisionedConcurrencyConfigs, nil},
		{"GET", "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1", api.GetProvisionedConcurrencyConfig, nil},
		{"GET", "/2019-09-25/functions/f/event-invoke-config", api.GetFunctionEventInvokeConfig, nil},
		{"GET", "/2019-09-25/functions/f/event-invoke-config/list", api.ListFunctionEventInvokeConfigs, nil},
		{"GET", "/2017-03-31/tags/arn%3Aaws%3Alambda%3Aus-east-1%3A0%3Afunction%3Af", api.ListTags, nil},
		{"PATCH", "/2015-03-31/functions", nil, restjson.ErrMethodNotAllowed},
		{"DELETE", "/2018-10-31/layers", nil, restjson.ErrMethodNotAllowed},
		{"GET", "/", nil, restjson.ErrNoOperation},
		{"GET", "/2015-03-31", nil, restjson.ErrNoOperation},
		{"GET", "/2015-03-31/functions//configuration", nil, restjson.ErrNoOperation},
		{"GET", "/2015-03-31/functions/a/b/c", nil, restjson.ErrNoOperation},
		{"GET", "//2015-03-31/functions", nil, restjson.ErrNoOperation},
		{"GET", "/2015-03-31/functions/f" + strings.Repeat("/", 100_000), nil, restjson.ErrNoOperation},
		{"OPTIONS", "*", nil, restjson.ErrNoOperation},
	} {
		m, err := router.Route(newRequest(t, c.method, c.uri))
		if m.Operation != c.op || !errors.Is(err, c.err) {
			t.Errorf("%s %.80s = %v, %v; want %v, %v", c.method, c.uri, m.Operation, err, c.op, c.err)
		}
	}
}

func TestRouteRefusesAnAddressThatCannotBeDecoded(t *testing.T) {
	router := restjson.NewRouter(api.Operations())
	for _, uri := range []string{
		"/2015-03-31/functions/%ff",
		"/2015-03-31/functions?Marker=%zz",
		"/2015-03-31/functions?a;b",
		"/2015-03-31/functions?" + strings.Repeat("a&", 300),
	} {
		if _, err := router.Route(newRequest(t, "GET", uri)); kiln.KindOf(err) != kiln.InvalidRequestContent {
			t.Errorf("%.60s: %v", uri, err)
		}
	}
}

func TestTwoOperationsMayNotHaveOneAddress(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	restjson.NewRouter([]*api.Operation{api.GetFunction, api.ListFunctions, api.GetFunction})
}
