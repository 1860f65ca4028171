package deploy

import (
	"time"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
)

// lastModifiedLayout is AWS's form of LastModified, in UTC.
const lastModifiedLayout = "2006-01-02T15:04:05.000-0700"

// configuration shows v under an ARN.
func (s *Service) configuration(v *kiln.Version, arn string) *api.FunctionConfiguration {
	c := &api.FunctionConfiguration{
		FunctionName:     new(string(v.Function)),
		FunctionArn:      &arn,
		Runtime:          &v.Runtime,
		Role:             &v.Role,
		Handler:          &v.Handler,
		CodeSize:         &v.Code.Size,
		CodeSha256:       new(v.Code.Digest.Base64()),
		Description:      &v.Description,
		Timeout:          new(int32(v.Timeout / time.Second)),
		MemorySize:       new(int32(v.MemoryMB)),
		LastModified:     new(v.LastModified.UTC().Format(lastModifiedLayout)),
		Version:          new(string(v.Qualifier)),
		TracingConfig:    &api.TracingConfigResponse{Mode: new("PassThrough")},
		RevisionId:       &v.RevisionID,
		PackageType:      new("Zip"),
		Architectures:    []string{v.Architecture},
		EphemeralStorage: &api.EphemeralStorage{Size: new(int32(v.EphemeralMB))},
		SnapStart:        &api.SnapStartResponse{ApplyOn: new("None"), OptimizationStatus: new("Off")},
		LoggingConfig:    &api.LoggingConfig{LogFormat: new("Text"), LogGroup: &v.LogGroup},

		State:                      optional(string(v.State)),
		StateReason:                optional(v.StateReason),
		StateReasonCode:            optional(v.StateReasonCode),
		LastUpdateStatus:           optional(string(v.LastUpdateStatus)),
		LastUpdateStatusReason:     optional(v.UpdateReason),
		LastUpdateStatusReasonCode: optional(v.UpdateReasonCode),
	}
	for _, l := range v.Layers {
		c.Layers = append(c.Layers, api.Layer{Arn: new(s.layerRef(&l).VersionARN()), CodeSize: &l.Code.Size})
	}
	if v.Environment != nil {
		c.Environment = &api.EnvironmentResponse{Variables: v.Environment}
	}
	return c
}

// summary shows v in a list: AWS leaves the states out there.
func (s *Service) summary(v *kiln.Version, arn string) api.FunctionConfiguration {
	bare := *v
	bare.State, bare.StateReason, bare.StateReasonCode = "", "", ""
	bare.LastUpdateStatus, bare.UpdateReason, bare.UpdateReasonCode = "", "", ""
	return *s.configuration(&bare, arn)
}

// optional returns nil for "".
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// arn returns the ARN of v, with its qualifier or that of the function.
func (s *Service) arn(v *kiln.Version, qualified bool) string {
	r := ref.Ref{Account: v.Account, Name: v.Function}
	if qualified {
		r.Qualifier = v.Qualifier
	}
	return r.ARN(s.cfg.Region)
}
