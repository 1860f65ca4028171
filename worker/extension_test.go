package worker_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/kilntest"
	"kiln/worker/runtime"
)

// pythonExtension does what the Go one does in its mode "", and prints the same.
const pythonExtension = `#!/usr/bin/python3
import http.client, os, sys
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def call(method, path, body=None, **fields):
    api.request(method, "/2020-01-01/extension/" + path, body, {"Lambda-Extension-" + k: v for k, v in fields.items()})
    res = api.getresponse()
    text = res.read().decode()
    if res.status != 200:
        sys.exit("%s: %d %s" % (path, res.status, text))
    return res, text
res, text = call("POST", "register", '{"events":["INVOKE","SHUTDOWN"]}', Name=os.path.basename(sys.argv[0]))
print("registered", text, flush=True)
while True:
    _, event = call("GET", "event/next", Identifier=res.getheader("Lambda-Extension-Identifier"))
    print("event", event, flush=True)
    if '"SHUTDOWN"' in event:
        sys.exit(0)
`

// extended is a version of each kind of runtime with an extension in a layer that is called ours.
func (r *rack) extended(extension string, mode string) map[string]*kiln.Version {
	layer := kiln.Layer{Code: r.function("", 0, nil, map[string]string{"extensions/ours": extension}).Code}
	env := map[string]string{"MODE": mode}
	versions := map[string]*kiln.Version{
		"python3": r.function(r.newest("python3"), 256, env, map[string]string{"index.py": `
import os
def handler(event, context):
    print("the function runs")
    return os.path.exists("/tmp/slow")
`}),
		"nodejs": r.function(r.newest("nodejs"), 256, env, map[string]string{"index.js": `
exports.handler = async () => { console.log('the function runs'); return require('fs').existsSync('/tmp/slow'); };`}),
		"bootstrap": r.function("provided.al2023", 256, env, map[string]string{"bootstrap": kilntest.GoProgram(r, "bench/echo")}),
	}
	for _, v := range versions {
		v.Layers = []kiln.Layer{layer}
	}
	return versions
}

func goExtension(t testing.TB) string { return kilntest.GoProgram(t, "worker/testdata/extension") }

// settle waits until an environment has settled.
func (r *rack) settle(id fleet.EnvironmentID) (reusable bool) {
	settled := make(chan bool, 1) // one value, so that the worker never waits
	r.Settle(id, func(reusable bool) { settled <- reusable })
	return <-settled
}

func (r *rack) again(id fleet.EnvironmentID, request kiln.RequestID) (kiln.Result, bool) {
	r.Helper()
	res, reusable, err := r.Invoke(r.Context(), id, kiln.Invocation{
		ID: request, Payload: []byte(`{"n":1}`), FunctionARN: "arn:aws:lambda:us-east-1:123456789012:function:f", TraceID: "Root=1-5",
	})
	if err != nil {
		r.Fatal(err)
	}
	return res, reusable
}

func TestExtensionsFollowTheLifeOfTheirEnvironment(t *testing.T) {
	for language, extension := range map[string]string{"Go": goExtension(t), "Python": pythonExtension} {
		r := newRack(t)
		for name, v := range r.extended(extension, "") {
			t.Run(language+" for "+name, func(t *testing.T) {
				id, err := r.Start(t.Context(), v, fleet.OnDemand)
				if err != nil {
					t.Fatal(err)
				}
				for _, request := range []kiln.RequestID{"first", "second"} {
					if res, reusable := r.again(id, request); res.FunctionError != "" || !reusable || !res.Unsettled {
						t.Fatalf("%s, reusable %v, unsettled %v\n%s", res.Payload, reusable, res.Unsettled, r.log())
					}
					if !r.settle(id) {
						t.Fatalf("it did not settle\n%s", r.log())
					}
				}
				begun := time.Now()
				r.Stop(id, fleet.Retired)
				took := time.Since(begun)
				log := r.log()
				for _, want := range []string{
					`"functionName":"f","functionVersion":"$LATEST","handler":"index.handler"}`,
					`event {"eventType":"INVOKE","deadlineMs":[0-9]{13},"requestId":"first","invokedFunctionArn":"arn:aws:lambda:us-east-1:123456789012:function:f","tracing":{"type":"X-Amzn-Trace-Id","value":"Root=1-5"}}`,
					`"requestId":"second"`, `event {"eventType":"SHUTDOWN","shutdownReason":"spindown","deadlineMs":[0-9]{13}}`,
				} {
					if !regexp.MustCompile(strings.ReplaceAll(want, "$", `\$`)).MatchString(log) {
						t.Errorf("nothing says %s\n%s", want, log)
					}
				}
				if language == "Go" && !strings.Contains(log, `{"accountId":"123456789012",`) {
					t.Errorf("no account\n%s", log)
				}
				if language == "Go" && !strings.Contains(log, "[AWS_LAMBDA_FUNCTION_NAME AWS_REGION] 993\n") {
					t.Errorf("other variables or another user\n%s", log)
				}
				if took > 1500*time.Millisecond {
					t.Errorf("its end took %v, though nothing had to be waited for", took)
				}
			})
		}
	}
}

