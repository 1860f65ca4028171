package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// Bounds of AWS's model.
const (
	maxLicense       = 512
	maxRuntimes      = 15
	maxArchitectures = 2
)

// layerContent is what errors call the content of a layer.
const layerContent = "layer content"

func (s *Service) layerHandlers() []api.Handler {
	return []api.Handler{
		api.Handle(api.PublishLayerVersion, s.publishLayerVersion,
			members("LayerName", "Description", "Content.ZipFile", "CompatibleRuntimes", "CompatibleArchitectures", "LicenseInfo")...),
		api.Handle(api.GetLayerVersion, s.getLayerVersion, members("LayerName", "VersionNumber")...),
		api.Handle(api.GetLayerVersionByArn, s.getLayerVersionByARN, members("Arn")...),
		api.Handle(api.ListLayers, s.listLayers, members("CompatibleRuntime", "CompatibleArchitecture", "Marker", "MaxItems")...),
		api.Handle(api.ListLayerVersions, s.listLayerVersions,
			members("LayerName", "CompatibleRuntime", "CompatibleArchitecture", "Marker", "MaxItems")...),
		api.Handle(api.DeleteLayerVersion, s.deleteLayerVersion, members("LayerName", "VersionNumber")...),
		api.Handle(api.AddLayerVersionPermission, s.addLayerVersionPermission,
			append(members("LayerName", "VersionNumber", "StatementId", "Action", "Principal", "RevisionId"),
				api.Enforced{Path: "OrganizationId", Note: "no account is in an organization, so that such a statement allows nobody"})...),
		api.Handle(api.RemoveLayerVersionPermission, s.removeLayerVersionPermission, members("LayerName", "VersionNumber", "StatementId", "RevisionId")...),
		api.Handle(api.GetLayerVersionPolicy, s.getLayerVersionPolicy, members("LayerName", "VersionNumber")...),
	}
}

func (s *Service) publishLayerVersion(ctx context.Context, c api.Caller, in *api.PublishLayerVersionRequest) (*api.PublishLayerVersionResponse, error) {
	r, err := s.readPublishLayer(c, in)
	if err != nil {
		return nil, err
	}
	z, err := readArchive(in.Content.ZipFile, layerContent)
	if err != nil {
		return nil, err
	}
	v := &kiln.LayerVersion{
		Layer:       kiln.Layer{Account: r.Account, Name: r.Name, Code: z.code},
		LicenseInfo: in.LicenseInfo, CompatibleRuntimes: in.CompatibleRuntimes, CompatibleArchitectures: in.CompatibleArchitectures,
		Created: s.cfg.Now(),
	}
	set(&v.Description, in.Description)
	if err := s.withCode(ctx, r.Account, z, func() error { return s.commitLayerVersion(ctx, v) }); err != nil {
		return nil, err
	}
	return new(api.PublishLayerVersionResponse(*s.showLayerVersion(v))), nil
}

// readPublishLayer checks a request by AWS's model and reads the reference in it.
func (s *Service) readPublishLayer(c api.Caller, in *api.PublishLayerVersionRequest) (ref.Layer, error) {
	var v constraint.Violations
	ref.CheckLayer(&v, in.LayerName)
	if in.Content == nil {
		v.Missing("content")
	}
	if in.Description != nil {
		v.Length("description", *in.Description, 0, maxDescription)
	}
	if in.LicenseInfo != nil {
		v.Length("licenseInfo", *in.LicenseInfo, 0, maxLicense)
	}
	v.Items("compatibleRuntimes", in.CompatibleRuntimes, 0, maxRuntimes)
	if slices.ContainsFunc(in.CompatibleRuntimes, func(r string) bool { return !isRuntime(r) }) {
		v.AddList("compatibleRuntimes", in.CompatibleRuntimes, constraint.EnumRule(strings.Split(listedRuntimes, ", ")...))
	}
	v.Items("compatibleArchitectures", in.CompatibleArchitectures, 0, maxArchitectures)
	checkArchitectureNames(&v, "compatibleArchitectures", in.CompatibleArchitectures, "")
	if err := validation(&v); err != nil {
		return ref.Layer{}, err
	}
	return s.resolveOwnLayer(c, api.PublishLayerVersion, *in.LayerName)
}

