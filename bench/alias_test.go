package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// moves is how often an alias is moved and called to see that.
const moves = 500

// BenchmarkAlias measures how soon an alias that was moved is seen by invocations. Sandboxes are real.
func BenchmarkAlias(b *testing.B) {
	n := kilntest.Start(b, "--api-rate", "1000000")
	name := aws.String("f")
	n.Deploy(b.Context(), kilntest.Function{Name: *name, Runtime: n.Runtime("python3"), MemoryMB: 1769, Zip: subjects[1].zip(b), Env: map[string]string{"CONTENT": "1"}})
	c, ctx := n.Client(), b.Context()
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	_, err := c.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: name})
	check(err)
	_, err = c.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
		FunctionName: name, Environment: &types.Environment{Variables: map[string]string{"CONTENT": "2"}},
	})
	check(err)
	n.Active(ctx, *name)
	_, err = c.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: name})
	check(err)
	_, err = c.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: name, Name: aws.String("live"), FunctionVersion: aws.String("1")})
	check(err)
	var seen, took []time.Duration
	for i := range moves {
		want := fmt.Sprint(2 - i%2)
		t := time.Now()
		_, err := c.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: name, Name: aws.String("live"), FunctionVersion: &want})
		check(err)
		acknowledged := time.Now()
		took = append(took, acknowledged.Sub(t))
		for begun := acknowledged; ; begun = time.Now() {
			out, err := c.Invoke(ctx, &lambda.InvokeInput{FunctionName: name, Qualifier: aws.String("live"), Payload: payload})
			check(err)
			if *out.ExecutedVersion == want {
				seen = append(seen, begun.Sub(acknowledged))
				break
			}
		}
	}
	slices.Sort(seen)
	slices.Sort(took)
	w := table(b, "an alias is moved | P50 ms | P99 ms | max ms")
	fmt.Fprintf(w, "UpdateAlias answers\t%s\t%s\t%s\t\n", ms(at(took, 50)), ms(at(took, 99)), ms(took[len(took)-1]))
	fmt.Fprintf(w, "from then until the first call that sees it\t%s\t%s\t%s\t\n", ms(at(seen, 50)), ms(at(seen, 99)), ms(seen[len(seen)-1]))
}
