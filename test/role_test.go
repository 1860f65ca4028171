package test

import (
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

func TestInvocationsGoOnWithoutTheControlPlane(t *testing.T) {
	r := kilntest.StartRoles(t, 1, "--pool", "0")
	control, data := r.Control, r.Data
	data.Deploy(t.Context(), kilntest.Function{Name: "warm", Zip: python(t, echo)})
	data.Deploy(t.Context(), kilntest.Function{Name: "cold", Zip: python(t, echo)})
	if got := value[int](t, data, "warm", `1`); got != 1 {
		t.Errorf("warm answered %d", got)
	}
	control.Kill()
	for range 3 {
		call(t, data, "warm", `2`)
	}
	if got := value[int](t, data, "cold", `3`); got != 3 {
		t.Errorf("a cold start without a control plane answered %d", got)
	}
	begun := time.Now()
	_, err := data.Client().GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("warm")})
	wantCode(t, err, "ServiceUnavailableException")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("refused after %v", took)
	}
	if _, err := data.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("missing")}); err == nil {
		t.Error("a function that does not exist answered")
	}

	control.Restart()
	data.Deploy(t.Context(), kilntest.Function{Name: "later", Zip: python(t, echo)})
	if got := value[int](t, data, "later", `4`); got != 4 {
		t.Errorf("what was deployed later answered %d", got)
	}
	call(t, data, "warm", `5`)
}

func TestWorkersOutliveWhoServesClients(t *testing.T) {
	r := kilntest.StartRoles(t, 1, "--pool", "0", "--admin", "127.0.0.1:0")
	r.Data.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	call(t, r.Data, "f", `1`)
	r.Data.Kill()
	awaitMetric(t, r.Workers[0], "kiln_environments_ended_total reason=orphaned", 1)
	r.Data.Restart()
	await(t, "an answer", func() error {
		_, err := r.Data.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`2`)})
		return err
	})
}

func TestACallerOfAWorkerThatIsKilledIsToldSoon(t *testing.T) {
	r := kilntest.StartRoles(t, 2, "--pool", "0", "--admin", "127.0.0.1:0")
	r.Data.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 60, Zip: python(t, sleeper)})
	type answer struct {
		err  error
		took time.Duration
	}
	answers := make(chan answer, 4)
	begun := time.Now()
	for range cap(answers) {
		go func() {
			_, err := r.Data.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`6`)})
			answers <- answer{err, time.Since(begun)}
		}()
	}
	for _, w := range r.Workers { // they share the environments
		awaitMetric(t, w, "kiln_environments state=busy", 2)
	}
	killed := time.Since(begun)
	r.Workers[0].Kill()
	lost := 0
	for range cap(answers) {
		a := <-answers
		if a.err == nil {
			continue
		}
		lost++
		wantCode(t, a.err, "ServiceUnavailableException")
		if a.took-killed > 2*time.Second {
			t.Errorf("told %v after the worker was killed", a.took-killed)
		}
	}
	if lost != 2 {
		t.Errorf("%d of 4 callers lost their invocation, want those of the worker", lost)
	}
	for range 3 {
		call(t, r.Data, "f", `0`)
	}
	r.Workers[0].Restart()
	awaitMetric(t, r.Workers[0], "kiln_memory_total_megabytes", 1)
	r.Workers[1].Kill()
	await(t, "an answer of the worker that came back", func() error {
		_, err := r.Data.Client().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`0`)})
		return err
	})
}

func TestAWorkerThatIsToldToEndLetsItsInvocationsFinish(t *testing.T) {
	r := kilntest.StartRoles(t, 2, "--pool", "0", "--admin", "127.0.0.1:0")
	r.Data.Deploy(t.Context(), kilntest.Function{Name: "f", Timeout: 60, Zip: python(t, sleeper)})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { call(t, r.Data, "f", `3`) })
	}
	for _, w := range r.Workers {
		awaitMetric(t, w, "kiln_environments state=busy", 1)
	}
	r.Workers[0].Stop()
	wg.Wait()
	call(t, r.Data, "f", `0`)
}

func TestFunctionsOfAWorkerCallTheNode(t *testing.T) {
	r := kilntest.StartRoles(t, 1, "--pool", "0")
	r.Data.Deploy(t.Context(), kilntest.Function{Name: "echo", Zip: python(t, echo)})
	r.Data.Deploy(t.Context(), kilntest.Function{
		Name: "calls", Timeout: 30, Runtime: "provided.al2023", Handler: "bootstrap", Zip: kilntest.GoZip(t, "test/testdata/caller"),
	})
	if got := value[int](t, r.Data, "calls", `{"Function":"echo","Payload":7}`); got != 7 {
		t.Errorf("a function was answered %d", got)
	}
}

// await tries again until it succeeds: nothing else tells when a process has been found.
func await(t testing.TB, what string, try func() error) {
	t.Helper()
	limit := time.After(10 * time.Second)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Fatalf("wait for %s: %v", what, err)
		case <-again.C:
		}
	}
}

// TestNoCallIsLostWhileTheControlPlaneComesAndGoes calls a function all the time.
func TestNoCallIsLostWhileTheControlPlaneComesAndGoes(t *testing.T) {
	r := kilntest.StartRoles(t, 1, "--pool", "0")
	control, data := r.Control, r.Data
	data.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	call(t, data, "f", `0`)
	stop := make(chan struct{})
	calls := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				call(t, data, "f", `1`)
				calls++
			}
		}
	})
	for range 3 {
		control.Kill()
		control.Restart()
		data.Deploy(t.Context(), kilntest.Function{Name: "g", Zip: python(t, echo)})
		call(t, data, "g", `2`)
		if _, err := data.Client().DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String("g")}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d calls", calls)
}
