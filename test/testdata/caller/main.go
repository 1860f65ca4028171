// Command bootstrap is a Lambda function that invokes the function that its event names, with nothing configured.
package main

import (
	"context"
	"encoding/json"

	runtime "github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

type event struct {
	Function string
	Payload  json.RawMessage
}

func handle(ctx context.Context, e event) (json.RawMessage, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	out, err := lambda.NewFromConfig(cfg).Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(e.Function), Payload: e.Payload})
	if err != nil {
		return nil, err
	}
	return out.Payload, nil
}

func main() { runtime.Start(handle) }
