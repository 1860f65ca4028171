package frontend

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln"
)

// recorder is an Invoker that answers what it is told to and keeps what it was asked.
type recorder struct {
	result     kiln.Result
	err        error
	target     Target
	invocation kiln.Invocation
	invoked    int
}

func (r *recorder) Invoke(_ context.Context, t Target, inv kiln.Invocation) (kiln.Result, *kiln.Version, error) {
	r.target, r.invocation = t, inv
	r.invoked++
	return r.result, &kiln.Version{Qualifier: "7"}, r.err
}

func (r *recorder) Allows(_ context.Context, t Target, a kiln.Access) bool {
	return t.Function == "shared" && a.Account == account
}

func (r *recorder) Check(_ context.Context, t Target) error {
	r.target = t
	return r.err
}

func TestInvokeCarriesTheInvocationBothWays(t *testing.T) {
	rec := &recorder{result: kiln.Result{
		Payload: []byte(`{"ok":true}`), LogTail: []byte(strings.Repeat("a", 100) + strings.Repeat("b", kiln.MaxLogTail)),
		Timing: kiln.Timing{Sandbox: 1500 * time.Microsecond, Init: 2 * time.Millisecond, Handler: 250 * time.Microsecond},
	}}
	s := start(t, serving(InvokeHandler(region, rec)))
	out, err := s.client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("arn:aws:lambda:us-east-1:123456789012:function:hello"), Qualifier: aws.String("prod"), Payload: []byte(`{"a":"ü"}`),
		LogType: types.LogTypeTail, ClientContext: aws.String(base64.StdEncoding.EncodeToString([]byte(`{"custom":{"k":"v"}}`))),
	})
	if err != nil {
		t.Fatal(err)
	}
	id, _ := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	if want := (Target{account, "hello", "prod"}); rec.target != want {
		t.Errorf("target is %+v", rec.target)
	}
	inv := rec.invocation
	if inv.FunctionARN != "arn:aws:lambda:us-east-1:123456789012:function:hello:prod" || string(inv.Payload) != `{"a":"ü"}` ||
		inv.ClientContext != `{"custom":{"k":"v"}}` || string(inv.ID) != id || !uuidPattern.MatchString(id) {
		t.Errorf("invocation is %+v of request %s", inv, id)
	}
	if out.StatusCode != 200 || string(out.Payload) != `{"ok":true}` || *out.ExecutedVersion != "7" || out.FunctionError != nil {
		t.Errorf("answer is %+v", out)
	}
	if tail, err := base64.StdEncoding.DecodeString(*out.LogResult); err != nil || string(tail) != strings.Repeat("b", kiln.MaxLogTail) {
		t.Errorf("log result is %q, %v", tail, err)
	}
}

const invokePath = "/2015-03-31/functions/f/invocations"

func TestInvokeAnswersWithItsHeaders(t *testing.T) {
	rec := &recorder{result: kiln.Result{Payload: []byte(`{"errorMessage":"x"}`), FunctionError: "Unhandled",
		Timing: kiln.Timing{Queue: time.Millisecond, Sandbox: 1500 * time.Microsecond, Guest: time.Millisecond, Init: 2 * time.Millisecond, Handler: 250 * time.Microsecond}}}
	s := start(t, open, serving(InvokeHandler(region, rec)))
	got := s.send(t, "POST", invokePath, "")
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Amz-Function-Error": "Unhandled", "X-Amz-Executed-Version": "7", "X-Amz-Log-Result": "",
		"X-Amzn-Requestid": string(rec.invocation.ID), "X-Amzn-Trace-Id": rec.invocation.TraceID,
		"Server-Timing": "queue;dur=1.000, sandbox;dur=1.500, guest;dur=1.000, init;dur=2.000, handler;dur=0.250",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got.status != 200 || got.body != `{"errorMessage":"x"}` || string(rec.invocation.Payload) != "{}" {
		t.Errorf("got %d %s for %q", got.status, got.body, rec.invocation.Payload)
	}
	rec.result.Timing = kiln.Timing{Handler: time.Millisecond}
	if got := s.send(t, "POST", invokePath, ""); got.header.Get("Server-Timing") != "handler;dur=1.000" {
		t.Errorf("warm: Server-Timing is %q", got.header.Get("Server-Timing"))
	}
}

