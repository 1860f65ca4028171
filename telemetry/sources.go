package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are read at every scrape. They must be safe for concurrent use, and must cost the same however much runs. A process without
// workers leaves those of workers nil, Pool and all that follow but Queue; one without callers Queue.
type Sources struct {
	// Pool is how many sandboxes wait and are to wait for functions, by runtime.
	Pool func() map[string]PoolSize
	// Yielded is how many of them were given up for their memory.
	Yielded func() int
	// Environments is how many there are, by state.
	Environments func() map[string]int
	// Queue is how many invocations wait for room.
	Queue func() int
	// Memory is what is promised to sandboxes, and what may be.
	Memory func() (promisedMB, totalMB int)
	// Sandboxes is what all of them use.
	Sandboxes func() (SandboxUsage, error)
	// LogsDropped is how many writes to functions' logs were lost.
	LogsDropped func() int64
}

// PoolSize is how many sandboxes wait, and are to wait, for functions of one runtime.
type PoolSize struct{ Waiting, Goal int }

// SandboxUsage is what all sandboxes use, or have used.
type SandboxUsage struct {
	MemoryBytes int64
	CPU         time.Duration
	// OutOfMemory is how many were ended by their memory limit.
	OutOfMemory int64
}

// Sample adds what is read at every scrape. It is called once.
func (m *Metrics) Sample(s Sources) { m.registry.MustRegister(&sampler{s}) }

// sampler is a prometheus.Collector of Sources.
type sampler struct{ sources Sources }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The metrics that are read at a scrape; nobody changes them.
var (
	poolWaiting    = desc("kiln_pool_waiting", "Sandboxes that wait for a function.", "runtime")
	poolGoal       = desc("kiln_pool_goal", "Sandboxes that are to wait for a function.", "runtime")
	poolEvictions  = desc("kiln_pool_evictions_total", "Waiting sandboxes that were given up for their memory.")
	environments   = desc("kiln_environments", "Environments that there are.", "state")
	queueWaiting   = desc("kiln_queue_waiting", "Invocations that wait for room for an environment.")
	memoryPromised = desc("kiln_memory_promised_megabytes", "Memory that environments and waiting sandboxes are promised.")
	memoryTotal    = desc("kiln_memory_total_megabytes", "Memory that environments and waiting sandboxes may be promised.")
	sandboxMemory  = desc("kiln_sandboxes_memory_bytes", "Memory that all sandboxes use, without cached files.")
	sandboxCPU     = desc("kiln_sandboxes_cpu_seconds_total", "Processor time that all sandboxes have used.")
	outOfMemory    = desc("kiln_sandboxes_out_of_memory_total", "Sandboxes that were ended by their memory limit.")
	logsDropped    = desc("kiln_function_log_dropped_total", "Writes to functions' logs that were lost because the disk was too slow.")
)

// Describe implements prometheus.Collector.
func (s *sampler) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		poolWaiting, poolGoal, poolEvictions, environments, queueWaiting, memoryPromised, memoryTotal, sandboxMemory, sandboxCPU, outOfMemory, logsDropped,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *sampler) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	if s.sources.Queue != nil {
		gauge(queueWaiting, s.sources.Queue())
	}
	if s.sources.Pool == nil {
		return
	}
	for runtime, size := range s.sources.Pool() {
		gauge(poolWaiting, size.Waiting, runtime)
		gauge(poolGoal, size.Goal, runtime)
	}
	counter(poolEvictions, float64(s.sources.Yielded()))
	for state, n := range s.sources.Environments() {
		gauge(environments, n, state)
	}
	promised, total := s.sources.Memory()
	gauge(memoryPromised, promised)
	gauge(memoryTotal, total)
	counter(logsDropped, float64(s.sources.LogsDropped()))
	usage, err := s.sources.Sandboxes()
	counter(outOfMemory, float64(usage.OutOfMemory))
	if err != nil {
		ch <- prometheus.NewInvalidMetric(sandboxMemory, err)
		return
	}
	gauge(sandboxMemory, int(usage.MemoryBytes))
	counter(sandboxCPU, usage.CPU.Seconds())
}
