package environment

import (
	"time"

	"kiln"
)

// The phases of INIT in telemetry: within the first invocation it is run once more after it ran out of time.
const (
	phaseInit   = "init"
	phaseInvoke = "invoke"
)

// The records of the platform's events.
type (
	initStart struct {
		Type            string            `json:"initializationType"`
		Phase           string            `json:"phase"`
		FunctionName    kiln.FunctionName `json:"functionName"`
		FunctionVersion kiln.Qualifier    `json:"functionVersion"`
		InstanceID      string            `json:"instanceId"`
		MaxMemory       int64             `json:"instanceMaxMemory"`
	}
	// initDone is that of initRuntimeDone and, with metrics, of initReport.
	initDone struct {
		Type      string       `json:"initializationType"`
		Phase     string       `json:"phase"`
		Status    string       `json:"status"`
		ErrorType string       `json:"errorType,omitempty"`
		Metrics   *initMetrics `json:"metrics,omitempty"`
	}
	initMetrics struct {
		DurationMs float64 `json:"durationMs"`
	}
	invocationStart struct {
		RequestID kiln.RequestID `json:"requestId"`
		Version   kiln.Qualifier `json:"version"`
		Tracing   *tracing       `json:"tracing,omitempty"`
	}
	tracing struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	runtimeDone struct {
		RequestID kiln.RequestID `json:"requestId"`
		Status    string         `json:"status"`
		ErrorType string         `json:"errorType,omitempty"`
		Metrics   runtimeMetrics `json:"metrics"`
		Tracing   *tracing       `json:"tracing,omitempty"`
	}
	runtimeMetrics struct {
		DurationMs    float64 `json:"durationMs"`
		ProducedBytes int     `json:"producedBytes"`
	}
	invocationReport struct {
		RequestID kiln.RequestID `json:"requestId"`
		Status    string         `json:"status"`
		ErrorType string         `json:"errorType,omitempty"`
		Metrics   reportMetrics  `json:"metrics"`
		Tracing   *tracing       `json:"tracing,omitempty"`
	}
	reportMetrics struct {
		DurationMs       float64 `json:"durationMs"`
		BilledDurationMs int64   `json:"billedDurationMs"`
		MemorySizeMB     int     `json:"memorySizeMB"`
		MaxMemoryUsedMB  int64   `json:"maxMemoryUsedMB"`
		InitDurationMs   float64 `json:"initDurationMs,omitempty"`
	}
)

func tracingOf(traceID string) *tracing {
	if traceID == "" {
		return nil
	}
	return &tracing{"X-Amzn-Trace-Id", traceID}
}

// telemetryInitStart tells of the beginning of INIT.
func (e *Environment) telemetryInitStart(b *box) {
	v := e.cfg.Version
	b.feed.platform("platform.initStart", initStart{
		b.initialization, b.phase, v.Function, v.Qualifier, e.cfg.Sandbox.ID, int64(v.MemoryMB) << 20,
	})
}

// telemetryInitReport tells of the end of INIT.
func (b *box) telemetryInitReport(took time.Duration, failed *initFailure) {
	done := initDone{b.initialization, b.phase, "success", "", &initMetrics{milliseconds(took)}}
	if failed != nil {
		done.Status, done.ErrorType = failed.Status, failed.Type
	}
	b.feed.platform("platform.initReport", done)
}

// telemetryStart tells of the beginning of an invocation.
func (e *Environment) telemetryStart(inv kiln.Invocation) {
	if e.box.extended {
		e.box.feed.platform("platform.start", invocationStart{inv.ID, e.cfg.Version.Qualifier, tracingOf(inv.TraceID)})
	}
}

// telemetryReport tells of the end of an invocation.
func (e *Environment) telemetryReport(inv kiln.Invocation, o outcome, r report) {
	if !e.box.extended {
		return
	}
	status, kind := "success", ""
	switch {
	case o.failed != nil:
		status, kind = o.failed.Status, o.failed.Type
	case o.functionError:
		status, kind = "error", o.errorType
	}
	trace := tracingOf(inv.TraceID)
	e.box.feed.platform("platform.runtimeDone", runtimeDone{inv.ID, status, kind, runtimeMetrics{milliseconds(r.Handler), len(o.payload)}, trace})
	e.box.feed.platform("platform.report", invocationReport{inv.ID, status, kind, reportMetrics{
		milliseconds(r.Handler), billed(r.Init + r.Handler), r.MemoryMB, megabytes(r.UsedBytes, r.MemoryMB), milliseconds(r.Init),
	}, trace})
}
