package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

const (
	manyFunctions = 100_000
	creators      = 4
	// changes is how often one function is changed and called to see that.
	changes = 200
	pages   = 100
)

// BenchmarkScale measures a node with 10 functions, then with 100,000. Sandboxes are real.
func BenchmarkScale(b *testing.B) {
	w := table(b, "functions stored | create P50 ms | P99 | list page P50 | P99 | warm P50 | P99 | change seen P50 | P99 | ready after kill -9 s | RSS MB | KB a function")
	n := kilntest.Start(b, "--api-rate", "1000000") // callers are as fast as the node
	code := kilntest.Zip(b, map[string]string{"index.py": "import os\ndef handler(event, context):\n    return os.environ.get('SEEN', '')\n"})
	n.Deploy(b.Context(), kilntest.Function{Name: "seen", Runtime: n.Runtime("python3"), MemoryMB: 1769, Zip: code})
	n.Deploy(b.Context(), kilntest.Function{Name: "python", Runtime: n.Runtime("python3"), MemoryMB: 1769, Zip: subjects[1].zip(b)})
	stored, base := 2, 0.0
	for _, count := range []int{10, manyFunctions} {
		made := populate(b, n, stored, count, code)
		stored = count
		listed := list(b, n)
		warm := measure(b, n.Client(), "python", warmCalls)
		seen := propagate(b, n)
		n.Kill()
		t := time.Now()
		n.Restart()
		ready := time.Since(t)
		mb := residentMB(n.Pid())
		if base == 0 {
			base = mb
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.0f\t%.2f\t\n", count, ms(at(made, 50)), ms(at(made, 99)), ms(at(listed, 50)), ms(at(listed, 99)),
			ms(at(warm, 50)), ms(at(warm, 99)), ms(at(seen, 50)), ms(at(seen, 99)), ready.Seconds(), mb, (mb-base)*1024/float64(count))
	}
}

// populate creates functions until there are count, and returns how long each took.
func populate(b *testing.B, n *kilntest.Node, from, count int, code []byte) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for c := range creators {
		wg.Go(func() {
			var own []time.Duration
			client := n.Client()
			for i := from + c; i < count; i += creators {
				t := time.Now()
				create(b.Context(), b, client, n, fmt.Sprintf("f%06d", i), code)
				own = append(own, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

// list reads pages of functions, from the first on.
func list(b *testing.B, n *kilntest.Node) []time.Duration {
	var d []time.Duration
	var marker *string
	c := n.Client()
	for range pages {
		t := time.Now()
		out, err := c.ListFunctions(b.Context(), &lambda.ListFunctionsInput{Marker: marker})
		if err != nil {
			b.Fatal(err)
		}
		d = append(d, time.Since(t))
		if marker = out.NextMarker; marker == nil {
			break
		}
	}
	slices.Sort(d)
	return d
}

// propagate changes a function's environment and calls it until the change is seen. What it returns is from the acknowledgement of the
// change to the beginning of the first call that saw it.
func propagate(b *testing.B, n *kilntest.Node) []time.Duration {
	ctx, c := b.Context(), n.Client()
	var d []time.Duration
	for i := range changes {
		want := strconv.Quote(fmt.Sprint(i))
		if _, err := c.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
			FunctionName: aws.String("seen"), Environment: &types.Environment{Variables: map[string]string{"SEEN": fmt.Sprint(i)}},
		}); err != nil {
			b.Fatal(err)
		}
		acknowledged := time.Now()
		begun := acknowledged
		for seen(ctx, b, c) != want {
			begun = time.Now()
		}
		d = append(d, begun.Sub(acknowledged))
		settle(ctx, b, c)
	}
	slices.Sort(d)
	return d
}

// settle returns when the function's last change has settled.
func settle(ctx context.Context, b *testing.B, c *lambda.Client) {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		out, err := c.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: aws.String("seen")})
		if err != nil {
			b.Fatal(err)
		}
		if out.LastUpdateStatus == types.LastUpdateStatusSuccessful {
			return
		}
		<-again.C
	}
}

func seen(ctx context.Context, b *testing.B, c *lambda.Client) string {
	out, err := c.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("seen"), Payload: []byte(`{}`)})
	if err != nil {
		b.Fatal(err)
	}
	return string(out.Payload)
}

func residentMB(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseFloat(f[1], 64) // always a number
			return kb / 1024
		}
	}
	return 0
}
