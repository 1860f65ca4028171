package deploy

import (
	"context"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

func (s *Service) getFunction(ctx context.Context, c api.Caller, in *api.GetFunctionRequest) (*api.GetFunctionResponse, error) {
	r, err := s.reader(ctx, c, api.GetFunction, ref.Namespaced).Read(in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	f, v, err := s.findVersion(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &api.GetFunctionResponse{
		Configuration: s.configuration(v, r.ARN(s.cfg.Region)),
		Code:          &api.FunctionCodeLocation{RepositoryType: new("S3"), Location: new(s.cfg.CodeURL(v.Account, v.Code.Digest))},
	}
	if reserved := reservedOf(f); reserved != nil {
		out.Concurrency = &api.Concurrency{ReservedConcurrentExecutions: reserved}
	}
	if len(f.Tags) > 0 {
		out.Tags = f.Tags
	}
	return out, nil
}

func (s *Service) getFunctionConfiguration(ctx context.Context, c api.Caller, in *api.GetFunctionConfigurationRequest) (*api.FunctionConfiguration, error) {
	r, err := s.reader(ctx, c, api.GetFunctionConfiguration, ref.Namespaced).Read(in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	_, v, err := s.findVersion(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.configuration(v, r.ARN(s.cfg.Region)), nil
}

// getFunctionEventInvokeConfig answers as AWS does of a function without one, whether the function exists or not.
func (s *Service) getFunctionEventInvokeConfig(ctx context.Context, c api.Caller, in *api.GetFunctionEventInvokeConfigRequest) (*api.FunctionEventInvokeConfig, error) {
	r, err := s.reader(ctx, c, api.GetFunctionEventInvokeConfig, ref.Namespaced).Read(in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	if r.Qualifier == "" {
		r.Qualifier = kiln.LatestVersion
	}
	return nil, kiln.Errorf(kiln.ResourceNotFound, "The function %s doesn't have an EventInvokeConfig", r.ARN(s.cfg.Region))
}

var urlQualifierPattern = constraint.MustPattern(`[0-9a-zA-Z-_]+`)

// getFunctionURLConfig answers as AWS does of a function without one, whether the function exists or not.
func (s *Service) getFunctionURLConfig(ctx context.Context, c api.Caller, in *api.GetFunctionUrlConfigRequest) (*api.GetFunctionUrlConfigResponse, error) {
	reader := s.reader(ctx, c, api.GetFunctionUrlConfig, ref.Plain)
	var v constraint.Violations
	reader.Check(&v, in.FunctionName, nil)
	if q := in.Qualifier; q != nil {
		const maxQualifier = 128
		v.Length("qualifier", *q, 1, maxQualifier)
		if !urlQualifierPattern.Matches(*q) || isNumber(*q) {
			v.Add("qualifier", *q, `Member must satisfy regular expression pattern: ((?!^\d+$)^[0-9a-zA-Z-_]+$)`)
		}
	}
	if err := validation(&v); err != nil {
		return nil, err
	}
	if _, err := reader.Resolve(*in.FunctionName, in.Qualifier); err != nil {
		return nil, err
	}
	return nil, kiln.Errorf(kiln.ResourceNotFound, "The resource you requested does not exist.")
}

func isNumber(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
