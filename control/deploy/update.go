package deploy

import (
	"context"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

func updateCodeEnforces() []api.Enforced {
	return append(members("FunctionName", "ZipFile", "Publish", "DryRun", "RevisionId"),
		api.Enforced{Path: "Architectures", Note: architecture + " only"})
}

func updateConfigurationEnforces() []api.Enforced {
	return append(members("FunctionName", "RevisionId"), settingsEnforces()...)
}

func (s *Service) updateFunctionConfiguration(ctx context.Context, c api.Caller, in *api.UpdateFunctionConfigurationRequest) (*api.FunctionConfiguration, error) {
	given := settings{
		role: in.Role, handler: in.Handler, description: in.Description, runtime: in.Runtime, timeout: in.Timeout, memory: in.MemorySize,
		environment: in.Environment, storage: in.EphemeralStorage, tracing: in.TracingConfig, snapStart: in.SnapStart,
		logging: in.LoggingConfig, vpc: in.VpcConfig, kmsKey: in.KMSKeyArn, deadLetter: in.DeadLetterConfig, layers: in.Layers,
	}
	r, err := s.readUpdate(ctx, c, api.UpdateFunctionConfiguration, in.FunctionName, given.check)
	if err != nil {
		return nil, err
	}
	if err := checkRole(r.Account, in.Role); err != nil {
		return nil, err
	}
	var updated kiln.Version
	err = s.withLayers(ctx, r.Account, in.Layers, func(layers []kiln.Layer) error {
		given.resolved = layers
		return s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
			if len(layers) > 0 {
				if err := s.verify(ctx, f); err != nil {
					return nil, err
				}
			}
			err := s.update(f, r, in.RevisionId, given.apply)
			updated = f.Latest
			return nil, err
		})
	})
	if err != nil {
		return nil, err
	}
	return s.configuration(&updated, r.ARN(s.cfg.Region)), nil
}

func (s *Service) updateFunctionCode(ctx context.Context, c api.Caller, in *api.UpdateFunctionCodeRequest) (*api.FunctionConfiguration, error) {
	r, err := s.readUpdate(ctx, c, api.UpdateFunctionCode, in.FunctionName, func(v *constraint.Violations) { checkArchitectures(v, in.Architectures) })
	if err != nil {
		return nil, err
	}
	z, err := readArchive(in.ZipFile, functionCode)
	if err != nil {
		return nil, err
	}
	if isTrue(in.DryRun) {
		return s.dryRun(ctx, r, z.code, in)
	}
	if err := s.checkUpdate(ctx, r, in.RevisionId); err != nil {
		return nil, err
	}
	var updated kiln.Version
	err = s.withCode(ctx, r.Account, z, func() error {
		return s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
			if err := s.verify(ctx, f); err != nil {
				return nil, err
			}
			if err := s.update(f, r, in.RevisionId, newCode(z.code, in.Architectures)); err != nil {
				return nil, err
			}
			var writes []write
			var err error
			updated, writes, err = s.publishUpdate(ctx, f, in.Publish)
			return writes, err
		})
	})
	if err != nil {
		return nil, err
	}
	return s.configuration(&updated, s.arn(&updated, isTrue(in.Publish))), nil
}

// publishUpdate makes a version of f, just updated, if publish says so. It returns what the caller is told of and what to write.
func (s *Service) publishUpdate(ctx context.Context, f *kiln.Function, publish *bool) (kiln.Version, []write, error) {
	if !isTrue(publish) {
		return f.Latest, nil, nil
	}
	return s.publish(ctx, f, nil, beginCreate)
}

// newCode returns what sets the code of a Config.
func newCode(code kiln.Code, architectures []string) func(*kiln.Config) error {
	return func(c *kiln.Config) error {
		c.Code = code
		return applyArchitectures(c, architectures)
	}
}

// dryRun says what an update would make, without a new revision, and stores nothing.
func (s *Service) dryRun(ctx context.Context, r ref.Ref, code kiln.Code, in *api.UpdateFunctionCodeRequest) (*api.FunctionConfiguration, error) {
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx, f); err != nil {
		return nil, err
	}
	was := f.Latest.RevisionID
	if err := s.update(f, r, in.RevisionId, newCode(code, in.Architectures)); err != nil {
		return nil, err
	}
	f.Latest.RevisionID = was
	return s.configuration(&f.Latest, r.ARN(s.cfg.Region)), nil
}

// checkUpdate spares storing code for an update that is bound to fail. It decides nothing: the commit does.
func (s *Service) checkUpdate(ctx context.Context, r ref.Ref, revision *string) error {
	f, _, err := s.find(ctx, r)
	if err != nil {
		return err
	}
	if err := guard(f, revision); err != nil {
		return err
	}
	return busy(&f.Latest, r, s.cfg.Region)
}

// update changes the $LATEST of f by apply.
func (s *Service) update(f *kiln.Function, r ref.Ref, revision *string, apply func(*kiln.Config) error) error {
	if err := guard(f, revision); err != nil {
		return err
	}
	if err := busy(&f.Latest, r, s.cfg.Region); err != nil {
		return err
	}
	v := &f.Latest
	was := v.Config
	if err := apply(&v.Config); err != nil {
		return err
	}
	if err := checkUnzipped(v.Config); err != nil {
		return err
	}
	if !runsAlike(was, v.Config) {
		v.Deployment = s.cfg.NewID()
	}
	v.RevisionID = s.cfg.NewID()
	v.LastModified = s.cfg.Now()
	beginUpdate(v)
	return nil
}

// readUpdate checks a request by AWS's model and reads the reference in it, which must be to a whole function.
func (s *Service) readUpdate(ctx context.Context, c api.Caller, op *api.Operation, name *string, check func(*constraint.Violations)) (ref.Ref, error) {
	r, err := s.readQualified(ctx, c, op, ref.Plain, name, nil, check)
	if err != nil {
		return ref.Ref{}, err
	}
	return r, wholeFunction(r)
}
