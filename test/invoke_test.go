package test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

func TestFunctionsOfEveryRuntimeAnswer(t *testing.T) {
	n := kilntest.Start(t)
	for _, f := range []kilntest.Function{
		{Name: "go", Runtime: "provided.al2023", Handler: "bootstrap", Zip: kilntest.GoZip(t, "bench/echo")},
		{Name: "go-al2", Runtime: "provided.al2", Handler: "bootstrap", Zip: kilntest.GoZip(t, "bench/echo")},
		{Name: "python", Runtime: n.Runtime("python3"), Zip: python(t, echo)},
		{Name: "esm", Runtime: n.Runtime("nodejs"), Zip: kilntest.Zip(t, map[string]string{"index.mjs": "export const handler = async (event) => event;"})},
		{Name: "cjs", Runtime: n.Runtime("nodejs"), Zip: kilntest.Zip(t, map[string]string{"index.js": "exports.handler = async (event) => event;"})},
	} {
		t.Run(f.Name, func(t *testing.T) {
			n.Deploy(t.Context(), f)
			for i := range 3 {
				payload := fmt.Sprintf(`{"n":%d,"text":"äöü \u0000 %s"}`, i, strings.Repeat("x", 10000))
				want := fmt.Sprintf("%d", i)
				if got := value[map[string]any](t, n, f.Name, payload); fmt.Sprint(got["n"]) != want {
					t.Errorf("got %v", got["n"])
				}
			}
		})
	}
}

func TestTheFunctionSeesItsInvocation(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "context", Timeout: 7, MemoryMB: 256, Env: map[string]string{"MINE": "yes"}, Zip: python(t, `
import os
def handler(event, context):
    print("a line")
    return {
        "id": context.aws_request_id, "arn": context.invoked_function_arn, "name": context.function_name,
        "version": context.function_version, "memory": context.memory_limit_in_mb,
        "remaining": context.get_remaining_time_in_millis(), "client": context.client_context.custom["k"],
        "mine": os.environ["MINE"], "task": os.environ["LAMBDA_TASK_ROOT"], "handler": os.environ["_HANDLER"],
        "init": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "cwd": os.getcwd(), "uid": os.getuid(), "trace": os.environ["_X_AMZN_TRACE_ID"],
    }
`)})
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("context"), Payload: []byte(`{}`), LogType: types.LogTypeTail,
		ClientContext: aws.String("eyJjdXN0b20iOnsiayI6InYifX0="),
	})
	if err != nil {
		t.Fatal(err)
	}
	if out.FunctionError != nil || aws.ToString(out.ExecutedVersion) != "$LATEST" || out.StatusCode != 200 {
		t.Fatalf("got %s %s", out.Payload, aws.ToString(out.FunctionError))
	}
	for _, want := range []string{
		`"arn": "arn:aws:lambda:us-east-1:123456789012:function:context"`, `"name": "context"`, `"version": "$LATEST"`, `"client": "v"`,
		`"mine": "yes"`, `"task": "/var/task"`, `"handler": "index.handler"`, `"init": "on-demand"`, `"cwd": "/var/task"`, `"trace": "Root=1-`,
	} {
		contains(t, string(out.Payload), want)
	}
	if strings.Contains(string(out.Payload), `"uid": 0`) {
		t.Error("the function runs as root of its sandbox")
	}
	for _, want := range []string{"START RequestId: ", " Version: $LATEST\n", "a line\n", "END RequestId: ", "REPORT RequestId: ", "Memory Size: 256 MB", "Init Duration: "} {
		contains(t, logOf(t, out), want)
	}
}