func TestAnExtensionThatDoesNotEndIsKilledAfterTwoSeconds(t *testing.T) {
	r := newRack(t)
	for name, v := range r.extended(goExtension(t), "deaf") {
		_, id := r.call(v)
		if !r.settle(id) {
			t.Fatalf("%s did not settle", name)
		}
		begun := time.Now()
		r.Stop(id, fleet.Retired)
		took := time.Since(begun)
		t.Logf("%s: %v", name, took)
		if log := r.log(); took < 1900*time.Millisecond || took > 2200*time.Millisecond || !strings.Contains(log, `"SHUTDOWN"`) {
			t.Errorf("%s: its end took %v\n%s", name, took, log)
		}
	}
}

func TestWhatExtensionsDoWrongIsSaidAsOnAWS(t *testing.T) {
	for mode, want := range map[string][2]string{
		"crash-before-register": {"Extension.Crash", "exit status 2"},
		"crash-in-init":         {"Extension.Crash", "exit status 3"},
		"leave-in-init":         {"Extension.Crash", "exit code 0"},
		"init-error":            {"Extension.InitError", "exit status 5"},
		"crash-in-invoke":       {"Extension.Crash", "exit status 4"},
		"exit-error":            {"Extension.ExitError", "exit status 6"},
	} {
		t.Run(mode, func(t *testing.T) {
			r := newRack(t)
			for name, v := range r.extended(goExtension(t), mode) {
				if strings.HasSuffix(mode, "invoke") || mode == "exit-error" {
					// The answer must not come before the extension's end.
					v = r.slowed(v)
					if v == nil {
						continue
					}
				}
				res, id := r.call(v)
				payload := fmt.Sprintf(`{"errorType":"%s","errorMessage":"RequestId: r Error: %s"}`, want[0], want[1])
				if string(res.Payload) != payload || res.FunctionError != "Unhandled" {
					t.Errorf("%s: answered %s\n%s", name, res.Payload, r.log())
				}
				r.Stop(id, fleet.Retired)
			}
		})
	}
}

// slowed is v with a handler that takes its time; nil if it is none that is interpreted.
func (r *rack) slowed(v *kiln.Version) *kiln.Version {
	if !strings.HasPrefix(v.Runtime, "python3") {
		return nil
	}
	slow := r.function(v.Runtime, v.MemoryMB, v.Environment, map[string]string{"index.py": "import time\ndef handler(e, c):\n    time.sleep(5)\n"})
	slow.Layers = v.Layers
	return slow
}

func TestAnExtensionThatCannotBeStartedIsALaunchError(t *testing.T) {
	r := newRack(t)
	for _, v := range r.extended("no program", "") {
		res, _ := r.call(v)
		if !strings.Contains(string(res.Payload), `"errorType":"Extension.LaunchError"`) {
			t.Errorf("answered %s", res.Payload)
		}
	}
}

func TestTheCallerDoesNotWaitForExtensions(t *testing.T) {
	r := newRack(t)
	for name, v := range r.extended(goExtension(t), "slow") {
		_, id := r.call(v)
		if !r.settle(id) {
			t.Fatalf("%s did not settle", name)
		}
		begun := time.Now()
		if res, _ := r.again(id, "second"); name != "bootstrap" && string(res.Payload) != "true" {
			t.Errorf("%s: the extension was not done before the next invocation: %s", name, res.Payload)
		}
		answered := time.Since(begun)
		r.settle(id)
		if settled := time.Since(begun); settled-answered < 500*time.Millisecond || settled < time.Second { // which the extension takes
			t.Errorf("%s answered after %v and settled after %v", name, answered, settled)
		}
		r.Stop(id, fleet.Retired)
	}
}

func TestAnExtensionThatIsNotDoneInTimeEndsTheEnvironment(t *testing.T) {
	r := newRack(t)
	v := r.extended(goExtension(t), "stuck")["python3"]
	v.Timeout = time.Second
	res, id := r.call(v)
	if string(res.Payload) != "false" {
		t.Errorf("answered %s", res.Payload)
	}
	if r.settle(id) {
		t.Error("it is to be used again")
	}
	r.Stop(id, fleet.Retired)
	if log := r.log(); !strings.Contains(log, "r Task timed out after 1.00 seconds") {
		t.Errorf("logged %s", log)
	}
}

func TestAFunctionsTimeoutIsTheReasonThatExtensionsAreTold(t *testing.T) {
	r := newRack(t)
	v := r.slowed(r.extended(goExtension(t), "")["python3"])
	v.Timeout = time.Second
	res, _ := r.call(v)
	<-r.ended
	if log := r.log(); !strings.Contains(string(res.Payload), "timed out") || !strings.Contains(log, `"shutdownReason":"timeout"`) {
		t.Errorf("answered %s\n%s", res.Payload, log)
	}
}

