// Package bench measures a whole node and prints what it finds as tables. Run it with `make bench`.
package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"kiln/kilntest"
)

const (
	settling     = 50
	warmCalls    = 3000
	coldCalls    = 15
	pooledCalls  = 60
	burstSize    = 12
	disturbances = 3
)

// subject is a function under measurement: an echo.
type subject struct {
	name string
	// runtime is the beginning of a runtime identifier.
	runtime string
	handler string
	zip     func(testing.TB) []byte
}

var subjects = []subject{
	{"Go", "provided.al2023", "bootstrap", func(t testing.TB) []byte { return kilntest.GoZip(t, "bench/echo") }},
	{"Python", "python3", "index.handler", files("index.py", "def handler(event, context):\n    return event\n")},
	{"Node.js", "nodejs", "index.handler", files("index.mjs", "export const handler = async (event) => event;\n")},
}

func files(name, content string) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return kilntest.Zip(t, map[string]string{name: content}) }
}

func functionName(s subject) string { return strings.ToLower(strings.ReplaceAll(s.name, ".", "")) }

// payload is 1 KB of JSON.
var payload = []byte(`{"data":"` + strings.Repeat("x", 1024-11) + `"}`)

func BenchmarkNode(b *testing.B) {
	// The promises to 16 clients of each function, not what they use, exceed a small machine's memory.
	n := kilntest.Start(b, "--memory", "200000")
	for _, s := range subjects {
		n.Deploy(b.Context(), kilntest.Function{Name: functionName(s), Runtime: n.Runtime(s.runtime), Handler: s.handler, MemoryMB: 1769, Zip: s.zip(b)})
	}
	b.Run("warm", func(b *testing.B) { warm(b, n) })
	b.Run("processor", func(b *testing.B) { processor(b, n) })
	b.Run("throughput", func(b *testing.B) { throughput(b, n) })
	b.Run("thaw", func(b *testing.B) { thaw(b, n) })
	b.Run("cold", func(b *testing.B) { cold(b, n) })
	b.Run("burst", func(b *testing.B) { burst(b, n) })
	b.Run("disturbed", func(b *testing.B) { disturbed(b, n) })
	b.Run("timeout", func(b *testing.B) { overrun(b, n) })
	b.Run("memory", func(b *testing.B) { memory(b, n) })
}

func table(b *testing.B, header string) *tabwriter.Writer {
	w := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\n%s\t\n", strings.ReplaceAll(header, " | ", "\t"))
	b.Cleanup(func() { w.Flush() })
	return w
}

// warm compares warm invocations with the same client's calls of a plain HTTP server, in turns.
func warm(b *testing.B, n *kilntest.Node) {
	w := table(b, "warm, 1 client, 1 KB | P50 ms | P90 ms | P99 ms | max ms | x plain HTTP (P50)")
	plain := plainClient(b)
	base := measure(b, plain, "plain", warmCalls)
	row(w, "plain net/http echo", base, base)
	for _, s := range subjects {
		row(w, s.name, measure(b, n.Client(), functionName(s), warmCalls), base)
	}
}

// processor reports the processor time of a warm call: of the node's own process, and of its sandboxes with all their processes.
func processor(b *testing.B, n *kilntest.Node) {
	w := table(b, "warm, processor time | us a call | kiln serve | sandbox")
	for _, s := range subjects {
		c := n.Client()
		measure(b, c, functionName(s), 0)
		own, all := ticks(n.Pid()), treeTicks(n.Pid())
		measure(b, c, functionName(s), warmCalls)
		own, all = ticks(n.Pid())-own, treeTicks(n.Pid())-all
		us := func(ticks int64) float64 { return float64(ticks) * tick / float64(warmCalls+settling) }
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t\n", s.name, us(all), us(own), us(all-own))
	}
}

// tick is the unit of /proc/PID/stat in microseconds (USER_HZ is 100 on every machine that kiln runs on).
const tick = 10_000

// ticks is the processor time of a process with the children that it has waited for.
func ticks(pid int) (sum int64) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(rest); len(f) > 14 {
		for _, field := range f[11:15] { // utime, stime, cutime, cstime
			v, _ := strconv.ParseInt(field, 10, 64) // always a number
			sum += v
		}
	}
	return sum
}

func treeTicks(root int) int64 {
	sum := ticks(root)
	for pid := range processes(root) {
		sum += ticks(pid)
	}
	return sum
}

func row(w io.Writer, name string, d, base []time.Duration) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.1f\t\n", name, ms(at(d, 50)), ms(at(d, 90)), ms(at(d, 99)), ms(d[len(d)-1]), float64(at(d, 50))/float64(at(base, 50)))
}

