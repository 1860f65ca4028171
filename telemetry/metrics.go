package telemetry

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"kiln"
	"kiln/fleet"
)

// Words of the label outcome for invocations that did not run.
const (
	throttled   = "throttled"
	refused     = "refused"
	unavailable = "unavailable"
	failed      = "failed"
)

// limits are the words of the label limit for the Reasons of throttled invocations.
var limits = map[string]string{
	kiln.ConcurrencyExceeded:         "concurrency",
	kiln.ReservedConcurrencyExceeded: "reserved_concurrency",
	kiln.RateExceeded:                "rate",
	kiln.ReservedRateExceeded:        "reserved_rate",
}

// Bounds of the histograms' buckets, in seconds: an invocation takes from what a warm one does to the longest timeout, a start from
// an adopted Python process to an INIT that runs out of time twice.
var (
	invocationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900}
	waitBuckets       = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	startBuckets      = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
)

// Metrics are what a node counts, in the names that docs/metrics.md tells. It implements the observers of invoke, assignment and worker:
// what an invocation costs is some atomic additions.
type Metrics struct {
	registry *prometheus.Registry

	// outcomes and durations are looked up once, because a lookup takes a lock.
	outcomes [kiln.Crashed + 1]prometheus.Counter
	denials  map[string]prometheus.Counter
	// throttles are by Reason.
	throttles map[string]prometheus.Counter
	durations [kiln.Restarted + 1]prometheus.Observer

	starts *prometheus.HistogramVec
	phases *prometheus.HistogramVec
	ends   [fleet.Orphaned + 1]prometheus.Counter
	// served and unserved are how long was waited for room.
	served, unserved prometheus.Observer
}

// NewMetrics returns metrics of which nothing has been counted.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), denials: make(map[string]prometheus.Counter), throttles: make(map[string]prometheus.Counter)}
	invocations := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kiln_invocations_total", Help: "Invocations, by how they ended.",
	}, []string{"outcome"})
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kiln_invocation_duration_seconds", Buckets: invocationBuckets,
		Help: "Time of invocations that ran, from the decoded request to the result, by how their environment started.",
	}, []string{"start"})
	m.starts = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kiln_start_duration_seconds", Help: "Time to start an environment, INIT and the unpacking of code included.", Buckets: startBuckets,
	}, []string{"start", "runtime"})
	m.phases = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kiln_start_phase_duration_seconds", Help: "Time of one phase of starting an environment.", Buckets: startBuckets,
	}, []string{"start", "runtime", "phase"})
	ends := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kiln_environments_ended_total", Help: "Environments of which nothing is left, by why they ended.",
	}, []string{"reason"})
	waits := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kiln_queue_duration_seconds", Help: "Time that invocations waited for room, by whether there was some.", Buckets: waitBuckets,
	}, []string{"served"})
	m.served, m.unserved = waits.WithLabelValues("true"), waits.WithLabelValues("false")
	for o := range m.outcomes {
		m.outcomes[o] = invocations.WithLabelValues(kiln.Outcome(o).String())
	}
	for _, o := range []string{throttled, refused, unavailable, failed} {
		m.denials[o] = invocations.WithLabelValues(o)
	}
	throttles := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kiln_throttled_invocations_total", Help: "Invocations that were throttled, by the limit.",
	}, []string{"limit"})
	for reason, limit := range limits {
		m.throttles[reason] = throttles.WithLabelValues(limit)
	}
	for s := range m.durations {
		m.durations[s] = durations.WithLabelValues(kiln.Start(s).String())
	}
	for e := range m.ends {
		m.ends[e] = ends.WithLabelValues(fleet.End(e).String())
	}
	m.registry.MustRegister(
		invocations, throttles, durations, m.starts, m.phases, ends, waits,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Invoked counts an invocation.
func (m *Metrics) Invoked(res *kiln.Result, err error, took time.Duration) {
	if err != nil {
		m.denials[denial(err)].Inc()
		m.throttled(err)
		return
	}
	m.outcomes[res.Outcome].Inc()
	m.durations[res.Timing.Start].Observe(took.Seconds())
}

// throttled counts an invocation by the limit that it met, if it met one.
func (m *Metrics) throttled(err error) {
	e, ok := errors.AsType[*kiln.Error](err)
	if !ok {
		return
	}
	if counter, ok := m.throttles[e.Reason]; ok {
		counter.Inc()
	}
}

// denial is the word for why an invocation did not run.
func denial(err error) string {
	switch kiln.KindOf(err) {
	case kiln.Internal:
		return failed
	case kiln.TooManyRequests:
		return throttled
	case kiln.Unavailable:
		return unavailable
	default:
		return refused
	}
}

// Waited counts an invocation that has waited for room.
func (m *Metrics) Waited(took time.Duration, served bool) {
	if served {
		m.served.Observe(took.Seconds())
		return
	}
	m.unserved.Observe(took.Seconds())
}

// Started counts an environment that has started, and what that took: t its parts, total all of it. The runtime must be one that the
// node has, because each one costs memory for good.
func (m *Metrics) Started(runtime string, t kiln.Timing, total time.Duration) {
	start := t.Start.String()
	m.starts.WithLabelValues(start, runtime).Observe(total.Seconds())
	for phase, took := range map[string]time.Duration{"queue": t.Queue, "sandbox": t.Sandbox, "mount": t.Mount, "guest": t.Guest, "init": t.Init} {
		if took > 0 {
			m.phases.WithLabelValues(start, runtime, phase).Observe(took.Seconds())
		}
	}
}

// Ended counts an environment that has ended.
func (m *Metrics) Ended(why fleet.End) { m.ends[why].Inc() }