func TestTelemetryReachesAnExtension(t *testing.T) {
	r := newRack(t)
	for name, v := range r.extended(goExtension(t), "telemetry") {
		_, id := r.call(v)
		if !r.settle(id) {
			t.Fatalf("%s did not settle\n%s", name, r.log())
		}
		r.Stop(id, fleet.Retired)
		log := r.log()
		wants := []string{
			`"type":"platform.initStart","record":{"initializationType":"on-demand","phase":"init","functionName":"f","functionVersion":"\$LATEST","instanceId":"[0-9a-f]+","instanceMaxMemory":268435456}`,
			`"type":"platform.telemetrySubscription","record":{"name":"ours","state":"Subscribed","types":\["function","platform"\]}`,
			`"type":"platform.initRuntimeDone","record":{"initializationType":"on-demand","phase":"init","status":"success"}`,
			`"type":"platform.extension","record":{"name":"ours","state":"Ready","events":\["INVOKE","SHUTDOWN"\]}`,
			`"type":"platform.initReport","record":{"initializationType":"on-demand","phase":"init","status":"success","metrics":{"durationMs":[0-9.]+}}`,
			`"type":"platform.start","record":{"requestId":"r","version":"\$LATEST"}`,
			`"type":"platform.runtimeDone","record":{"requestId":"r","status":"success","metrics":{"durationMs":[0-9.]+,"producedBytes":[0-9]+}}`,
			`"type":"platform.report","record":{"requestId":"r","status":"success","metrics":{"durationMs":[0-9.]+,"billedDurationMs":[0-9]+,"memorySizeMB":256,"maxMemoryUsedMB":[0-9]+,"initDurationMs":[0-9.]+}}`,
		}
		if name != "bootstrap" {
			wants = append(wants, `"type":"function","record":".*the function runs"`)
		}
		for _, want := range wants {
			if !regexp.MustCompile(`telemetry {"time":"20[0-9-]+T[0-9:.]+Z",` + want + "}\n").MatchString(log) {
				t.Errorf("%s: no telemetry like %s\n%s", name, want, log)
			}
		}
	}
}

// registering registers an internal extension from within the runtime process.
const registering = `
import http.client, json, os, threading, time
api = os.environ["AWS_LAMBDA_RUNTIME_API"]
events = []
def call(method, path, body=None, **fields):
    c = http.client.HTTPConnection(api)
    c.request(method, "/2020-01-01/extension/" + path, body, {"Lambda-Extension-" + k: v for k, v in fields.items()})
    res = c.getresponse()
    return res.getheader("Lambda-Extension-Identifier"), res.status, res.read().decode()
def register(name, event="INVOKE"):
    return call("POST", "register", json.dumps({"events": [event]}), Name=name)
def serve(id):
    while True:
        events.append(call("GET", "event/next", Identifier=id)[2])
`

func TestAnInternalExtensionRegistersFromTheRuntime(t *testing.T) {
	r := newRack(t)
	v := r.function(r.newest("python3"), 256, nil, map[string]string{"index.py": registering + `
refused = register("inner", "SHUTDOWN")
threading.Thread(target=serve, args=(register("inner")[0],), daemon=True).start()
def handler(event, context):
    while not events: time.sleep(0.001)
    return [refused, json.loads(events[0])["requestId"], register("late")]
`})
	for _, waited := range []bool{false, true} {
		if waited {
			r.boot(runtime.Class{Runtime: v.Runtime, MemoryMB: 512})
		}
		res, id := r.call(v)
		want := `[[null, 403, "{\"errorMessage\":\"SHUTDOWN: ShutdownEventNotSupportedForInternalExtension\",\"errorType\":\"Extension.InvalidEventType\"}"], "r", ` +
			`[null, 403, "{\"errorMessage\":\"Extension registration closed already\",\"errorType\":\"Extension.RegistrationClosed\"}"]]`
		if string(res.Payload) != want || !res.Unsettled || !r.settle(id) {
			t.Errorf("answered %s, unsettled %v\n%s", res.Payload, res.Unsettled, r.log())
		}
		begun := time.Now()
		r.Stop(id, fleet.Retired)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("its end took %v", took)
		}
	}
}

func TestNoExtensionRegistersAfterInit(t *testing.T) {
	r := newRack(t)
	v := r.function(r.newest("python3"), 256, nil, map[string]string{"index.py": registering + `
def handler(event, context):
    return register("late")
`})
	res, _ := r.call(v)
	if !strings.Contains(string(res.Payload), "Extension.RegistrationClosed") || res.Unsettled {
		t.Errorf("answered %s", res.Payload)
	}
}

func TestExtensionsStartInASandboxThatWaited(t *testing.T) {
	r := newRack(t)
	for name, v := range r.extended(goExtension(t), "") {
		rt, _ := r.host.Runtimes.Lookup(v.Runtime)
		spare := r.boot(rt.Class(v))
		res, id := r.call(v)
		settled := r.settle(id)
		if log := r.log(); res.FunctionError != "" || !settled || string(id) != spare.ID || !strings.Contains(log, `event {"eventType":"INVOKE"`) {
			t.Errorf("%s: %s answered %s\n%s", name, id, res.Payload, log)
		}
		r.Stop(id, fleet.Retired)
	}
}
