package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// rounds is a small number in a normal run and a large one in a long one.
func rounds(short, long int) int {
	if os.Getenv("KILN_SOAK") != "" {
		return long
	}
	return short
}

func download(t *testing.T, url string) []byte {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("download: %s, %v, %.200s", res.Status, err, b)
	}
	return b
}

// traces are what kiln keeps on a machine while it runs: processes and cgroups.
type traces struct{ processes, cgroups map[string]bool }

// tracesOf finds the processes that run the binary, and kiln's cgroups.
func tracesOf(t *testing.T) traces {
	t.Helper()
	tr := traces{processes: map[string]bool{}, cgroups: map[string]bool{}}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it ended meanwhile
		}
		first, _, _ := strings.Cut(string(cmdline), "\x00")
		if strings.HasPrefix(first, "runsc-") || first == "kiln-launcher" || strings.HasSuffix(first, "/bin/kiln") {
			tr.processes[e.Name()+" "+first] = true
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/kiln*/*", "/sys/fs/cgroup/*/kiln*/*", "/sys/fs/cgroup/kiln*/*/*", "/sys/fs/cgroup/*/kiln*/*/*"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs {
			if st, err := os.Stat(d); err == nil && st.IsDir() {
				tr.cgroups[d] = true
			}
		}
	}
	return tr
}

// without returns what is in tr and not in other.
func (tr traces) without(other traces) []string {
	var left []string
	for p := range tr.processes {
		if !other.processes[p] {
			left = append(left, p)
		}
	}
	for c := range tr.cgroups {
		if !other.cgroups[c] {
			left = append(left, c)
		}
	}
	return left
}

func TestStoppingLeavesNothingBehind(t *testing.T) {
	before := tracesOf(t)
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	call(t, n, "f", `{}`)
	if len(tracesOf(t).without(before)) == 0 {
		t.Fatal("nothing was found while the node ran: the test looks in the wrong place")
	}
	n.Stop()
	if left := tracesOf(t).without(before); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestStoppingLetsInvocationsFinish(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 20, Zip: python(t, sleeper)})
	value[float64](t, n, "f", `0`)
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := value[float64](t, n, "f", `2`); got != 2 {
			t.Errorf("the invocation that ran answered %v", got)
		}
	})
	<-time.After(500 * time.Millisecond) // the call is in the function by then
	begun := time.Now()
	n.Stop()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %v to end", took)
	}
	wg.Wait()
}

func TestStoppingIsBounded(t *testing.T) {
	n := kilntest.Start(t, "--drain", "1s")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 100, Zip: python(t, sleeper)})
	value[float64](t, n, "f", `0`)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`90`)})
		wantCode(t, err, "ServiceUnavailableException")
	})
	<-time.After(500 * time.Millisecond) // the call is in the function by then
	begun := time.Now()
	n.Stop()
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("took %v to end", took)
	}
	wg.Wait()
}

// sleeper is a function that takes as many seconds as the event says.
const sleeper = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return event\n"

func TestNothingAcknowledgedIsLostByKilling(t *testing.T) {
	before := tracesOf(t)
	n := kilntest.Start(t)
	code := python(t, echo)
	acknowledged := map[string]string{} // function name to revision-independent proof: its description
	for round := range rounds(4, 200) {
		var mu sync.Mutex
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 4 {
			c := n.Client()
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					name := fmt.Sprintf("f-%d-%d-%d", round, w, i)
					if create(ctx, c, n, name, code) == nil {
						mu.Lock()
						acknowledged[name] = name
						mu.Unlock()
					}
					c.Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: []byte(`{}`)}) // load: its outcome is not at stake
				}
			})
		}
		<-time.After(time.Duration(200+rand.IntN(800)) * time.Millisecond)
		n.Kill()
		cancel()
		wg.Wait()
		n.Restart()
		c := n.Client()
		for name, description := range acknowledged {
			out, err := c.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: &name})
			if err != nil || aws.ToString(out.Description) != description {
				t.Fatalf("round %d: %s was acknowledged and is gone: %v", round, name, err)
			}
		}
	}
	if len(acknowledged) == 0 {
		t.Fatal("no creation was acknowledged: nothing was tested")
	}
	t.Logf("%d functions acknowledged", len(acknowledged))
	for name := range acknowledged {
		n.Active(t.Context(), name) // none is stuck in Pending
		if got := value[int](t, n, name, `7`); got != 7 {
			t.Errorf("%s answered %d", name, got)
		}
		break
	}
	n.Stop()
	if left := tracesOf(t).without(before); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func create(ctx context.Context, c *lambda.Client, n *kilntest.Node, name string, code []byte) error {
	_, err := c.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName: &name, Description: &name, Role: aws.String(kilntest.Role), Runtime: types.Runtime(n.Runtime("python3")),
		Handler: aws.String("index.handler"), Code: &types.FunctionCode{ZipFile: code},
	})
	return err
}

func TestASecondNodeOnTheSameDataIsRefused(t *testing.T) {
	n := kilntest.Start(t)
	out, err := n.Second(t.Context())
	if err == nil || !strings.Contains(out, "in use") {
		t.Errorf("%v: %s", err, out)
	}
	if strings.Contains(out, "goroutine ") {
		t.Errorf("refused with a stack trace: %s", out)
	}
}

func TestASandboxThatIsKilledCostsOneCallAtMost(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 20, Zip: python(t, sleeper)})

	value[float64](t, n, "f", `0`)
	killSandboxes(t, n)
	if got := value[float64](t, n, "f", `0`); got != 0 {
		t.Errorf("after the idle sandbox was killed: %v", got)
	}

	var wg sync.WaitGroup
	wg.Go(func() {
		if f, _ := fails(t, n, "f", `10`); f.ErrorType != "Runtime.ExitError" {
			t.Errorf("the call that lost its sandbox: %+v", f)
		}
	})
	<-time.After(500 * time.Millisecond) // the call is in the function by then
	killSandboxes(t, n)
	wg.Wait()
	if got := value[float64](t, n, "f", `0`); got != 0 {
		t.Errorf("after the busy sandbox was killed: %v", got)
	}

	n.Deploy(t.Context(), kilntest.Function{Name: "slow-init", Timeout: 20, Zip: python(t, "import time\ntime.sleep(5)\n"+echo)})
	wg.Go(func() {
		out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("slow-init"), Payload: []byte(`1`)})
		// Of a sandbox that had been booted ahead, INIT begins anew in another.
		if err != nil || out.FunctionError == nil && string(out.Payload) != "1" {
			t.Errorf("the call whose sandbox was killed in INIT: %+v, %v", out, err)
		}
	})
	<-time.After(1500 * time.Millisecond) // INIT runs by then
	killSandboxes(t, n)
	wg.Wait()
	if got := value[int](t, n, "slow-init", `1`); got != 1 {
		t.Errorf("after the sandbox in INIT was killed: %v", got)
	}
}

// killSandboxes kills every sandbox of the node.
func killSandboxes(t *testing.T, n *kilntest.Node) {
	t.Helper()
	killed := 0
	for p := range tracesOf(t).processes {
		number, name, _ := strings.Cut(p, " ")
		pid, err := strconv.Atoi(number)
		if err != nil || name != "runsc-sandbox" || !n.IsAncestor(pid) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		killed++
	}
	if killed == 0 {
		t.Error("no sandbox was found to kill")
	}
}
