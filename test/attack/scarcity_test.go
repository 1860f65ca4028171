package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

// TestAMachineWithoutFreeMemoryEndsWhoAsksForIt gives all sandboxes together less than they were promised.
func TestAMachineWithoutFreeMemoryEndsWhoAsksForIt(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "takes", MemoryMB: 512, Timeout: 20, Zip: program(t, "takes.py")})
	n.Deploy(t.Context(), kilntest.Function{Name: "peer", MemoryMB: 128, Timeout: 20, Zip: echo(t)})
	answer[int](t, n, "takes", `10`)
	answer[int](t, n, "peer", `1`)
	parent := filepath.Dir(groupDirs(processesOf(t, n), "memory")[0])
	limit := filepath.Join(parent, "memory.limit_in_bytes")
	if _, err := os.Stat(limit); err != nil {
		limit = filepath.Join(parent, "memory.max")
	}
	free := hostFile(limit)
	write(t, limit, fmt.Sprint(160<<20))
	if got := failureOf(t, call(t, n, "takes", `400`)); !slices.Contains([]string{"Runtime.OutOfMemory", "Runtime.ExitError"}, got) {
		t.Errorf("who took more than there was ended with %q", got)
	}
	losesAtMost(t, n, 1, "peer") // the kernel chooses
	write(t, limit, free)
	if got := answer[int](t, n, "takes", `400`); got != 400 {
		t.Errorf("with memory again it answers %d", got)
	}
}

func TestAFullDiskIsSaidAndPasses(t *testing.T) {
	disk := memoryDisk(t, "size=400m")
	t.Setenv("TMPDIR", disk)
	n := kilntest.Start(t, "--pool", "0")
	for _, f := range []string{"warm", "cold"} {
		// Packages that differ, because equal ones are unpacked once.
		n.Deploy(t.Context(), kilntest.Function{Name: f, MemoryMB: 128, Zip: kilntest.Zip(t, map[string]string{
			"index.py": "def handler(event, context):\n    return event\n", "data": strings.Repeat(f, 1<<18),
		})})
	}
	answer[int](t, n, "warm", `1`)
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	if got := answer[int](t, n, "warm", `2`); got != 2 {
		t.Errorf("with a full disk a warm function answers %d", got)
	}
	begun := time.Now()
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("cold"), Payload: []byte(`1`)})
	wantOwnFault(t, err, begun)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if got := answer[int](t, n, "cold", `3`); got != 3 {
		t.Errorf("with room again a cold start answers %d", got)
	}
}

// memoryDisk mounts a file system in memory until the test has ended and returns where.
func memoryDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	// Not t.TempDir, which would be removed recursively, with what is mounted in it if unmounting failed.
	dir, err := os.MkdirTemp("", "kiln-disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := unix.Mount("kiln-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// TestTooFewTasksAreSaidAndPass holds the launcher to the tasks that it has.
func TestTooFewTasksAreSaidAndPass(t *testing.T) {
	n := kilntest.Start(t, "--pool", "0")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", MemoryMB: 128, Zip: echo(t)})
	n.Deploy(t.Context(), kilntest.Function{Name: "g", MemoryMB: 128, Zip: echo(t)})
	answer[int](t, n, "f", `1`)
	release := holdTasks(t, launcherOf(t, n))
	begun := time.Now()
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("g"), Payload: []byte(`1`)})
	wantOwnFault(t, err, begun)
	if got := answer[int](t, n, "f", `2`); got != 2 {
		t.Errorf("without tasks a warm function answers %d", got)
	}
	release()
	if got := answer[int](t, n, "g", `3`); got != 3 {
		t.Errorf("with tasks again a cold start answers %d", got)
	}
}

// holdTasks lets a process have no more tasks than it has, until release is called.
func holdTasks(t *testing.T, pid int) (release func()) {
	t.Helper()
	p, _ := readProcess(pid)
	root, home := "/sys/fs/cgroup", p.groups[""]
	if path, ok := p.groups["pids"]; ok {
		root, home = "/sys/fs/cgroup/pids", path
	}
	dir := filepath.Join(root, fmt.Sprintf("kiln-attack-%d", pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("this machine lets nobody make control groups: %v", err)
	}
	release = sync.OnceFunc(func() {
		write(t, filepath.Join(root, home, "cgroup.procs"), fmt.Sprint(pid))
		if err := unix.Rmdir(dir); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	write(t, filepath.Join(dir, "cgroup.procs"), fmt.Sprint(pid))
	write(t, filepath.Join(dir, "pids.max"), hostFile(filepath.Join(dir, "pids.current")))
	return release
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Error(err)
	}
}

func TestANodeWithoutMemorySaysSo(t *testing.T) {
	n := kilntest.Start(t, "--memory", "200", "--queue-wait", "500ms")
	for _, f := range []string{"busy", "late"} {
		n.Deploy(t.Context(), kilntest.Function{Name: f, MemoryMB: 128, Timeout: 20, Zip: program(t, "sleep.py")})
	}
	n.Deploy(t.Context(), kilntest.Function{Name: "large", MemoryMB: 1024, Zip: echo(t)})
	answer[int](t, n, "busy", `0`)
	var wg sync.WaitGroup
	wg.Go(func() {
		out, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("busy"), Payload: []byte(`2`)})
		if err != nil || out.FunctionError != nil {
			t.Errorf("who has memory is answered %+v, %v", out, err)
		}
	})
	<-time.After(500 * time.Millisecond) // it runs by then
	begun := time.Now()
	_, err := n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("large"), Payload: []byte(`0`)})
	wantOwnFault(t, err, begun) // it will never have room
	_, err = n.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("late"), Payload: []byte(`0`)})
	if _, ok := errors.AsType[*types.TooManyRequestsException](err); !ok {
		t.Errorf("who waited for memory is answered %v", err)
	}
	wg.Wait()
	// What is idle gives way.
	answer[int](t, n, "late", `0`)
}
