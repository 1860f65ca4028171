package environment

import (
	"fmt"
	"strings"
	"time"

	"kiln"
)

// report is what the platform's own log lines say of one invocation, in the text format of Lambda's logs
// (https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-view.html).
type report struct {
	RequestID kiln.RequestID
	Version   kiln.Qualifier
	Handler   time.Duration
	// Init is zero for a warm start.
	Init       time.Duration
	MemoryMB   int
	UsedBytes  int64
	Failure    *failure
	FinishedAt time.Time
}

func startLine(id kiln.RequestID, q kiln.Qualifier) string {
	return fmt.Sprintf("START RequestId: %s Version: %s\n", id, q)
}

// endLines are the lines after the function's own: what went wrong, END and REPORT.
func endLines(r report) string {
	var b strings.Builder
	b.WriteString(failureLines(r))
	fmt.Fprintf(&b, "END RequestId: %s\n", r.RequestID)
	fmt.Fprintf(&b, "REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: %d MB\tMax Memory Used: %d MB\t",
		r.RequestID, milliseconds(r.Handler), billed(r.Init+r.Handler), r.MemoryMB, megabytes(r.UsedBytes, r.MemoryMB))
	if r.Init > 0 {
		fmt.Fprintf(&b, "Init Duration: %.2f ms\t", milliseconds(r.Init))
	}
	if r.Failure != nil {
		fmt.Fprintf(&b, "Status: %s\t", r.Failure.Status)
		if r.Failure.Status == "error" {
			fmt.Fprintf(&b, "Error Type: %s\t", r.Failure.Type)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// failureLines say what went wrong, if anything did.
func failureLines(r report) string {
	var b strings.Builder
	if r.Failure != nil && r.Failure.Status == "timeout" {
		fmt.Fprintf(&b, "%s %s %s\n\n", r.FinishedAt.UTC().Format("2006-01-02T15:04:05.000Z"), r.RequestID, r.Failure.Message)
	}
	if r.Failure != nil && r.Failure.Status == "error" && r.Failure.Message != "" {
		fmt.Fprintf(&b, "RequestId: %s Error: %s\n%s\n", r.RequestID, r.Failure.Message, r.Failure.Type)
	}
	return b.String()
}

// initReport is AWS's line about an INIT that failed and that no invocation reports.
func initReport(took time.Duration, f failure) string {
	line := fmt.Sprintf("INIT_REPORT Init Duration: %.2f ms\tPhase: init\tStatus: %s", milliseconds(took), f.Status)
	if f.Status == "error" {
		line += "\tError Type: " + f.Type
	}
	return line + "\n"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// billed rounds up to whole milliseconds, INIT included
// (https://aws.amazon.com/blogs/compute/aws-lambda-standardizes-billing-for-init-phase/).
func billed(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// megabytes rounds up and stays within the function's own limit, which the allowance for the sandbox lies above.
func megabytes(n int64, limitMB int) int64 {
	return min((max(n, 0)+1<<20-1)>>20, int64(limitMB))
}
