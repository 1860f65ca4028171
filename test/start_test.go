package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

// BenchmarkColdStartWithANetwork measures cold starts with and without a way to the internet, one after the other.
func BenchmarkColdStartWithANetwork(b *testing.B) {
	kilntest.Internet(b)
	kinds := []string{"none", "internet"}
	nodes := map[string]*kilntest.Node{}
	code := kilntest.GoZip(b, "bench/echo")
	for _, kind := range kinds {
		nodes[kind] = kilntest.Start(b, "--egress", kind)
	}
	took := map[string][]time.Duration{}
	for b.Loop() {
		for _, kind := range kinds {
			name := fmt.Sprintf("f%d", len(took[kind]))
			nodes[kind].Deploy(b.Context(), kilntest.Function{Name: name, Runtime: "provided.al2023", Handler: "bootstrap", Zip: code})
			begun := time.Now()
			if _, err := nodes[kind].Client().Invoke(b.Context(), &lambda.InvokeInput{FunctionName: aws.String(name), Payload: []byte(`1`)}); err != nil {
				b.Fatal(err)
			}
			took[kind] = append(took[kind], time.Since(begun))
			if _, err := nodes[kind].Client().DeleteFunction(b.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String(name)}); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, kind := range kinds {
		slices.Sort(took[kind])
		b.ReportMetric(float64(took[kind][len(took[kind])/2].Microseconds())/1000, "ms-"+kind)
	}
}
