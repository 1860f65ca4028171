// Command function is a Lambda function that does what its event asks of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

func main() {
	switch os.Getenv("MODE") {
	case "panic in init":
		panic("no luck")
	case "stream":
		lambda.Start(stream)
	case "sigterm":
		lambda.StartWithOptions(handle, lambda.WithEnableSIGTERM(func() { fmt.Println("ending") }))
	default:
		lambda.Start(handle)
	}
}

type event struct {
	Do   string `json:"do"`
	Text string `json:"text"`
	N    int    `json:"n"`
}

// outOfStock is an error with a type of its own.
type outOfStock struct{ item string }

func (o *outOfStock) Error() string { return "no " + o.item }

func handle(ctx context.Context, e event) (any, error) {
	switch e.Do {
	case "echo":
		return e.Text, nil
	case "long":
		return strings.Repeat("x", e.N), nil
	case "context":
		return describe(ctx), nil
	case "exit":
		os.Exit(e.N)
	}
	return nil, fail(e)
}

// fail fails in the way that the event names.
func fail(e event) error {
	switch e.Do {
	case "error":
		return errors.New(e.Text)
	case "wrapped error":
		return fmt.Errorf("outer: %w", errors.New(e.Text))
	case "own error":
		return &outOfStock{e.Text}
	case "lambda error":
		return messages.InvokeResponse_Error{Type: "Shop.Closed", Message: e.Text}
	case "panic":
		panic(e.Text)
	case "panic with error":
		panic(&outOfStock{e.Text})
	case "nil pointer":
		var missing *event
		return errors.New(missing.Text)
	case "panic elsewhere":
		go panic(e.Text)
		select {}
	}
	return nil
}

func describe(ctx context.Context) map[string]any {
	lc, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	return map[string]any{
		"id": lc.AwsRequestID, "arn": lc.InvokedFunctionArn, "client": lc.ClientContext, "remaining": time.Until(deadline).Milliseconds(),
		"name": lambdacontext.FunctionName, "version": lambdacontext.FunctionVersion, "memory": lambdacontext.MemoryLimitInMB,
		"group": lambdacontext.LogGroupName, "stream": lambdacontext.LogStreamName, "trace": ctx.Value("x-amzn-trace-id"),
	}
}

// stream answers with the parts, each a chunk of its own on the way to the Runtime API.
func stream(_ context.Context, parts []string) (io.Reader, error) {
	readers := make([]io.Reader, len(parts))
	for i, part := range parts {
		readers[i] = strings.NewReader(part)
	}
	return io.MultiReader(readers...), nil
}
