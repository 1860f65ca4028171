package invoke

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/fleet/fleettest"
	"kiln/invoke/admission"
	"kiln/invoke/assignment"
)

// path is a Service with everything behind it but the environments, which are simulated.
func path(worker *fleettest.Worker, cfg admission.Config) *Service {
	v := &kiln.Version{Account: target.Account, Function: target.Function, Deployment: "d", State: kiln.StateActive, Config: kiln.Config{Timeout: time.Minute}}
	return &Service{
		Resolver: &resolver{v: v}, Limiter: admission.New(cfg), Runner: assignment.New(assignment.Config{Worker: worker}),
	}
}

// TestAFunctionGrowsToItsLimitAsFastAsItMay has callers that try again every second, until 2,000 run, at the
// scaling rate that AWS has. The race detector takes no more than 8,000 goroutines; the benchmark has more.
func TestAFunctionGrowsToItsLimitAsFastAsItMay(t *testing.T) {
	const limit, callers, seconds = 2000, 2200, 20
	synctest.Test(t, func(t *testing.T) {
		worker := &fleettest.Worker{Duration: time.Second}
		s := path(worker, admission.Config{Concurrency: kiln.Concurrency{Default: limit}})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() { keepCalling(ctx, t, s) })
		}
		for second := range seconds {
			<-time.After(500 * time.Millisecond) // between two seconds, when calls begin and end
			if most := admission.DefaultStarts + 100*(second+1); worker.Started() > most {
				t.Errorf("in second %d there are %d environments, more than %d", second, worker.Started(), most)
			}
			<-time.After(500 * time.Millisecond)
		}
		stop()
		wg.Wait()
		if worker.Most() != limit || worker.Started() != limit || worker.Running() != 0 {
			t.Errorf("%d ran at a time in %d environments, and %d still do; the limit is %d", worker.Most(), worker.Started(), worker.Running(), limit)
		}
		if _, err := s.Limiter.Acquire(&kiln.Version{Account: target.Account, Function: "another"}, time.Now()); err != nil {
			t.Errorf("places have leaked: %v", err)
		}
	})
}

// keepCalling calls until ctx ends, again after a second when it is throttled, and accepts no other error.
func keepCalling(ctx context.Context, t testing.TB, s *Service) {
	for ctx.Err() == nil {
		_, _, err := s.Invoke(ctx, target, kiln.Invocation{})
		if err == nil {
			continue
		}
		if kiln.KindOf(err) != kiln.TooManyRequests {
			t.Error(err)
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// BenchmarkTenThousandAtATime runs invocations of a second each, 10,000 at a time in simulated environments, with 1,000 callers more than
// that. An operation is one of them.
func BenchmarkTenThousandAtATime(b *testing.B) {
	const limit, callers, rounds = 10_000, 11_000, 3
	for range b.N {
		worker := &fleettest.Worker{Duration: time.Second}
		s := path(worker, admission.Config{Concurrency: kiln.Concurrency{Default: limit}, Starts: limit})
		var before, after syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithTimeout(b.Context(), rounds*time.Second)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() { keepCalling(ctx, b, s) })
		}
		wg.Wait()
		stop()
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
			b.Fatal(err)
		}
		if worker.Most() > limit || worker.Running() != 0 {
			b.Errorf("%d ran at a time and %d still do, the limit is %d", worker.Most(), worker.Running(), limit)
		}
		cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
		b.ReportMetric(float64(cpu)/1e3/float64(worker.Invoked()), "cpu-us/invocation")
		b.ReportMetric(float64(worker.Most()), "most-at-a-time")
		b.ReportMetric(float64(worker.Invoked()), "invocations")
	}
}

// BenchmarkWarmCall is resolving, admission and assignment at 8 callers, on two processors, with environments that take no time.
func BenchmarkWarmCall(b *testing.B) {
	s := path(&fleettest.Worker{}, admission.Config{Concurrency: kiln.Concurrency{Default: 1 << 40}})
	b.SetParallelism(4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := s.Invoke(b.Context(), target, kiln.Invocation{}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
