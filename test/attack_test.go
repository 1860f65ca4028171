package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// attackFile is a function's source below testdata/attack.
func attackFile(t testing.TB, name string) []byte {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("testdata", "attack", name))
	if err != nil {
		t.Fatal(err)
	}
	return python(t, string(source))
}

// TestStoppingUnderLoadIsQuick stops nodes whose environments have answered just now and are about to be frozen: a process that is
// killed and then frozen does not end on control groups of version 1.
func TestStoppingUnderLoadIsQuick(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 128, Zip: python(t, echo)})
	for round := range rounds(4, 40) {
		answered := callInParallel(t, n, "f", 8)
		begun := time.Now()
		n.Stop()
		if took := time.Since(begun); took > 10*time.Second {
			t.Fatalf("round %d: stopping took %v:\n%s", round, took, n.Output())
		}
		if answered == 0 {
			t.Fatal("no call was answered: nothing was there to stop")
		}
		n.Restart()
	}
}

// callInParallel has clients call a function until each has its second answer, and returns how many were answered.
func callInParallel(t *testing.T, n *kilntest.Node, function string, clients int) int64 {
	t.Helper()
	var answered atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		c := n.Client()
		wg.Go(func() {
			for range 2 {
				if _, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: []byte(`1`)}); err != nil {
					t.Errorf("invoke: %v", err)
					return
				}
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	return answered.Load()
}

// stopLimit is what systemd gives a service to stop before it kills it, unless it is told otherwise.
const stopLimit = 90 * time.Second

// TestALauncherThatHangsDoesNotHoldUpTheEnd stops a node whose launcher no longer answers.
func TestALauncherThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	if os.Getenv("KILN_SOAK") == "" {
		t.Skip("may wait for more than a minute; KILN_SOAK=1 runs it")
	}
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 128, Zip: python(t, echo)})
	call(t, n, "f", `1`) // the launcher is there when a sandbox is
	pid := launcherOf(t, n)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !endsWithin(t, n.Pid(), stopLimit) {
		t.Errorf("the node has not ended %v after SIGTERM", stopLimit)
		// A stopped process takes this signal, and nothing else ends the node's wait for it.
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	n.Kill()    // collects the process
	n.Restart() // removes what it left
}

// launcherOf finds the process in which the node's sandboxes are started.
func launcherOf(t *testing.T, n *kilntest.Node) int {
	t.Helper()
	for p := range tracesOf(t).processes {
		number, name, _ := strings.Cut(p, " ")
		if pid, err := strconv.Atoi(number); err == nil && name == "kiln-launcher" && n.IsAncestor(pid) {
			return pid
		}
	}
	t.Fatal("the node has no launcher")
	return 0
}

// endsWithin waits for the end of a process and reports whether it came in time.
func endsWithin(t *testing.T, pid int, limit time.Duration) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
}

// TestAFunctionThatFillsTheDiskHurtsNobodyElse gives a node a disk of its own, much smaller than the /tmp that a function may ask for.
func TestAFunctionThatFillsTheDiskHurtsNobodyElse(t *testing.T) {
	t.Setenv("TMPDIR", smallDisk(t, "480M"))
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "peer", MemoryMB: 128, Zip: python(t, echo)})
	n.Deploy(t.Context(), kilntest.Function{Name: "fill", MemoryMB: 256, Timeout: 30, Zip: attackFile(t, "fill.py")})
	_, err := n.Client().UpdateFunctionConfiguration(t.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String("fill"), EphemeralStorage: &types.EphemeralStorage{Size: aws.Int32(10240)},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Active(t.Context(), "fill")
	// How this ends, and whether it is let in at all, is not at stake.
	n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("fill")})
	out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("peer"), Payload: []byte(`1`)})
	if err != nil || string(out.Payload) != "1" {
		t.Errorf("the cold start of a neighbour: %v", err)
	}
	if err := create(t.Context(), n.Client(), n, "other", python(t, echo)); err != nil {
		t.Errorf("a change of a neighbour: %v", err)
	}
}