// commitLayerVersion gives v the next number of its layer and writes it.
func (s *Service) commitLayerVersion(ctx context.Context, v *kiln.LayerVersion) error {
	key := catalog.LayerKey(v.Account, v.Name)
	for range maxAttempts {
		record, err := s.cfg.Store.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("read layer %s: %w", v.Name, err)
		}
		var numbers kiln.LayerNumbers
		if record.Revision != 0 {
			if err := json.Unmarshal(record.Value, &numbers); err != nil {
				return fmt.Errorf("read layer %s: %w", v.Name, err)
			}
		}
		numbers.LastPublished++
		v.Version = numbers.LastPublished
		_, err = s.commit(ctx, write{key: key, at: record.Revision, value: numbers, refers: entry{account: v.Account}}, layerVersionWrite(v, 0))
		if !errors.Is(err, catalog.ErrConflict) {
			return err
		}
	}
	return tooManyWriters()
}

func layerVersionWrite(v *kiln.LayerVersion, at catalog.Revision) write {
	return write{key: catalog.LayerVersionKey(v.Account, v.Name, v.Version), at: at, value: v, refers: layerEntryOf(&v.Layer)}
}

// tooManyWriters is the error after maxAttempts at changing a layer.
func tooManyWriters() error { return kiln.Errorf(kiln.TooManyRequests, "Rate exceeded") }