func measure(b *testing.B, c *lambda.Client, function string, calls int) []time.Duration {
	for range settling {
		invoke(b, c, function)
	}
	d := make([]time.Duration, calls)
	for i := range d {
		t := time.Now()
		invoke(b, c, function)
		d[i] = time.Since(t)
	}
	slices.Sort(d)
	return d
}

func invoke(b *testing.B, c *lambda.Client, function string) *lambda.InvokeOutput {
	out, err := c.Invoke(b.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: payload})
	if err != nil {
		b.Fatal(err)
	}
	if out.FunctionError != nil || len(out.Payload) < len(payload) { // Python's encoder adds a space
		b.Fatalf("%s answered %.200s", function, out.Payload)
	}
	return out
}

// throughput reports calls per second at a number of clients.
func throughput(b *testing.B, n *kilntest.Node) {
	w := table(b, "throughput, calls/s (P99 ms) | 1 client | 4 clients | 16 clients")
	for _, s := range subjects {
		fmt.Fprintf(w, "%s\t", s.name)
		for _, clients := range []int{1, 4, 16} {
			rate, p99 := load(b, n, functionName(s), clients)
			fmt.Fprintf(w, "%.0f (%s)\t", rate, ms(p99))
		}
		fmt.Fprintln(w)
	}
}

func load(b *testing.B, n *kilntest.Node, function string, clients int) (perSecond float64, p99 time.Duration) {
	const window = 3 * time.Second
	run := func(d time.Duration) []time.Duration {
		var mu sync.Mutex
		var all []time.Duration
		var wg sync.WaitGroup
		end := time.Now().Add(d)
		for range clients {
			c := n.Client()
			wg.Go(func() {
				var mine []time.Duration
				for time.Now().Before(end) {
					t := time.Now()
					invoke(b, c, function)
					mine = append(mine, time.Since(t))
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, mine...)
			})
		}
		wg.Wait()
		return all
	}
	run(window / 3) // environments for all clients
	all := run(window)
	slices.Sort(all)
	return float64(len(all)) / window.Seconds(), at(all, 99)
}

// thaw compares a call of an environment that was frozen with one that follows at once.
func thaw(b *testing.B, n *kilntest.Node) {
	w := table(b, "after a pause of 50 ms | P50 ms | P99 ms | over warm, P50 ms")
	for _, s := range subjects {
		base := measure(b, n.Client(), functionName(s), 200)
		c := n.Client()
		d := make([]time.Duration, 100)
		for i := range d {
			<-time.After(50 * time.Millisecond)
			t := time.Now()
			invoke(b, c, functionName(s))
			d[i] = time.Since(t)
		}
		slices.Sort(d)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", s.name, ms(at(d, 50)), ms(at(d, 99)), ms(at(d, 50)-at(base, 50)))
	}
}

// alone is a size of /tmp that no sandbox has which was booted ahead.
const alone = 513

// refill is as long as a pool takes at most, on an idle machine, to have as many sandboxes as before.
const refill = 400 * time.Millisecond

// cold makes each call a cold start by changing the function before it: once into sandboxes that were booted ahead, once without.
func cold(b *testing.B, n *kilntest.Node) {
	w := table(b, "cold start | P50 ms | P90 ms | P99 ms | queue | sandbox | mount | guest | init | handler")
	for _, s := range subjects {
		coldRow(b, w, n, s.name, functionName(s), pooledCalls, 0)
		coldRow(b, w, n, s.name+", no pool", functionName(s), coldCalls, alone)
		retire(b, n, functionName(s), -1, 0)
	}
}