func TestDryRunRunsNothing(t *testing.T) {
	rec := &recorder{}
	s := start(t, open, serving(InvokeHandler(region, rec)))
	got := s.send(t, "POST", invokePath+"?Qualifier=1", "{}", "X-Amz-Invocation-Type", "DryRun")
	if got.status != 204 || got.body != "" || rec.invoked != 0 || rec.target.Qualifier != "1" {
		t.Errorf("got %+v for %+v", got, rec)
	}
	rec.err = kiln.Errorf(kiln.ResourceNotFound, "no")
	s.send(t, "POST", invokePath, "{}", "X-Amz-Invocation-Type", "DryRun").isFault(t, 404, "ResourceNotFoundException")
}

func TestInvokeRefusals(t *testing.T) {
	contextOf := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	const badContext = "Client context must be a valid Base64-encoded JSON object."
	rec := &recorder{}
	s := start(t, open, serving(InvokeHandler(region, rec)))
	for _, tt := range []struct {
		name, path, body string
		header           []string
		status           int
		code, message    string
	}{
		{"event", invokePath, "", []string{"X-Amz-Invocation-Type", "Event"}, 400, "InvalidParameterValueException", "kiln does not support Invoke member InvocationType with the value Event"},
		{"unknown type", invokePath, "", []string{"X-Amz-Invocation-Type", "event"}, 400, "ValidationException",
			"1 validation error detected: Value 'event' at 'invocationType' failed to satisfy constraint: Member must satisfy enum value set: [Event, RequestResponse, DryRun]"},
		{"two at once", invokePath, "", []string{"X-Amz-Invocation-Type", "a", "X-Amz-Log-Type", "b"}, 400, "ValidationException", "2 validation errors detected: Value 'a' at"},
		{"unknown log type", invokePath, "", []string{"X-Amz-Log-Type", "tail"}, 400, "ValidationException",
			"1 validation error detected: Value 'tail' at 'logType' failed to satisfy constraint: Member must satisfy enum value set: [None, Tail]"},
		{"name", "/2015-03-31/functions/a!/invocations", "", nil, 400, "ValidationException", "1 validation error detected: Value 'a!' at 'functionName'"},
		{"region", "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Af/invocations", "", nil, 404, "ResourceNotFoundException",
			"Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"},
		{"account", "/2015-03-31/functions/000000000000%3Afunction%3Af/invocations", "", nil, 403, "AccessDeniedException", "lambda:InvokeFunction"},
		{"tenant", invokePath, "", []string{"X-Amz-Tenant-Id", "a"}, 400, "InvalidParameterValueException", "kiln does not support Invoke member TenantId"},
		{"durable", invokePath, "", []string{"X-Amz-Durable-Execution-Name", "a"}, 400, "InvalidParameterValueException", "kiln does not support Invoke member DurableExecutionName"},
		{"context not base64", invokePath, "", []string{"X-Amz-Client-Context", "{}"}, 400, "InvalidRequestContentException", badContext},
		{"context not JSON", invokePath, "", []string{"X-Amz-Client-Context", contextOf("{")}, 400, "InvalidRequestContentException", badContext},
		{"context no object", invokePath, "", []string{"X-Amz-Client-Context", contextOf("[]")}, 400, "InvalidRequestContentException", badContext},
		{"context not UTF-8", invokePath, "", []string{"X-Amz-Client-Context", contextOf("{\"a\":\"\xff\"}")}, 400, "InvalidRequestContentException", badContext},
		{"context too long", invokePath, "", []string{"X-Amz-Client-Context", contextOf(`{"a":"` + strings.Repeat("a", 2700) + `"}`)}, 400, "InvalidRequestContentException", "no more than 3583 bytes"},
		{"payload", invokePath, "nope", nil, 400, "InvalidRequestContentException", "Could not parse request body into json: Could not parse payload into json: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := s.send(t, "POST", tt.path, tt.body, tt.header...)
			var answer struct{ Message string } // matches "message" too
			if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
				t.Fatal(err)
			}
			if got.isFault(t, tt.status, tt.code); !strings.Contains(answer.Message, tt.message) {
				t.Errorf("message is %s", answer.Message)
			}
		})
	}
	if rec.invoked != 0 {
		t.Errorf("%d were invoked", rec.invoked)
	}
}

