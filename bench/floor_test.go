package bench

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"kiln/kilntest"
)

// floorPairs are as many as invocations are measured.
const floorPairs = 3000

// BenchmarkFloor compares a warm call of a Go function with what it cannot do without: its HTTP client's two requests to the Runtime
// API, answered by a process in the same sandbox that does nothing else.
func BenchmarkFloor(b *testing.B) {
	n := kilntest.Start(b)
	deploy := func(name, dir string) {
		n.Deploy(b.Context(), kilntest.Function{
			Name: name, Runtime: "provided.al2023", Handler: "bootstrap", MemoryMB: 1769, Timeout: 60, Zip: kilntest.GoZip(b, dir),
		})
	}
	deploy("go", "bench/echo")
	deploy("pingpong", "bench/pingpong")
	w := table(b, "Go, warm | us | processor us, all | kiln serve")
	for range 3 {
		own, all := ticks(n.Pid()), treeTicks(n.Pid())
		d := measure(b, n.Client(), "go", floorPairs)
		own, all = ticks(n.Pid())-own, treeTicks(n.Pid())-all
		each := func(ticks int64, of int) float64 { return float64(ticks) * tick / float64(of) }
		fmt.Fprintf(w, "a call (P50)\t%.0f\t%.0f\t%.0f\t\n", float64(at(d, 50))/float64(time.Microsecond), each(all, floorPairs+settling), each(own, floorPairs+settling))
		pingpong(b, n, 100)
		own, all = ticks(n.Pid()), treeTicks(n.Pid())
		us := pingpong(b, n, floorPairs)
		own, all = ticks(n.Pid())-own, treeTicks(n.Pid())-all
		fmt.Fprintf(w, "its two requests alone (mean)\t%.0f\t%.0f\t%.0f\t\n", us, each(all, floorPairs), each(own, floorPairs))
	}
}

func pingpong(b *testing.B, n *kilntest.Node, pairs int) float64 {
	out, err := n.Client().Invoke(b.Context(), &lambda.InvokeInput{FunctionName: aws.String("pingpong"), Payload: []byte(strconv.Itoa(pairs))})
	if err != nil || out.FunctionError != nil {
		b.Fatalf("pingpong: %v %s", err, out.Payload)
	}
	us, err := strconv.ParseFloat(string(out.Payload), 64)
	if err != nil {
		b.Fatal(err)
	}
	return us
}
