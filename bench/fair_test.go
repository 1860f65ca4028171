package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

const (
	// fairPairs are measured with and without aggressors, in turns.
	fairPairs = 5
	// victimCalls are the victim's in each half of a pair, and victimPause, for each aggressor, lies between two: it calls for no more than its
	// share of the processors, which a call takes some milliseconds of.
	victimCalls = 50
	victimPause = 5 * time.Millisecond
	// aggressorCallers call all the time, all aggressors together.
	aggressorCallers = 10_000
	// environmentMB is what an environment of 128 MB is promised.
	environmentMB = 160
)

// BenchmarkFairness measures a function that is called within its share beside functions with many more callers than the machine has room
// for. Sandboxes are real. The aggressors' calls take 250 ms, the victim's 10.
func BenchmarkFairness(b *testing.B) {
	w := table(b, "1 victim, 10,000 other callers | room for | P50 alone | P50 beside | P99 alone ms | P99 beside | x (median of 5) | wait | others/s")
	for _, aggressors := range []int{1, 10, 100} {
		room := max(24, aggressors+28)
		n := kilntest.Start(b, "--memory", fmt.Sprint(room*environmentMB), "--pool", "0",
			"--concurrency", fmt.Sprint(2*aggressorCallers), "--queue", fmt.Sprint(2*aggressorCallers), "--queue-wait", "5m")
		deploySleeper(b, n, "victim", 0.01)
		var others []string
		for i := range aggressors {
			others = append(others, fmt.Sprint("aggressor", i))
			deploySleeper(b, n, others[i], 0.25)
		}
		f := &fairness{b: b, n: n, others: others, client: crowdClient(n, aggressorCallers)}
		f.crowd(func() { f.victim() }) // all environments have started
		var alone, beside, ratios []float64
		var p50alone, p50beside []float64
		for range fairPairs {
			d := f.victim()
			p50alone, alone = append(p50alone, float64(at(d, 50))), append(alone, float64(at(d, 99)))
			f.crowd(func() { d = f.victim() })
			p50beside, beside = append(p50beside, float64(at(d, 50))), append(beside, float64(at(d, 99)))
			ratios = append(ratios, beside[len(beside)-1]/alone[len(alone)-1])
		}
		fmt.Fprintf(w, "%d functions\t%d\t%s\t%s\t%s\t%s\t%.2f\t%d\t%.0f\t\n", aggressors, room, milli(p50alone), milli(p50beside),
			milli(alone), milli(beside), median(ratios), f.waited, f.rate)
		n.Stop()
	}
}

func milli(d []float64) string { return ms(time.Duration(median(d))) }

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func deploySleeper(b *testing.B, n *kilntest.Node, name string, seconds float64) {
	source := fmt.Sprintf("import time\ndef handler(event, context):\n    time.sleep(%v)\n    return event\n", seconds)
	n.Deploy(b.Context(), kilntest.Function{Name: name, Runtime: n.Runtime("python3"), MemoryMB: 128, Zip: kilntest.Zip(b, map[string]string{"index.py": source})})
}

// fairness is a node and the functions that are called too much.
type fairness struct {
	b      *testing.B
	n      *kilntest.Node
	others []string
	client *lambda.Client // the others' callers'
	// waited is how many waited in the middle of the last crowd, and rate how many others were answered a second.
	waited int
	rate   float64
}

// victim calls the victim and returns how long each call took, in order.
func (f *fairness) victim() []time.Duration {
	d := make([]time.Duration, victimCalls)
	pause := time.NewTicker(time.Duration(len(f.others)) * victimPause)
	defer pause.Stop()
	for i := range d {
		begun := time.Now()
		invoke(f.b, f.n.Client(), "victim")
		d[i] = time.Since(begun)
		<-pause.C
	}
	slices.Sort(d)
	return d
}

// crowd does what is measured while the others are called.
func (f *fairness) crowd(measured func()) {
	ctx, stop := context.WithCancel(f.b.Context())
	var answered atomic.Int64
	var wg sync.WaitGroup
	for i := range aggressorCallers {
		name := f.others[i%len(f.others)]
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := f.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(name), Payload: payload}); err == nil {
					answered.Add(1)
				}
			}
		})
	}
	f.awaitCrowd()
	begun, before := time.Now(), answered.Load()
	measured()
	f.rate = float64(answered.Load()-before) / time.Since(begun).Seconds()
	f.waited = f.waiting()
	stop() // those who wait go away
	wg.Wait()
}

// awaitCrowd returns when most of the others wait. The victim is called all the time: what is measured is not that it has to start anew
// after a pause, which takes as long as the starts of all others.
func (f *fairness) awaitCrowd() {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for f.waiting() < aggressorCallers/2 {
		invoke(f.b, f.n.Client(), "victim")
		<-again.C
	}
}

// waiting is how many invocations wait for room.
func (f *fairness) waiting() int { return metric(f.b, f.n, "kiln_queue_waiting") }

// metric is what a node's metrics say of a series, which is a whole number; 0 if there is none.
func metric(b *testing.B, n *kilntest.Node, series string) int {
	res, err := http.Get(n.Metrics())
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				b.Fatal(err)
			}
			return int(v)
		}
	}
	return 0
}