func coldRow(b *testing.B, w io.Writer, n *kilntest.Node, name, function string, calls, tmpMB int) {
	parts := map[string][]time.Duration{}
	for i := range calls {
		retire(b, n, function, i, tmpMB)
		<-time.After(refill)
		c := n.Client()
		t := time.Now()
		out := invoke(b, c, function)
		parts["total"] = append(parts["total"], time.Since(t))
		for name, d := range serverTiming(out) {
			parts[name] = append(parts[name], d)
		}
	}
	for _, d := range parts {
		slices.Sort(d)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t", name, ms(at(parts["total"], 50)), ms(at(parts["total"], 90)), ms(at(parts["total"], 99)))
	for _, p := range []string{"queue", "sandbox", "mount", "guest", "init", "handler"} {
		fmt.Fprintf(w, "%s\t", ms(at(parts[p], 50)))
	}
	fmt.Fprintln(w)
}

// burst compares the cold starts per second of a burst that the pool holds with those of sandboxes booted one by one, and what a
// function that is warm sees while the pool is refilled all the time with what it sees otherwise.
func burst(b *testing.B, n *kilntest.Node) {
	names := make([]string, burstSize)
	for i := range names {
		names[i] = fmt.Sprintf("burst%d", i)
		n.Deploy(b.Context(), kilntest.Function{Name: names[i], MemoryMB: 512, Zip: subjects[1].zip(b)})
	}
	w := table(b, fmt.Sprintf("Python, %d cold starts | per second | x one by one", burstSize))
	one := oneByOne(b, n, names)
	fmt.Fprintf(w, "one by one, no pool\t%.1f\t%.1f\t\n", one, 1.0)
	var rates []float64
	for i := range 4 {
		retireAll(b, n, names, i, 0)
		<-time.After(burstSize * refill / 2)
		if rate := allAtOnce(b, n, names); i > 0 { // the first burst teaches the pool
			rates = append(rates, rate)
		}
	}
	slices.Sort(rates)
	fmt.Fprintf(w, "at once, from the pool\t%.1f\t%.1f\t\n", rates[len(rates)/2], rates[len(rates)/2]/one)
}

func retireAll(b *testing.B, n *kilntest.Node, names []string, i, tmpMB int) {
	for _, name := range names {
		retire(b, n, name, i, tmpMB)
	}
}

func oneByOne(b *testing.B, n *kilntest.Node, names []string) (perSecond float64) {
	retireAll(b, n, names, 0, alone)
	t := time.Now()
	for _, name := range names {
		invoke(b, n.Client(), name)
	}
	return float64(len(names)) / time.Since(t).Seconds()
}

func allAtOnce(b *testing.B, n *kilntest.Node, names []string) (perSecond float64) {
	var wg sync.WaitGroup
	t := time.Now()
	for _, name := range names {
		c := n.Client()
		wg.Go(func() { invoke(b, c, name) })
	}
	wg.Wait()
	return float64(len(names)) / time.Since(t).Seconds()
}

// disturbed measures a warm function while, every second time, another's cold starts keep the pool being refilled.
func disturbed(b *testing.B, n *kilntest.Node) {
	w := table(b, "Python, warm | P50 ms | P99 ms | boots/s")
	python := functionName(subjects[1])
	var quiet, busy []time.Duration
	boots, began := 0, time.Duration(0)
	for i := range disturbances {
		quiet = append(quiet, measure(b, n.Client(), python, warmCalls/3)...)
		retire(b, n, functionName(subjects[2]), 100+i, 0)
		ctx, cancel := context.WithCancel(b.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil {
				invoke(b, n.Client(), functionName(subjects[2]))
				retire(b, n, functionName(subjects[2]), boots, 0)
				boots++
			}
		})
		t := time.Now()
		busy = append(busy, measure(b, n.Client(), python, warmCalls/3)...)
		began += time.Since(t)
		cancel()
		wg.Wait()
	}
	slices.Sort(quiet)
	slices.Sort(busy)
	fmt.Fprintf(w, "alone\t%s\t%s\t\t\n", ms(at(quiet, 50)), ms(at(quiet, 99)))
	fmt.Fprintf(w, "while a pool is refilled\t%s\t%s\t%.1f\t\n", ms(at(busy, 50)), ms(at(busy, 99)), float64(boots)/began.Seconds())
}

// overrun reports how long after its timeout a handler that hangs is answered for.
func overrun(b *testing.B, n *kilntest.Node) {
	w := table(b, "answer after a timeout of 1 s | P50 ms late | max ms late")
	code := kilntest.Zip(b, map[string]string{"index.py": "def handler(event, context):\n    while event: pass\n"})
	n.Deploy(b.Context(), kilntest.Function{Name: "hangs", Timeout: 1, MemoryMB: 1769, Zip: code})
	var late []time.Duration
	for range 8 {
		for _, event := range []string{"0", "1"} { // INIT does not count
			t := time.Now()
			_, err := n.Client().Invoke(b.Context(), &lambda.InvokeInput{FunctionName: aws.String("hangs"), Payload: []byte(event)})
			if err != nil {
				b.Fatal(err)
			}
			if event == "1" {
				late = append(late, time.Since(t)-time.Second)
			}
		}
	}
	slices.Sort(late)
	fmt.Fprintf(w, "Python\t%s\t%s\t\n", ms(at(late, 50)), ms(late[len(late)-1]))
}

// retire changes a function's configuration, so that its environments end. tmpMB is the size of /tmp, 0 the usual one.
func retire(b *testing.B, n *kilntest.Node, function string, i, tmpMB int) {
	_, err := n.Client().UpdateFunctionConfiguration(b.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: &function, Environment: &types.Environment{Variables: map[string]string{"ROUND": strconv.Itoa(i)}},
		EphemeralStorage: &types.EphemeralStorage{Size: aws.Int32(int32(max(tmpMB, 512)))},
	})
	if err != nil {
		b.Fatal(err)
	}
	n.Active(b.Context(), function)
}

