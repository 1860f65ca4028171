package test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

// TestFreezingIsHarmless calls functions at the moments at which they are just being frozen.
func TestFreezingIsHarmless(t *testing.T) {
	n := kilntest.Start(t)
	var wg sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprint("f", i)
		n.Deploy(t.Context(), kilntest.Function{Name: name, Zip: python(t, echo)})
		c := n.Client()
		wg.Go(func() {
			for range rounds(400, 40000) {
				out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: []byte("1")})
				if err != nil || out.FunctionError != nil {
					t.Errorf("%s: %+v, %v", name, out, err)
					return
				}
				<-time.After(time.Duration(9000+rand.IntN(4000)) * time.Microsecond)
			}
		})
	}
	wg.Wait()
}
