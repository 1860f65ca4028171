package deploy

import (
	"context"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// The values of the API's enum RecursiveLoop.
const (
	loopAllowed    = "Allow"
	loopTerminated = "Terminate"
)

func recursiveLoop(f *kiln.Function) *string {
	if f.MayLoop {
		return new(loopAllowed)
	}
	return new(loopTerminated)
}

func (s *Service) putFunctionRecursionConfig(ctx context.Context, c api.Caller, in *api.PutFunctionRecursionConfigRequest) (*api.PutFunctionRecursionConfigResponse, error) {
	r, err := s.readUpdate(ctx, c, api.PutFunctionRecursionConfig, in.FunctionName, func(v *constraint.Violations) {
		if in.RecursiveLoop == nil {
			v.Missing("recursiveLoop")
		} else {
			v.Enum("recursiveLoop", *in.RecursiveLoop, loopTerminated, loopAllowed)
		}
	})
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
		f.MayLoop = *in.RecursiveLoop == loopAllowed
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	return &api.PutFunctionRecursionConfigResponse{RecursiveLoop: in.RecursiveLoop}, nil
}

func (s *Service) getFunctionRecursionConfig(ctx context.Context, c api.Caller, in *api.GetFunctionRecursionConfigRequest) (*api.GetFunctionRecursionConfigResponse, error) {
	r, err := s.readUnqualified(ctx, c, api.GetFunctionRecursionConfig, ref.Plain, in.FunctionName)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	return &api.GetFunctionRecursionConfigResponse{RecursiveLoop: recursiveLoop(f)}, nil
}

// updatedAlways is the value of the API's enum UpdateRuntimeOn that is true of kiln: an environment starts with the runtime that the machine
// has then.
const updatedAlways = "Auto"

func (s *Service) putRuntimeManagementConfig(ctx context.Context, c api.Caller, in *api.PutRuntimeManagementConfigRequest) (*api.PutRuntimeManagementConfigResponse, error) {
	r, err := s.readRuntimeManagement(ctx, c, api.PutRuntimeManagementConfig, in.FunctionName, in.Qualifier, func(v *constraint.Violations) {
		if in.UpdateRuntimeOn == nil {
			v.Missing("updateRuntimeOn")
		} else {
			v.Enum("updateRuntimeOn", *in.UpdateRuntimeOn, api.Enum("UpdateRuntimeOn")...)
		}
	})
	if err != nil {
		return nil, err
	}
	if _, _, err := s.findVersion(ctx, r); err != nil {
		return nil, err
	}
	if *in.UpdateRuntimeOn != updatedAlways {
		return nil, unsupported(api.PutRuntimeManagementConfig.Name + " member UpdateRuntimeOn with the value " + *in.UpdateRuntimeOn)
	}
	return &api.PutRuntimeManagementConfigResponse{UpdateRuntimeOn: in.UpdateRuntimeOn, FunctionArn: new(r.ARN(s.cfg.Region))}, nil
}

func (s *Service) getRuntimeManagementConfig(ctx context.Context, c api.Caller, in *api.GetRuntimeManagementConfigRequest) (*api.GetRuntimeManagementConfigResponse, error) {
	r, err := s.readRuntimeManagement(ctx, c, api.GetRuntimeManagementConfig, in.FunctionName, in.Qualifier, nil)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.findVersion(ctx, r); err != nil {
		return nil, err
	}
	return &api.GetRuntimeManagementConfigResponse{UpdateRuntimeOn: new(updatedAlways), FunctionArn: new(r.ARN(s.cfg.Region))}, nil
}

// readRuntimeManagement reads which version an operation is about, and lets check look at the other members.
func (s *Service) readRuntimeManagement(ctx context.Context, c api.Caller, op *api.Operation, function, qualifier *string, check func(*constraint.Violations)) (ref.Ref, error) {
	r, err := s.readQualified(ctx, c, op, ref.Namespaced, function, qualifier, check)
	if err == nil && r.Qualifier == "" {
		r.Qualifier = kiln.LatestVersion
	}
	return r, err
}
