package attack

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"kiln/kilntest"
)

// headersOf calls a function and returns the headers of the HTTP answer.
func headersOf(t *testing.T, n *kilntest.Node, function, payload string) http.Header {
	t.Helper()
	var got http.Header
	keep := middleware.DeserializeMiddlewareFunc("keepHeaders", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, m, err := next.HandleDeserialize(ctx, in)
		if r, ok := out.RawResponse.(*smithyhttp.Response); ok {
			got = r.Header
		}
		return out, m, err
	})
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: &function, Payload: []byte(payload), LogType: types.LogTypeTail,
	}, func(o *lambda.Options) {
		o.APIOptions = append(o.APIOptions, func(s *middleware.Stack) error { return s.Deserialize.Add(keep, middleware.After) })
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// injected is what must not become a header.
const injected = "X-Kiln-Injected"

func TestAFunctionPutsNoHeaderIntoItsAnswer(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "injects", MemoryMB: 256, Zip: program(t, "headers.py")})
	n.Deploy(t.Context(), kilntest.Function{Name: "init", MemoryMB: 256, Zip: program(t, "headers.py"), Env: map[string]string{"FAIL_INIT": "1"}})
	headersOf(t, n, "injects", `"answer"`) // a cold start has a header more
	answered := slices.Sorted(maps.Keys(headersOf(t, n, "injects", `"nothing"`)))
	for _, by := range []string{"answer", "log", "type", "message", "frame"} {
		check(t, by, headersOf(t, n, "injects", encode(t, by)), answered)
	}
	check(t, "init", headersOf(t, n, "init", `{}`), append(answered, "Server-Timing"))
}

// check wants no header that another answer does not have, but the one for functions that fail, and nothing in any of them of what was
// injected.
func check(t *testing.T, by string, got http.Header, usual []string) {
	t.Helper()
	for name, values := range got {
		if !slices.Contains(usual, name) && name != "X-Amz-Function-Error" && name != "Server-Timing" {
			t.Errorf("by %s: a header %s", by, name)
		}
		if text := strings.Join(values, ","); strings.Contains(text, injected) || name == "X-Amz-Function-Error" && text != "Unhandled" {
			t.Errorf("by %s: %s is %q", by, name, text)
		}
	}
}