func TestErrorsOfFunctionsAreAWSs(t *testing.T) {
	n := kilntest.Start(t)
	nodejs := n.Runtime("nodejs")
	mjs := func(s string) []byte { return kilntest.Zip(t, map[string]string{"index.mjs": s}) }
	for _, c := range []struct {
		f       kilntest.Function
		kind    string
		message string
		log     string
	}{
		{kilntest.Function{Name: "raises", Zip: python(t, "def handler(event, context):\n    raise ValueError('no good')\n")}, "ValueError", "no good", "[ERROR] ValueError: no good"},
		{kilntest.Function{Name: "exits", Zip: python(t, "import os\ndef handler(event, context):\n    os._exit(3)\n")}, "Runtime.ExitError", "Error: Runtime exited with error: exit status 3", "Runtime.ExitError"},
		{kilntest.Function{Name: "exits-in-init", Zip: python(t, "import os\nos._exit(0)\n")}, "Runtime.ExitError", "Error: Runtime exited without providing a reason", "Status: error"},
		{kilntest.Function{Name: "hangs", Timeout: 1, Zip: python(t, "def handler(event, context):\n    while True: pass\n")}, "Sandbox.Timedout", "Error: Task timed out after 1.00 seconds", "Task timed out after 1.00 seconds"},
		{kilntest.Function{Name: "no-module", Handler: "missing.handler", Zip: python(t, echo)}, "Runtime.ImportModuleError", "Unable to import module 'missing': No module named 'missing'", ""},
		{kilntest.Function{Name: "no-handler", Handler: "index.missing", Zip: python(t, echo)}, "Runtime.HandlerNotFound", "Handler 'missing' missing on module 'index'", ""},
		{kilntest.Function{Name: "syntax", Zip: python(t, "def handler(:\n")}, "Runtime.UserCodeSyntaxError", "Syntax error in module 'index'", ""},
		{kilntest.Function{Name: "eats-memory", MemoryMB: 128, Timeout: untouched, Zip: python(t, "def handler(event, context):\n    b = []\n    while True: b.append(bytearray(1 << 24))\n")}, "Runtime.OutOfMemory", "signal: killed", "Runtime.OutOfMemory"},
		{kilntest.Function{Name: "says-too-much", Zip: python(t, "def handler(event, context):\n    return 'x' * (6 * 1024 * 1024 + 200)\n")}, "Function.ResponseSizeTooLarge", "Response payload size exceeded maximum allowed payload size (6291556 bytes).", ""},
		{kilntest.Function{Name: "throws", Runtime: nodejs, Zip: mjs("export const handler = async () => { throw new RangeError('too far'); };")}, "RangeError", "too far", "Invoke Error"},
		{kilntest.Function{Name: "node-exits", Runtime: nodejs, Zip: mjs("export const handler = async () => { process.exit(4); };")}, "Runtime.ExitError", "Runtime exited with error: exit status 4", ""},
		{kilntest.Function{Name: "node-no-module", Runtime: nodejs, Handler: "missing.handler", Zip: mjs("")}, "Runtime.ImportModuleError", "Cannot find module 'missing'", ""},
		{kilntest.Function{Name: "node-no-handler", Runtime: nodejs, Zip: mjs("export const other = 1;")}, "Runtime.HandlerNotFound", "index.handler is undefined or not exported", ""},
		{kilntest.Function{Name: "no-bootstrap", Runtime: "provided.al2023", Zip: python(t, echo)}, "Runtime.InvalidEntrypoint", "bootstrap", ""},
	} {
		t.Run(c.f.Name, func(t *testing.T) {
			n.Deploy(t.Context(), c.f)
			f, out := fails(t, n, c.f.Name, `{}`)
			if f.ErrorType != c.kind || !strings.Contains(f.ErrorMessage, c.message) {
				t.Errorf("got %+v, want %s %q\n%s", f, c.kind, c.message, logOf(t, out))
			}
			contains(t, logOf(t, out), c.log)
			// The call after a failure meets a whole environment again.
			if again, _ := fails(t, n, c.f.Name, `{}`); again.ErrorType != c.kind {
				t.Errorf("the second call: %+v", again)
			}
		})
	}
}

func TestAHungHandlerIsStoppedAtItsTimeout(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "hangs", Timeout: 1, Zip: python(t, "def handler(event, context):\n    if event: return event\n    while True: pass\n")})
	call(t, n, "hangs", `1`) // INIT does not count
	begun := time.Now()
	fails(t, n, "hangs", `0`)
	// How soon after its timeout it is answered is measured by the benchmarks; here a busy machine must not matter.
	if took := time.Since(begun); took < time.Second || took > 3*time.Second {
		t.Errorf("answered after %v", took)
	}
}

func TestParallelCallsRunInTheirOwnEnvironments(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "count", Zip: python(t, `
import threading, uuid
me, calls, lock = str(uuid.uuid4()), 0, threading.Lock()
def handler(event, context):
    global calls
    if not lock.acquire(blocking=False): raise Exception("two calls in one environment")
    import time; time.sleep(0.2)
    calls += 1
    lock.release()
    return me
`)})
	const parallel = 4
	answers := make([]string, parallel)
	for range 2 { // the second round meets the environments of the first
		var wg sync.WaitGroup
		for i := range parallel {
			wg.Go(func() { answers[i] = value[string](t, n, "count", `{}`) })
		}
		wg.Wait()
	}
	seen := map[string]bool{}
	for _, a := range answers {
		seen[a] = true
	}
	if len(seen) != parallel {
		t.Errorf("%d calls at a time ran in %d environments", parallel, len(seen))
	}
}

