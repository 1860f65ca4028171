package deploy

import (
	"context"
	"errors"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

const maxName = 64

func createEnforces() []api.Enforced {
	return append(append(members("FunctionName", "Publish", "Tags", "CodeSigningConfigArn"), settingsEnforces()...),
		api.Enforced{Path: "Code.ZipFile"},
		api.Enforced{Path: "PackageType", Note: "Zip only"},
		api.Enforced{Path: "Architectures", Note: architecture + " only"},
	)
}

func settingsOfCreate(in *api.CreateFunctionRequest) settings {
	return settings{
		role: in.Role, handler: in.Handler, description: in.Description, runtime: in.Runtime, timeout: in.Timeout, memory: in.MemorySize,
		environment: in.Environment, storage: in.EphemeralStorage, tracing: in.TracingConfig, snapStart: in.SnapStart,
		logging: in.LoggingConfig, vpc: in.VpcConfig, kmsKey: in.KMSKeyArn, deadLetter: in.DeadLetterConfig, layers: in.Layers,
	}
}

func (s *Service) createFunction(ctx context.Context, c api.Caller, in *api.CreateFunctionRequest) (*api.FunctionConfiguration, error) {
	r, err := s.readCreate(ctx, c, in)
	if err != nil {
		return nil, err
	}
	cfg, err := newConfig(r.Name, in)
	if err != nil {
		return nil, err
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	z, err := readArchive(in.Code.ZipFile, functionCode)
	if err != nil {
		return nil, err
	}
	if err := s.checkAbsent(ctx, r); err != nil {
		return nil, err
	}
	f := s.newFunction(r, in.Tags)
	signed, err := s.signNew(ctx, f, c, in.CodeSigningConfigArn)
	if err != nil {
		return nil, err
	}
	var created *kiln.Version
	cfg.Code = z.code
	err = s.withLayers(ctx, r.Account, in.Layers, func(layers []kiln.Layer) error {
		cfg.Layers = layers
		if err := checkUnzipped(cfg); err != nil {
			return err
		}
		return s.withCode(ctx, r.Account, z, func() error {
			var err error
			f.Latest.Config = cfg
			created, err = s.commitCreate(ctx, f, in.Publish, signed)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return s.configuration(created, r.ARN(s.cfg.Region)), nil
}

// readCreate checks a request by AWS's model and reads the reference in it.
func (s *Service) readCreate(ctx context.Context, c api.Caller, in *api.CreateFunctionRequest) (ref.Ref, error) {
	reader := s.reader(ctx, c, api.CreateFunction, ref.Plain)
	var v constraint.Violations
	reader.Check(&v, in.FunctionName, nil)
	if in.Role == nil {
		v.Missing("role")
	}
	if in.Code == nil {
		v.Missing("code")
	}
	if in.PackageType != nil {
		v.Enum("packageType", *in.PackageType, "Zip", "Image")
	}
	settingsOfCreate(in).check(&v)
	if in.CodeSigningConfigArn != nil {
		checkCodeSigningARN(&v, in.CodeSigningConfigArn)
	}
	checkArchitectures(&v, in.Architectures)
	if err := validation(&v); err != nil {
		return ref.Ref{}, err
	}
	r, err := reader.Resolve(*in.FunctionName, nil)
	if err != nil {
		return ref.Ref{}, err
	}
	if len(r.Name) > maxName {
		v.Length("functionName", string(r.Name), 1, maxName)
		return ref.Ref{}, kiln.Errorf(kiln.InvalidParameterValue, "%s", v.Message())
	}
	if err := wholeFunction(r); err != nil {
		return ref.Ref{}, err
	}
	return r, checkRole(r.Account, in.Role)
}

// checkRole returns AWS's error if an account must not give its functions a role, because that is another account's: whoever trusts the role
// would trust them. Nil is right.
func checkRole(a kiln.AccountID, role *string) error {
	if role == nil || strings.Contains(*role, ":iam::"+string(a)+":role") {
		return nil
	}
	return kiln.Errorf(kiln.AccessDenied, "Cross-account pass role is not allowed.")
}

// newConfig returns the configuration of a new function, without its code and its layers.
func newConfig(name kiln.FunctionName, in *api.CreateFunctionRequest) (kiln.Config, error) {
	cfg := kiln.Config{
		Architecture: architecture,
		Timeout:      kiln.DefaultTimeout,
		MemoryMB:     kiln.DefaultMemoryMB,
		EphemeralMB:  kiln.MinEphemeralMB,
		LogGroup:     "/aws/lambda/" + string(name),
	}
	if given(in.PackageType, "Zip") {
		return cfg, unsupported("PackageType Image: give it a zip file")
	}
	if in.Runtime == nil || in.Handler == nil {
		return cfg, kiln.Errorf(kiln.InvalidParameterValue, "Runtime and Handler are mandatory parameters for functions created with deployment packages.")
	}
	if err := applyArchitectures(&cfg, in.Architectures); err != nil {
		return cfg, err
	}
	return cfg, settingsOfCreate(in).apply(&cfg)
}

// checkAbsent spares storing the code of a function that is there already. It decides nothing: the commit does.
func (s *Service) checkAbsent(ctx context.Context, r ref.Ref) error {
	_, _, err := s.find(ctx, r)
	switch {
	case err == nil:
		return exists(r)
	case kiln.KindOf(err) == kiln.ResourceNotFound:
		return nil
	}
	return err
}

func exists(r ref.Ref) error {
	return kiln.Errorf(kiln.ResourceConflict, "Function already exist: %s", r.Name)
}

// newFunction returns a function that lacks its configuration.
func (s *Service) newFunction(r ref.Ref, tags map[string]string) *kiln.Function {
	f := &kiln.Function{
		ID: s.cfg.NewID(),
		Latest: kiln.Version{
			Account: r.Account, Function: r.Name, Qualifier: kiln.LatestVersion,
			RevisionID: s.cfg.NewID(), Deployment: s.cfg.NewID(), LastModified: s.cfg.Now(),
		},
		Tags: tags,
	}
	beginCreate(&f.Latest)
	return f
}

// commitCreate writes a new function, with its first version if publish says so and with what else is to be written, and returns what the
// caller is told of.
func (s *Service) commitCreate(ctx context.Context, f *kiln.Function, publish *bool, writes []write) (*kiln.Version, error) {
	created := &f.Latest
	if isTrue(publish) {
		v := s.nextVersion(f, nil)
		beginCreate(&v)
		created = &v
		writes = append(writes, versionWrite(v, f.ID, f.LastPublished))
	}
	_, err := s.commit(ctx, append(writes, functionWrite(f, 0))...)
	if errors.Is(err, catalog.ErrConflict) {
		r := ref.Ref{Account: f.Latest.Account, Name: f.Latest.Function}
		if err := s.checkAbsent(ctx, r); err != nil {
			return nil, err
		}
		return nil, tooManyWriters() // of what else was to be written
	}
	return created, err
}

func isTrue(b *bool) bool { return b != nil && *b }
