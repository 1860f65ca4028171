// Command bootstrap is a Lambda function in Go: it greets whoever the event names.
package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type event struct {
	Name string `json:"name"`
}

type answer struct {
	Message   string `json:"message"`
	RequestID string `json:"requestId"`
}

func greet(ctx context.Context, e event) (answer, error) {
	lc, _ := lambdacontext.FromContext(ctx)
	fmt.Println("greeting", e.Name)
	return answer{Message: "Hello, " + e.Name + ", from Go", RequestID: lc.AwsRequestID}, nil
}

func main() { lambda.Start(greet) }