func TestPayloadsThatAreNotJSON(t *testing.T) {
	const end = "\n at [Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: "
	for in, want := range map[string]string{
		"n\x87r\x9e\xe9\xb5\xd7I\xee\x9bmt": "Invalid UTF-8 start byte 0x87" + end + "1, column: 3]",
		"\"\xc3(\"":                         "Invalid UTF-8 middle byte 0x28" + end + "1, column: 4]",
		"\"a\xc3":                           "Invalid UTF-8 start byte 0xc3" + end + "1, column: 4]",
		"{a}":                               "Unexpected character ('a' (code 97)): was expecting double-quote to start field name" + end + "1, column: 3]",
		"{\"a\":1,}":                        "Unexpected character ('}' (code 125)): was expecting double-quote to start field name" + end + "1, column: 9]",
		"{\"a\" 1}":                         "Unexpected character ('1' (code 49)): was expecting a colon to separate field name and value" + end + "1, column: 7]",
		"{\"a\":1 \"b\"}":                   "Unexpected character ('\"' (code 34)): was expecting comma to separate Object entries" + end + "1, column: 9]",
		"[1 a]":                             "Unexpected character ('a' (code 97)): was expecting comma to separate Array entries" + end + "1, column: 5]",
		"{\"a\":}":                          "Unexpected character ('}' (code 125)): expected a value" + end + "1, column: 7]",
		"[\n 1,\n *]":                       "Unexpected character ('*' (code 42)): expected a valid value " + values + end + "3, column: 3]",
		"not json":                          "Unrecognized token 'not': was expecting " + values + end + "1, column: 5]",
		"nope":                              "Unrecognized token 'nope': was expecting " + values + end + "1, column: 5]",
		"[truex]":                           "Unrecognized token 'truex': was expecting " + values + end + "1, column: 8]",
		"\"a\nb\"":                          "Illegal unquoted character ((CTRL-CHAR, code 10)): has to be escaped using backslash to be included in string value" + end + "2, column: 1]",
		`"\x"`:                              "Unrecognized character escape 'x' (code 120)" + end + "1, column: 4]",
		"{":                                 "Unexpected end-of-input" + end + "1, column: 2]",
		" ":                                 "Unexpected end-of-input" + end + "1, column: 2]",
	} {
		err := checkPayload([]byte(in))
		if kiln.KindOf(err) != kiln.InvalidRequestContent || err.Error() != "Could not parse request body into json: Could not parse payload into json: "+want {
			t.Errorf("%q: got %v", in, err)
		}
	}
}

func FuzzCheckPayload(f *testing.F) {
	for _, s := range []string{"{}", "[1, null]", "\"\xff\"", "{", "\xef\xbb\xbf{}", "1 2", "\"\xed\xa0\x80\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if err := checkPayload(p); (err == nil) != (json.Valid(p) && utf8.Valid(p)) {
			t.Errorf("%q: %v", p, err)
		}
	})
}