// serverTiming reads the parts of a call from its Server-Timing header (https://www.w3.org/TR/server-timing/).
func serverTiming(out *lambda.InvokeOutput) map[string]time.Duration {
	parts := map[string]time.Duration{}
	raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response)
	if !ok {
		return parts
	}
	for _, metric := range strings.Split(raw.Header.Get("Server-Timing"), ",") {
		name, dur, _ := strings.Cut(strings.TrimSpace(metric), ";dur=")
		if f, err := strconv.ParseFloat(dur, 64); err == nil {
			parts[name] = time.Duration(f * float64(time.Millisecond))
		}
	}
	return parts
}

// memory reports the private memory of each process of an idle environment.
func memory(b *testing.B, n *kilntest.Node) {
	w := table(b, "idle environment, private MB | sandbox | gofer | others | sum")
	for i, s := range subjects {
		retire(b, n, functionName(s), coldCalls+i, alone)
		<-time.After(refill)
		before := processes(n.Pid())
		invoke(b, n.Client(), functionName(s))
		<-time.After(50 * time.Millisecond)
		var sandbox, gofer, others float64
		for pid, name := range processes(n.Pid()) {
			if _, old := before[pid]; old {
				continue
			}
			switch mb := privateMB(pid); {
			case strings.Contains(name, "sandbox"):
				sandbox += mb
			case strings.Contains(name, "gofer"):
				gofer += mb
			default:
				others += mb
			}
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t\n", s.name, sandbox, gofer, others, sandbox+gofer+others)
	}
}

// processes returns the descendants of a process by their first argument.
func processes(root int) map[int]string {
	parent := map[int]int{}
	names := map[int]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parent[pid], _ = strconv.Atoi(f[1]) // a field that is no number leaves 0, which is nobody's child
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil {
			names[pid], _, _ = strings.Cut(string(cmdline), "\x00")
		}
	}
	out := map[int]string{}
	for pid := range parent {
		for p := parent[pid]; p > 1; p = parent[p] {
			if p == root {
				out[pid] = names[pid]
				break
			}
		}
	}
	return out
}

func privateMB(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	kb := 0
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Private_") {
			if n, err := strconv.Atoi(strings.Fields(line)[1]); err == nil {
				kb += n
			}
		}
	}
	return float64(kb) / 1024
}

// BenchmarkReady measures how long a node with 1,000 functions takes from its start until it serves.
func BenchmarkReady(b *testing.B) {
	n := kilntest.Start(b)
	ctx := b.Context()
	code := kilntest.Zip(b, map[string]string{"index.py": "def handler(event, context):\n    return event\n"})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			c := n.Client()
			for i := w; i < 1000; i += 8 {
				create(ctx, b, c, n, fmt.Sprintf("f%d", i), code)
			}
		})
	}
	wg.Wait()
	w := table(b, "kiln serve, 1,000 functions stored | ms until it serves")
	for range 3 {
		n.Kill()
		t := time.Now()
		n.Restart()
		fmt.Fprintf(w, "after kill -9\t%s\t\n", ms(time.Since(t)))
	}
}

func create(ctx context.Context, b *testing.B, c *lambda.Client, n *kilntest.Node, name string, code []byte) {
	_, err := c.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName: &name, Role: aws.String(kilntest.Role), Runtime: types.Runtime(n.Runtime("python3")), Handler: aws.String("index.handler"),
		Code: &types.FunctionCode{ZipFile: code},
	})
	if err != nil {
		b.Error(err)
	}
}

// crowdClient is a client for that many callers at a time, each of whom keeps a connection.
func crowdClient(n *kilntest.Node, callers int) *lambda.Client {
	return lambda.New(n.Client().Options(), func(o *lambda.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxConnsPerHost, t.MaxIdleConns, t.MaxIdleConnsPerHost = callers, callers, callers
		})
	})
}

// plainClient is the same SDK client against a server that does nothing but echo.
func plainClient(b *testing.B) *lambda.Client {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		if _, err := body.ReadFrom(r.Body); err == nil {
			w.Write(body.Bytes())
		}
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	b.Cleanup(func() { srv.Close(); wg.Wait() })
	return lambda.New(lambda.Options{
		BaseEndpoint: aws.String("http://" + l.Addr().String()), Region: kilntest.Region, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(kilntest.AccessKey, kilntest.Secret, ""),
	})
}

func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }
