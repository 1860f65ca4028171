package bench

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/invoke/admission"
	"kiln/kilntest"
	"kiln/worker/sandbox/sandboxtest"
)

const (
	// crowdLimit is how many invocations of a function may run at a time, and crowdCallers call it.
	crowdLimit   = 10_000
	crowdCallers = 12_000
	// crowdCalls are answered before nobody calls any more.
	crowdCalls = 30_000
	// crowdWorkers run the environments, because each has several files open, of which a process may not have enough for all.
	crowdWorkers = 5
	// crowdMB is what the environments of a worker, which are not real, are promised: there is room for more than all.
	crowdMB = (crowdLimit/crowdWorkers + 400) * environmentMB
)

// startCrowded runs a node for a crowd, as several processes, with a function of which every invocation takes d.
func startCrowded(b *testing.B, s *kilntest.Simulated, d time.Duration, args ...string) (*kilntest.Roles, *sandboxtest.Counter) {
	r, counted := s.StartRoles(b, crowdWorkers, d, append(args, "--concurrency", fmt.Sprint(crowdLimit), "--memory", fmt.Sprint(crowdMB), "--pool", "0", "--queue", fmt.Sprint(2*crowdCallers),
		"--queue-wait", "5m")...)
	code := kilntest.Zip(b, map[string]string{"index.py": "def handler(event, context):\n    return event\n"})
	r.Data.Deploy(b.Context(), kilntest.Function{Name: "crowded", MemoryMB: 128, Timeout: 300, Zip: code})
	return r, counted
}

// BenchmarkCrowd measures 10,000 executions of one function at a time, through the whole API. Sandboxes are simulated, all else is real. What
// the sandboxes have counted says whether the limit held and nothing was lost.
func BenchmarkCrowd(b *testing.B) {
	w := table(b, "12,000 callers, limit 10,000 | most at a time | environments | answered | executed | throttled | failed | us of all kiln serve an answer | s")
	s := kilntest.BuildSimulated(b)
	for _, d := range []time.Duration{time.Second, 30 * time.Second} {
		r, counted := startCrowded(b, s, d, "--scale-starts", fmt.Sprint(2*crowdLimit))
		c := &crowd{b: b, client: crowdClient(r.Data, crowdCallers)}
		before, begun := rolesTicks(r), time.Now()
		c.callWhile(crowdCallers, func() bool { return c.answered.Load() < crowdCalls })
		took, spent := time.Since(begun), rolesTicks(r)-before
		fmt.Fprintf(w, "%v each\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%.0f\t\n", d, counted.Most.Load(), counted.Started.Load(), c.answered.Load(), counted.Invoked.Load(),
			c.throttled.Load(), c.failed.Load(), float64(spent)*tick/float64(c.answered.Load()), took.Seconds())
		stopRoles(r)
	}
}

// rolesTicks is the processor time of all processes of a node.
func rolesTicks(r *kilntest.Roles) int64 {
	sum := ticks(r.Control.Pid()) + ticks(r.Data.Pid())
	for _, w := range r.Workers {
		sum += ticks(w.Pid())
	}
	return sum
}

func stopRoles(r *kilntest.Roles) {
	r.Data.Stop()
	for _, w := range r.Workers {
		w.Stop()
	}
	r.Control.Stop()
}

// BenchmarkRamp measures how environments of one function become 10,000, at the rate at which AWS lets them.
func BenchmarkRamp(b *testing.B) {
	w := table(b, "s after the first of 10,000 callers | environments started | allowed")
	r, counted := startCrowded(b, kilntest.BuildSimulated(b), time.Minute)
	c := &crowd{b: b, client: crowdClient(r.Data, crowdLimit)}
	var ended atomic.Bool
	var calling sync.WaitGroup
	begun := time.Now()
	calling.Go(func() { c.callWhile(crowdLimit, func() bool { return !ended.Load() }) })
	every := time.NewTicker(admission.DefaultStartsPer)
	defer every.Stop()
	for i := 1; (i-1)*admission.DefaultStarts < crowdLimit; i++ {
		<-every.C
		took, started := time.Since(begun).Seconds(), counted.Started.Load()
		allowed := admission.DefaultStarts * (1 + took/admission.DefaultStartsPer.Seconds())
		fmt.Fprintf(w, "%.1f\t%d\t%.0f\t\n", took, started, allowed)
	}
	ended.Store(true)
	calling.Wait()
	if c.failed.Load() > 0 {
		b.Errorf("%d calls failed", c.failed.Load())
	}
}

// crowd is many callers of one function.
type crowd struct {
	b      *testing.B
	client *lambda.Client

	answered, throttled, failed atomic.Int64
}

// callWhile has so many callers call while more says so. Who is throttled waits for a second.
func (c *crowd) callWhile(callers int, more func() bool) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for more() {
				c.call()
			}
		})
	}
	wg.Wait()
}

func (c *crowd) call() {
	_, err := c.client.Invoke(c.b.Context(), &lambda.InvokeInput{FunctionName: aws.String("crowded"), Payload: payload})
	if err == nil {
		c.answered.Add(1)
		return
	}
	if _, ok := errors.AsType[*types.TooManyRequestsException](err); !ok {
		if c.failed.Add(1) == 1 {
			c.b.Logf("the first call that failed: %v", err)
		}
		return
	}
	c.throttled.Add(1)
	<-time.After(time.Second)
}