func TestTraceIDs(t *testing.T) {
	now := time.Unix(0x5f000000, 0)
	const root, parent = "1-5759e988-bd862e3fe1be46a994272793", "53995c3f42cd8ad8"
	for given, want := range map[string]string{
		"": `^Root=1-5f000000-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0$`,
		"Root=" + root + ";Parent=" + parent + ";Sampled=1": "^Root=" + root + ";Parent=" + parent + ";Sampled=1$",
		"Sampled=1; Root=" + root:                           "^Root=" + root + ";Parent=[0-9a-f]{16};Sampled=1$",
		"Root=" + root + ";Sampled=?;Lineage=1:2:3":         "^Root=" + root + ";Parent=[0-9a-f]{16};Sampled=0$",
		"Parent=" + parent:                                  `^Root=1-5f000000-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0$`,
		"Root=" + root + "\r\nX: y":                         `^Root=1-5f000000-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0$`,
		"Root=" + root + strings.Repeat(";x=y", maxTrace):   `^Root=1-5f000000-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0$`,
	} {
		if got, _ := traceID(given, now); !regexp.MustCompile(want).MatchString(got) || strings.Contains(got, "Parent="+parent) != strings.Contains(want, parent) {
			t.Errorf("%q: got %q, want %s", given, got, want)
		}
	}
}

func TestTheInvokersErrorIsTheAnswer(t *testing.T) {
	s := start(t, serving(InvokeHandler(region, &recorder{err: kiln.Errorf(kiln.ResourceNotFound, "Function not found: x")})))
	_, err := s.client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f")})
	if e, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok || e.ErrorMessage() != "Function not found: x" || *e.Type != "User" {
		t.Errorf("got %v", err)
	}
}

// command runs a client of AWS's with the credentials of the tests, or skips where it is not installed.
func (r *running) command(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+keyID, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_SESSION_TOKEN=", "AWS_DEFAULT_REGION="+string(region),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "ENDPOINT="+r.url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestTheAWSCLIIsServed(t *testing.T) {
	rec := &recorder{result: kiln.Result{Payload: []byte(`"hi"`)}}
	s := start(t, serving(InvokeHandler(region, rec)))
	out := s.command(t, "aws", "--endpoint-url", s.url, "lambda", "invoke", "--function-name",
		"arn:aws:lambda:us-east-1:123456789012:function:hello:$LATEST", "--payload", "{}", "/dev/stdout")
	if !strings.Contains(out, `"hi"`) || rec.target != (Target{account, "hello", "$LATEST"}) {
		t.Errorf("invoked %+v, printed %s", rec.target, out)
	}
}

const boto3Script = `
import os, urllib.request
try:
    import boto3
except ImportError:
    raise SystemExit(print("no boto3"))
c = boto3.client("lambda", endpoint_url=os.environ["ENDPOINT"])
r = c.invoke(FunctionName="arn:aws:lambda:us-east-1:123456789012:function:hello:$LATEST", Payload=b'{"a": "~ \\u00fc"}', LogType="Tail")
assert r["Payload"].read() == b'"hi"', r
for params in {"FunctionName": "hello"}, {"FunctionName": "a:b", "Qualifier": "x y+z/~"}:
    url = c.generate_presigned_url("get_function", Params=params)
    try:
        urllib.request.urlopen(url)
    except urllib.error.HTTPError as e:
        assert e.code == 501, e.read()
    try:
        urllib.request.urlopen(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"))
    except urllib.error.HTTPError as e:
        assert e.code == 403, e.read()
print("good")
`

func TestBoto3IsServed(t *testing.T) {
	rec := &recorder{result: kiln.Result{Payload: []byte(`"hi"`)}}
	s := start(t, serving(InvokeHandler(region, rec)))
	switch out := s.command(t, "python3", "-c", boto3Script); {
	case strings.Contains(out, "no boto3"):
		t.Skip("boto3 is not installed")
	case !strings.Contains(out, "good"):
		t.Error(out)
	}
}

func BenchmarkInvoke(b *testing.B) {
	rec := &recorder{result: kiln.Result{Payload: []byte(`"` + strings.Repeat("x", 1022) + `"`)}}
	s := start(b, serving(InvokeHandler(region, rec)))
	client, name, payload := s.client(), aws.String("hello"), rec.result.Payload
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Invoke(b.Context(), &lambda.InvokeInput{FunctionName: name, Payload: payload}); err != nil {
			b.Fatal(err)
		}
	}
}
