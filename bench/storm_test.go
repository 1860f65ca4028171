package bench

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

const (
	stormCallers = 2000
	stormRoom    = 16
	// stormSample is over how long answers are counted.
	stormSample = 500 * time.Millisecond
	// stormPatience is how long a caller waits after a refusal or a broken connection.
	stormPatience = 100 * time.Millisecond
)

// BenchmarkStorm measures how soon a node that is killed and started again while thousands call answers as many as before. Sandboxes are
// real: there is room for 16, of a function that takes 50 ms.
func BenchmarkStorm(b *testing.B) {
	n := kilntest.Start(b, "--listen", freeAddress(b), "--memory", fmt.Sprint(stormRoom*environmentMB), "--concurrency", fmt.Sprint(2*stormCallers))
	deploySleeper(b, n, "f", 0.05)
	var answered atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	c := crowdClient(n, stormCallers) // it outlives the process: the address stays
	for range stormCallers {
		wg.Go(func() { storm(b, c, &answered, stop) })
	}
	rate := func(d time.Duration) float64 {
		before := answered.Load()
		<-time.After(d)
		return float64(answered.Load()-before) / d.Seconds()
	}
	rate(10 * time.Second) // all environments have started
	before := rate(5 * time.Second)
	n.Kill()
	n.Restart()
	restarted := time.Now()
	first, whole := time.Duration(0), time.Duration(0)
	for whole == 0 && time.Since(restarted) < time.Minute {
		r := rate(stormSample)
		if r > 0 && first == 0 {
			first = time.Since(restarted)
		}
		if r >= 0.9*before {
			whole = time.Since(restarted)
		}
	}
	close(stop)
	wg.Wait()
	w := table(b, "2,000 callers, kill -9 and restart | answers/s before | s until the first answers | s until 90 %")
	fmt.Fprintf(w, "room for 16\t%.0f\t%.1f\t%.1f\t\n", before, first.Seconds(), whole.Seconds())
}

// storm calls f until stop is closed, and counts the answers.
func storm(b *testing.B, c *lambda.Client, answered *atomic.Int64, stop <-chan struct{}) {
	for {
		_, err := c.Invoke(b.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: payload})
		pause := time.After(0)
		if err == nil {
			answered.Add(1)
		} else {
			pause = time.After(stormPatience)
		}
		select {
		case <-stop:
			return
		case <-pause:
		}
	}
}

// freeAddress is an address of this machine that nobody listens on.
func freeAddress(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
