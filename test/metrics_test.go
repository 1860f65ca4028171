package test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"kiln/kilntest"
)

// scrape reads a node's metrics as Prometheus does: values of counters and gauges, counts of histograms, by name and sorted labels.
func scrape(t testing.TB, n *kilntest.Node) map[string]float64 {
	t.Helper()
	res, err := http.Get(n.Metrics())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s, %v", res.Status, err)
	}
	out := make(map[string]float64)
	for name, f := range families {
		for _, m := range f.GetMetric() {
			id := name
			for _, l := range m.GetLabel() {
				id += " " + l.GetName() + "=" + l.GetValue()
			}
			out[id] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// awaitMetric scrapes until a metric has reached a value: nothing else tells when a sandbox waits or an environment has ended.
func awaitMetric(t testing.TB, n *kilntest.Node, id string, atLeast float64) {
	t.Helper()
	limit := time.After(30 * time.Second)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		got := scrape(t, n)[id]
		if got >= atLeast {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%s is %v, and not %v", id, got, atLeast)
		case <-again.C:
		}
	}
}

func TestMetricsTellWhatANodeHasDone(t *testing.T) {
	n := kilntest.Start(t, "--memory", "4000")
	rt := n.Runtime("python3")
	waiting := "kiln_pool_waiting runtime=" + rt
	deploy := func(f kilntest.Function, source string) {
		f.Zip = python(t, source)
		n.Deploy(t.Context(), f)
	}
	deploy(kilntest.Function{Name: "echo"}, echo)
	awaitMetric(t, n, waiting, 1)
	call(t, n, "echo", `1`)
	call(t, n, "echo", `2`)
	deploy(kilntest.Function{Name: "restarts", Env: map[string]string{"PYTHONUNBUFFERED": "1"}}, echo)
	awaitMetric(t, n, waiting, 1)
	call(t, n, "restarts", `3`)
	if _, err := n.Client().UpdateFunctionConfiguration(t.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String("echo"), EphemeralStorage: &types.EphemeralStorage{Size: aws.Int32(600)},
	}); err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "echo")
	call(t, n, "echo", `4`) // no sandbox that waits has such a /tmp
	deploy(kilntest.Function{Name: "raises"}, "def handler(event, context):\n    raise ValueError('no good')\n")
	deploy(kilntest.Function{Name: "hangs", Timeout: 1}, "def handler(event, context):\n    while True: pass\n")
	deploy(kilntest.Function{Name: "eats", MemoryMB: 128, Timeout: untouched}, "def handler(event, context):\n    b = []\n    while True: b.append(bytearray(1 << 24))\n")
	deploy(kilntest.Function{Name: "exits"}, "import os\ndef handler(event, context):\n    os._exit(3)\n")
	deploy(kilntest.Function{Name: "no-init"}, "raise ValueError('not even that')\n")
	for _, name := range []string{"raises", "hangs", "eats", "exits", "no-init"} {
		fails(t, n, name, `{}`)
	}
	if _, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("missing")}); err == nil {
		t.Error("a function that does not exist answered")
	}
	for _, reason := range []string{"retired", "timed_out", "out_of_memory", "crashed", "init_failed"} {
		awaitMetric(t, n, "kiln_environments_ended_total reason="+reason, 1)
	}
	got := scrape(t, n)
	for id, want := range map[string]float64{
		"kiln_invocations_total outcome=succeeded":                                         4,
		"kiln_invocations_total outcome=function_failed":                                   1,
		"kiln_invocations_total outcome=timed_out":                                         1,
		"kiln_invocations_total outcome=out_of_memory":                                     1,
		"kiln_invocations_total outcome=crashed":                                           1,
		"kiln_invocations_total outcome=init_failed":                                       1,
		"kiln_invocations_total outcome=refused":                                           1,
		"kiln_invocations_total outcome=throttled":                                         0,
		"kiln_invocations_total outcome=failed":                                            0,
		"kiln_invocation_duration_seconds start=warm":                                      1,
		"kiln_start_duration_seconds runtime=" + rt + " start=restarted":                   1,
		"kiln_start_phase_duration_seconds phase=mount runtime=" + rt + " start=restarted": 1,
		"kiln_environments_ended_total reason=retired":                                     1,
		"kiln_environments_ended_total reason=timed_out":                                   1,
		"kiln_environments_ended_total reason=out_of_memory":                               1,
		"kiln_environments_ended_total reason=crashed":                                     1,
		"kiln_environments_ended_total reason=init_failed":                                 1,
		"kiln_environments_ended_total reason=drained":                                     0,
		"kiln_environments state=idle":                                                     3, // echo, restarts, raises
		"kiln_environments state=busy":                                                     0,
		"kiln_sandboxes_out_of_memory_total":                                               1,
		"kiln_memory_total_megabytes":                                                      4000,
	} {
		if v, ok := got[id]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", id, v, ok, want)
		}
	}
	for _, id := range []string{
		"kiln_start_duration_seconds runtime=" + rt + " start=adopted",
		"kiln_start_phase_duration_seconds phase=init runtime=" + rt + " start=adopted",
		"kiln_start_duration_seconds runtime=" + rt + " start=booted",
		"kiln_start_phase_duration_seconds phase=sandbox runtime=" + rt + " start=booted",
		"kiln_invocation_duration_seconds start=adopted",
		"kiln_pool_goal runtime=" + rt, "kiln_memory_promised_megabytes", "kiln_sandboxes_memory_bytes", "kiln_sandboxes_cpu_seconds_total",
		"process_cpu_seconds_total", "go_goroutines",
	} {
		if got[id] <= 0 {
			t.Errorf("%s is %v", id, got[id])
		}
	}
	for id := range got {
		for _, name := range []string{kilntest.Account, "echo", "hangs"} {
			if strings.Contains(id, name) {
				t.Errorf("%s names %s", id, name)
			}
		}
	}
}

func TestMetricsAreOnTheirOwnListenerAndOutOfFunctionsReach(t *testing.T) {
	n := kilntest.Start(t, "--admin", "0.0.0.0:0")
	if res, err := http.Get(n.Endpoint + "/metrics"); err != nil || res.StatusCode == http.StatusOK {
		t.Errorf("the public listener answers %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	admin, err := url.Parse(n.Metrics())
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.Get("http://" + admin.Host + "/2015-03-31/functions"); err != nil || res.StatusCode != http.StatusNotFound {
		t.Errorf("the admin listener answers %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	n.Deploy(t.Context(), kilntest.Function{Name: "dial", Timeout: 30, Zip: python(t, `
import socket
def handler(event, context):
    try:
        socket.create_connection(event, timeout=2).close()
    except OSError as e:
        return "refused"
    return "reached"
`)})
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.To4() == nil {
			continue
		}
		conn, err := net.Dial("tcp", net.JoinHostPort(ip.IP.String(), admin.Port()))
		if err != nil {
			t.Errorf("%s is not reached from the host: %v", ip.IP, err)
			continue
		}
		conn.Close()
		if got := value[string](t, n, "dial", fmt.Sprintf(`[%q, %s]`, ip.IP, admin.Port())); got != "refused" {
			t.Errorf("a function has %s %s", got, ip.IP)
		}
	}
}

func TestANodeNeedsNoMetrics(t *testing.T) {
	n := kilntest.Start(t, "--admin", "")
	if strings.Contains(n.Output(), "metrics on") {
		t.Errorf("announced: %s", n.Output())
	}
}