func (s *Service) getLayerVersion(ctx context.Context, c api.Caller, in *api.GetLayerVersionRequest) (*api.GetLayerVersionResponse, error) {
	r, err := s.readLayerVersion(c, in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	return s.getLayerVersionOf(ctx, c, r)
}

func (s *Service) getLayerVersionByARN(ctx context.Context, c api.Caller, in *api.GetLayerVersionByArnRequest) (*api.GetLayerVersionResponse, error) {
	var v constraint.Violations
	ref.CheckLayerVersion(&v, in.Arn)
	if err := validation(&v); err != nil {
		return nil, err
	}
	return s.getLayerVersionOf(ctx, c, ref.ResolveLayerVersion(*in.Arn))
}

// getLayerVersionOf shows a layer version to its owner and to whom its policy lets use it. Others do not learn whether it exists.
func (s *Service) getLayerVersionOf(ctx context.Context, c api.Caller, r ref.Layer) (*api.GetLayerVersionResponse, error) {
	v, _, err := s.findLayerVersion(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case r.Account != c.Account && (v == nil || !v.UsableBy(c.Account)):
		return nil, s.layerDenied(c, api.GetLayerVersion, r.VersionARN())
	case v == nil:
		return nil, kiln.Errorf(kiln.ResourceNotFound, "The resource you requested does not exist.")
	}
	return s.showLayerVersion(v), nil
}

// deleteLayerVersion deletes a layer version. One that is not there is deleted, as on AWS.
func (s *Service) deleteLayerVersion(ctx context.Context, c api.Caller, in *api.DeleteLayerVersionRequest) (*api.Unit, error) {
	r, err := s.readOwnLayerVersion(c, api.DeleteLayerVersion, in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		v, at, err := s.findLayerVersion(ctx, r)
		if err != nil {
			return nil, err
		}
		if v == nil {
			return &api.Unit{}, nil
		}
		_, err = s.commit(ctx, write{key: catalog.LayerVersionKey(v.Account, v.Name, v.Version), at: at})
		if !errors.Is(err, catalog.ErrConflict) {
			return &api.Unit{}, err
		}
	}
	return nil, tooManyWriters()
}

// readLayerVersion reads a reference to a layer version of any account.
func (s *Service) readLayerVersion(c api.Caller, name *string, version *int64) (ref.Layer, error) {
	var v constraint.Violations
	ref.CheckLayer(&v, name)
	if version == nil {
		v.Missing("versionNumber")
	}
	if err := validation(&v); err != nil {
		return ref.Layer{}, err
	}
	if *version < 1 {
		return ref.Layer{}, kiln.Errorf(kiln.InvalidParameterValue, "Layer Version Cannot be less than 1")
	}
	r := ref.ResolveLayer(s.cfg.Region, c.Account, *name)
	r.Version = int(*version)
	return r, nil
}

// readOwnLayerVersion reads a reference to a layer version of the caller's.
func (s *Service) readOwnLayerVersion(c api.Caller, op *api.Operation, name *string, version *int64) (ref.Layer, error) {
	r, err := s.readLayerVersion(c, name, version)
	if err != nil {
		return ref.Layer{}, err
	}
	return r, s.checkOwnLayer(c, op, r, r.VersionARN())
}

// resolveOwnLayer reads a reference to a layer of the caller's that has passed ref.CheckLayer.
func (s *Service) resolveOwnLayer(c api.Caller, op *api.Operation, name string) (ref.Layer, error) {
	r := ref.ResolveLayer(s.cfg.Region, c.Account, name)
	return r, s.checkOwnLayer(c, op, r, r.ARN())
}

// checkOwnLayer returns the error about a layer of another account or region, whose ARN is given.
func (s *Service) checkOwnLayer(c api.Caller, op *api.Operation, r ref.Layer, arn string) error {
	switch {
	case r.Account != c.Account:
		return s.layerDenied(c, op, arn)
	case r.Region != s.cfg.Region:
		return kiln.Errorf(kiln.ResourceNotFound, "Layers from '%s' are not reachable in this region ('%s')", r.Region, s.cfg.Region)
	}
	return nil
}

func (s *Service) layerDenied(c api.Caller, op *api.Operation, arn string) error {
	return ref.Reader{Region: s.cfg.Region, Account: c.Account, Operation: op.Name}.Denied(arn)
}

// findLayerVersion reads the layer version that r names, nil if there is none.
func (s *Service) findLayerVersion(ctx context.Context, r ref.Layer) (*kiln.LayerVersion, catalog.Revision, error) {
	if r.Region != s.cfg.Region || r.Version < 1 || r.Version > catalog.MaxLayerVersion {
		return nil, 0, nil
	}
	record, err := s.cfg.Store.Get(ctx, catalog.LayerVersionKey(r.Account, r.Name, r.Version))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", r.VersionARN(), err)
	}
	if record.Revision == 0 {
		return nil, 0, nil
	}
	var v kiln.LayerVersion
	if err := json.Unmarshal(record.Value, &v); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", r.VersionARN(), err)
	}
	return &v, record.Revision, nil
}

func (s *Service) layerRef(l *kiln.Layer) ref.Layer {
	return ref.Layer{Region: s.cfg.Region, Account: l.Account, Name: l.Name, Version: l.Version}
}

func (s *Service) showLayerVersion(v *kiln.LayerVersion) *api.GetLayerVersionResponse {
	r := s.layerRef(&v.Layer)
	return &api.GetLayerVersionResponse{
		Content: &api.LayerVersionContentOutput{
			Location: new(s.cfg.CodeURL(v.Account, v.Code.Digest)), CodeSha256: new(v.Code.Digest.Base64()), CodeSize: &v.Code.Size,
		},
		LayerArn: new(r.ARN()), LayerVersionArn: new(r.VersionARN()), Version: new(int64(v.Version)), Description: &v.Description,
		CreatedDate:        new(v.Created.UTC().Format(lastModifiedLayout)),
		CompatibleRuntimes: v.CompatibleRuntimes, CompatibleArchitectures: v.CompatibleArchitectures, LicenseInfo: v.LicenseInfo,
	}
}
