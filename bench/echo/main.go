// Command bootstrap is the Go function of the benchmarks: it answers with the event.
package main

import (
	"context"
	"encoding/json"

	"github.com/aws/aws-lambda-go/lambda"
)

func echo(_ context.Context, event json.RawMessage) (json.RawMessage, error) { return event, nil }

func main() { lambda.Start(echo) }
