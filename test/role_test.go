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
	control, data := kilntest.StartRoles(t, "--pool", "0")
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

func TestTheControlPlaneOutlivesWhoServesClients(t *testing.T) {
	control, data := kilntest.StartRoles(t, "--pool", "0")
	data.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	call(t, data, "f", `1`)
	data.Kill()
	data.Restart()
	call(t, data, "f", `2`)
	if control.Pid() == data.Pid() {
		t.Error("both roles are one process")
	}
}

// TestNoCallIsLostWhileTheControlPlaneComesAndGoes calls a function all the time.
func TestNoCallIsLostWhileTheControlPlaneComesAndGoes(t *testing.T) {
	control, data := kilntest.StartRoles(t, "--pool", "0")
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