// smallDisk mounts a file system of that size until the test has ended and returns where. The test is skipped where none can be.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	// Not t.TempDir, which would be removed recursively, with the file system mounted in it if unmounting failed.
	dir, err := os.MkdirTemp("", "kiln-disk")
	if err != nil {
		t.Fatal(err)
	}
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	t.Cleanup(func() { os.Remove(image); os.Remove(mount); os.Remove(dir) })
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"truncate", "-s", size, image}, {"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("this machine has no file system of its own to offer: %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return mount
}

// TestShortLinesCostTheNodeNoMoreThanLongOnes compares what the node spends on the same number of logged bytes.
func TestShortLinesCostTheNodeNoMoreThanLongOnes(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "flood", MemoryMB: 256, Timeout: 30, Zip: attackFile(t, "flood.py")})
	value[int](t, n, "flood", `{"line":1,"bytes":0}`)
	cost := func(line int) time.Duration {
		before := processorTime(t, n.Pid())
		// As much as is taken at once, before the rate is held down.
		value[int](t, n, "flood", fmt.Sprintf(`{"line":%d,"bytes":%d}`, line, 8<<20))
		spent := processorTime(t, n.Pid()) - before
		<-time.After(3 * time.Second) // the bucket of the log's rate fills again
		return spent
	}
	long, short := cost(1024), cost(1)
	t.Logf("8 MB of log cost %v in lines of 1 KB, %v in empty lines", long, short)
	if short > 3*long+100*time.Millisecond {
		t.Errorf("8 MB of empty lines cost the node %v of processor time, in lines of 1 KB they cost %v", short, long)
	}
}

// processorTime is what a process has used, to 10 ms.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += v
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestAnUnsignedRequestIsRefusedBeforeItsBody announces the largest body that there is and sends none of it.
func TestAnUnsignedRequestIsRefusedBeforeItsBody(t *testing.T) {
	n := kilntest.Start(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.Endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /2015-03-31/functions HTTP/1.1\r\nHost: kiln\r\nContent-Length: 69000000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer while nothing of the body is sent: %v", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("status %s", res.Status)
	}
}

// TestAnErrorDoesNotRepeatAllOfALongValue sends one value of 1 MB that breaks two constraints.
func TestAnErrorDoesNotRepeatAllOfALongValue(t *testing.T) {
	n := kilntest.Start(t)
	_, err := n.Client().CreateFunction(t.Context(), &lambda.CreateFunctionInput{
		FunctionName: aws.String(strings.Repeat("\x01", 1<<20)), Role: aws.String(kilntest.Role), Code: &types.FunctionCode{ZipFile: []byte("x")},
	})
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("created: %v", err)
	}
	if size := len(e.ErrorMessage()); size > 64<<10 {
		t.Errorf("the message has %d bytes", size)
	}
}

// TestAKeyFileThatWasCutOffDoesNotKeepANodeFromStarting starts a node on what a power cut can leave of a file that was not synced.
func TestAKeyFileThatWasCutOffDoesNotKeepANodeFromStarting(t *testing.T) {
	n := kilntest.Start(t)
	n.Stop()
	if err := os.Truncate(filepath.Join(n.Dir, "code-url.key"), 0); err != nil {
		t.Fatal(err)
	}
	n.Restart()
	if _, err := n.Client().ListFunctions(t.Context(), &lambda.ListFunctionsInput{}); err != nil {
		t.Error(err)
	}
}

// TestAFunctionThatHangsUpIsItsOwnFault answers no invocation: it stops reading from the worker during INIT.
func TestAFunctionThatHangsUpIsItsOwnFault(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "hangup", MemoryMB: 128, Zip: attackFile(t, "hangup.py")})
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("hangup"), Payload: []byte(`1`)})
	if err != nil {
		t.Errorf("the function's fault is answered as the platform's: %v", err)
	}
}
