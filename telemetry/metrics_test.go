package telemetry

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"kiln"
	"kiln/fleet"
)

// sources are those of a node that has one of everything.
func sources() Sources {
	return Sources{
		Pool:    func() map[string]PoolSize { return map[string]PoolSize{"python3.13": {Waiting: 2, Goal: 3}} },
		Yielded: func() int { return 4 },
		Environments: func() map[string]int {
			return map[string]int{"starting": 1, "idle": 2, "busy": 3, "stopping": 4}
		},
		Queue:       func() int { return 7 },
		Memory:      func() (int, int) { return 160, 1024 },
		Sandboxes:   func() (SandboxUsage, error) { return SandboxUsage{1 << 20, 1500 * time.Millisecond, 5}, nil },
		LogsDropped: func() int64 { return 6 },
	}
}

// full are metrics in which everything has been counted once at least.
func full() *Metrics {
	m := NewMetrics()
	m.Sample(sources())
	for s := kiln.Booted; s <= kiln.Restarted; s++ {
		t := kiln.Timing{Start: s, Queue: time.Millisecond, Sandbox: time.Millisecond, Mount: time.Millisecond, Guest: time.Millisecond, Init: time.Millisecond}
		m.Started("python3.13", t, 5*time.Millisecond)
	}
	return m
}

func gather(t *testing.T, m *Metrics) []*dto.MetricFamily {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "kiln_") })
}

var (
	metricRow = regexp.MustCompile("(?m)^\\| `(kiln_\\w+)` \\| (\\w+) \\| ([^|]*)\\|")
	labelRow  = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `(\\w+)` \\|")
)

// document reads docs/metrics.md: a row "name type labels" for every metric, and one "label value" for every value.
func document(t *testing.T) (metrics, values []string) {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Split(strings.NewReplacer("`", "", " ", "").Replace(row[3]), ",")
		slices.Sort(labels)
		metrics = append(metrics, strings.TrimSpace(strings.Join([]string{row[1], row[2], strings.Join(labels, " ")}, " ")))
	}
	for _, row := range labelRow.FindAllStringSubmatch(string(text), -1) {
		values = append(values, row[1]+" "+row[2])
	}
	return metrics, values
}

func TestTheDocumentNamesEveryMetricLabelAndValue(t *testing.T) {
	var metrics, values []string
	for _, f := range gather(t, full()) {
		var labels []string
		for _, m := range f.GetMetric() {
			labels = nil
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
				if l.GetName() != "runtime" {
					values = append(values, l.GetName()+" "+l.GetValue())
				}
			}
		}
		row := f.GetName() + " " + strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, " ")
		metrics = append(metrics, strings.TrimSpace(row))
	}
	slices.Sort(values)
	values = slices.Compact(values)
	wantMetrics, wantValues := document(t)
	same(t, "metrics", metrics, wantMetrics)
	same(t, "values", values, wantValues)
}

// same reports what is in one list only.
func same(t *testing.T, what string, registry, document []string) {
	t.Helper()
	for _, r := range registry {
		if !slices.Contains(document, r) {
			t.Errorf("%s: the document lacks %q", what, r)
		}
	}
	for _, d := range document {
		if !slices.Contains(registry, d) {
			t.Errorf("%s: the registry lacks %q", what, d)
		}
	}
}

func TestNothingIsRegisteredThatTheDocumentTestDoesNotSee(t *testing.T) {
	m := full()
	descs := make(chan *prometheus.Desc, 1000) // more than there are
	m.registry.Describe(descs)
	close(descs)
	var gathered []string
	for _, f := range gather(t, m) {
		gathered = append(gathered, f.GetName())
	}
	name := regexp.MustCompile(`fqName: "(kiln_\w+)"`)
	for d := range descs {
		if n := name.FindStringSubmatch(d.String()); n != nil && !slices.Contains(gathered, n[1]) {
			t.Errorf("%s is registered and has no value", n[1])
		}
	}
}

func TestNamesAndUnitsAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := testutil.GatherAndLint(full().registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		// AWS's unit of memory, in which promises are made, is the MB.
		if !strings.HasSuffix(p.Metric, "_megabytes") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestInvocationsAreCountedByOutcome(t *testing.T) {
	m := NewMetrics()
	ran := &kiln.Result{Outcome: kiln.TimedOut, Timing: kiln.Timing{Start: kiln.Adopted}}
	m.Invoked(ran, nil, time.Second)
	for _, err := range []error{
		errors.New("broken"), &kiln.Error{Kind: kiln.TooManyRequests, Reason: kiln.ReservedConcurrencyExceeded}, kiln.Errorf(kiln.Unavailable, "no room"),
		kiln.Errorf(kiln.ResourceNotFound, "none"), kiln.Errorf(kiln.InvalidRuntime, "none"),
	} {
		m.Invoked(&kiln.Result{}, err, time.Second)
	}
	m.Ended(fleet.Evicted)
	m.Started("go", kiln.Timing{Start: kiln.Booted, Sandbox: 20 * time.Millisecond}, 30*time.Millisecond)
	got := values(gather(t, m))
	for name, want := range map[string]float64{
		"kiln_invocations_total outcome=timed_out":                                1,
		"kiln_invocations_total outcome=succeeded":                                0,
		"kiln_invocations_total outcome=failed":                                   1,
		"kiln_invocations_total outcome=throttled":                                1,
		"kiln_throttled_invocations_total limit=reserved_concurrency":             1,
		"kiln_throttled_invocations_total limit=concurrency":                      0,
		"kiln_invocations_total outcome=unavailable":                              1,
		"kiln_invocations_total outcome=refused":                                  2,
		"kiln_invocation_duration_seconds start=adopted":                          1,
		"kiln_invocation_duration_seconds start=warm":                             0,
		"kiln_environments_ended_total reason=evicted":                            1,
		"kiln_start_duration_seconds runtime=go start=booted":                     1,
		"kiln_start_phase_duration_seconds phase=sandbox runtime=go start=booted": 1,
		"kiln_start_phase_duration_seconds phase=mount runtime=go start=booted":   -1, // it has none
	} {
		if v, ok := got[name]; ok != (want >= 0) || ok && v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
}

// values are those of counters and gauges, and the counts of histograms, by name and labels.
func values(families []*dto.MetricFamily) map[string]float64 {
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestWhatIsSampledIsReadAtTheScrape(t *testing.T) {
	m := NewMetrics()
	s := sources()
	var broken error
	s.Sandboxes = func() (SandboxUsage, error) { return SandboxUsage{1 << 20, 1500 * time.Millisecond, 5}, broken }
	m.Sample(s)
	got := values(gather(t, m))
	for name, want := range map[string]float64{
		"kiln_pool_waiting runtime=python3.13": 2, "kiln_pool_goal runtime=python3.13": 3, "kiln_pool_evictions_total": 4,
		"kiln_environments state=busy": 3, "kiln_memory_promised_megabytes": 160, "kiln_memory_total_megabytes": 1024,
		"kiln_sandboxes_memory_bytes": 1 << 20, "kiln_sandboxes_cpu_seconds_total": 1.5, "kiln_sandboxes_out_of_memory_total": 5,
		"kiln_function_log_dropped_total": 6,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	broken = errors.New("no such group")
	families, err := m.registry.Gather()
	if !errors.Is(err, broken) && !strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("a source that fails is reported as %v", err)
	}
	if left := values(families); left["kiln_environments state=busy"] != 3 {
		t.Error("a source that fails takes the others with it")
	}
}

// BenchmarkInvoked is what counting costs a warm invocation.
func BenchmarkInvoked(b *testing.B) {
	m, res := NewMetrics(), &kiln.Result{}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Invoked(res, nil, 300*time.Microsecond)
		}
	})
	b.Run("from all processors", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.Invoked(res, nil, 300*time.Microsecond)
			}
		})
	})
}

// BenchmarkScrape is what reading everything costs, but for the sources themselves.
func BenchmarkScrape(b *testing.B) {
	m := full()
	for b.Loop() {
		if _, err := m.registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