func TestAnUpdateRetiresTheOldCodeAndDisturbsNobody(t *testing.T) {
	n := kilntest.Start(t)
	source := func(v string) []byte {
		return python(t, "import time\ndef handler(event, context):\n    time.sleep(event)\n    return '"+v+"'\n")
	}
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: source("old")})
	value[string](t, n, "f", `0`)
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := value[string](t, n, "f", `2`); got != "old" {
			t.Errorf("the call that ran during the update answered %q", got)
		}
	})
	<-time.After(500 * time.Millisecond) // the call is in the function by then
	if _, err := n.Client().UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: source("new")}); err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "f")
	if got := value[string](t, n, "f", `0`); got != "new" {
		t.Errorf("after the update: %q", got)
	}
	wg.Wait()
	if got := value[string](t, n, "f", `0`); got != "new" {
		t.Errorf("after the old call: %q", got)
	}
}

func TestADeletionLetsWhatRunsFinish(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, sleeper)})
	value[float64](t, n, "f", `0`)
	var running sync.WaitGroup
	running.Go(func() {
		if got := value[float64](t, n, "f", `2`); got != 2 {
			t.Errorf("what ran answered %v", got)
		}
	})
	awaitMetric(t, n, "kiln_environments state=busy", 1)
	if _, err := n.Client().DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}); err != nil {
		t.Fatal(err)
	}
	await(t, "the node to know of the deletion", func() error {
		_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`0`)})
		if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
			return fmt.Errorf("invoked, it answers %v", err)
		}
		return nil
	})
	running.Wait()
	awaitMetric(t, n, "kiln_environments_ended_total reason=retired", 1)
}

func TestPublishedVersionsKeepTheirCode(t *testing.T) {
	n := kilntest.Start(t)
	source := func(v string) []byte { return python(t, "def handler(event, context):\n    return '"+v+"'\n") }
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: source("one")})
	c := n.Client()
	v, err := c.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String("f")})
	if err != nil || aws.ToString(v.Version) != "1" {
		t.Fatalf("published %v, %v", aws.ToString(v.Version), err)
	}
	if _, err := c.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: source("two")}); err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "f")
	for qualifier, want := range map[string]string{"1": `"one"`, "$LATEST": `"two"`} {
		out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Qualifier: &qualifier})
		if err != nil || string(out.Payload) != want || aws.ToString(out.ExecutedVersion) != qualifier {
			t.Errorf("%s: %+v, %v", qualifier, out, err)
		}
	}
	if _, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Qualifier: aws.String("9")}); err == nil {
		t.Error("a version that does not exist answered")
	} else {
		wantCode(t, err, "ResourceNotFoundException")
	}
}

func TestWhatInvokeRefuses(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	n.Deploy(t.Context(), kilntest.Function{Name: "java", Runtime: "java21", Zip: python(t, echo)})
	for _, c := range []struct {
		name, code string
		in         lambda.InvokeInput
	}{
		{"no such function", "ResourceNotFoundException", lambda.InvokeInput{FunctionName: aws.String("missing")}},
		{"not JSON", "InvalidRequestContentException", lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte("{")}},
		{"too large", "RequestEntityTooLargeException", lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`"` + strings.Repeat("x", 6<<20) + `"`)}},
		{"no such runtime here", "InvalidRuntimeException", lambda.InvokeInput{FunctionName: aws.String("java")}},
		{"client context", "InvalidRequestContentException", lambda.InvokeInput{FunctionName: aws.String("f"), ClientContext: aws.String("%%%")}},
		{"tenant", "InvalidParameterValueException", lambda.InvokeInput{FunctionName: aws.String("f"), TenantId: aws.String("t")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.Client().Invoke(t.Context(), &c.in)
			wantCode(t, err, c.code)
		})
	}
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), InvocationType: types.InvocationTypeDryRun})
	if err != nil || out.StatusCode != 204 {
		t.Errorf("dry run: %+v, %v", out, err)
	}
	if _, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), InvocationType: types.InvocationTypeEvent}); err == nil {
		t.Error("an asynchronous invocation was accepted")
	}
}
