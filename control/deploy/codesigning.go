package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// Bounds of AWS's model (https://docs.aws.amazon.com/lambda/latest/api/API_CreateCodeSigningConfig.html).
const (
	maxCodeSigningARN = 200
	maxPublishers     = 20
	// maxPublisher is kiln's own: AWS's model has none.
	maxPublisher = 2048
)

var (
	codeSigningPattern = constraint.MustPattern(`arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:code-signing-config:csc-[a-z0-9]{17}`)
	publisherPattern   = constraint.MustPattern(`arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)`)
)

// The values of the API's enum CodeSigningPolicy.
const (
	signingEnforced = "Enforce"
	signingWarned   = "Warn"
)

func (s *Service) codeSigningHandlers() []api.Handler {
	const policy = "CodeSigningPolicies.UntrustedArtifactOnDeployment"
	const publishers = "AllowedPublishers.SigningProfileVersionArns"
	enforced := api.Enforced{Path: policy, Note: "Enforce refuses every package"}
	return []api.Handler{
		api.Handle(api.CreateCodeSigningConfig, s.createCodeSigningConfig, append(members("Description", publishers), enforced)...),
		api.Handle(api.UpdateCodeSigningConfig, s.updateCodeSigningConfig, append(members("CodeSigningConfigArn", "Description", publishers), enforced)...),
		api.Handle(api.GetCodeSigningConfig, s.getCodeSigningConfig, members("CodeSigningConfigArn")...),
		api.Handle(api.DeleteCodeSigningConfig, s.deleteCodeSigningConfig, members("CodeSigningConfigArn")...),
		api.Handle(api.ListCodeSigningConfigs, s.listCodeSigningConfigs, members("Marker", "MaxItems")...),
		api.Handle(api.ListFunctionsByCodeSigningConfig, s.listFunctionsByCodeSigningConfig, members("CodeSigningConfigArn", "Marker", "MaxItems")...),
		api.Handle(api.PutFunctionCodeSigningConfig, s.putFunctionCodeSigningConfig, members("FunctionName", "CodeSigningConfigArn")...),
		api.Handle(api.GetFunctionCodeSigningConfig, s.getFunctionCodeSigningConfig, members("FunctionName")...),
		api.Handle(api.DeleteFunctionCodeSigningConfig, s.deleteFunctionCodeSigningConfig, members("FunctionName")...),
	}
}

func (s *Service) createCodeSigningConfig(ctx context.Context, c api.Caller, in *api.CreateCodeSigningConfigRequest) (*api.CreateCodeSigningConfigResponse, error) {
	var v constraint.Violations
	if in.AllowedPublishers == nil {
		v.Missing("allowedPublishers")
	}
	checkCodeSigning(&v, in.Description, in.AllowedPublishers, in.CodeSigningPolicies)
	if err := validation(&v); err != nil {
		return nil, err
	}
	const idLength = 17
	config := kiln.CodeSigningConfig{ID: "csc-" + strings.ReplaceAll(s.cfg.NewID(), "-", "")[:idLength]}
	s.setCodeSigning(&config, in.Description, in.AllowedPublishers, in.CodeSigningPolicies)
	if _, err := s.commit(ctx, codeSigningWrite(c.Account, config, 0)); err != nil {
		return nil, err
	}
	return &api.CreateCodeSigningConfigResponse{CodeSigningConfig: s.shownCodeSigning(c.Account, config)}, nil
}

func (s *Service) updateCodeSigningConfig(ctx context.Context, c api.Caller, in *api.UpdateCodeSigningConfigRequest) (*api.UpdateCodeSigningConfigResponse, error) {
	id, err := s.readCodeSigning(c, api.UpdateCodeSigningConfig, in.CodeSigningConfigArn, func(v *constraint.Violations) {
		checkCodeSigning(v, in.Description, in.AllowedPublishers, in.CodeSigningPolicies)
	})
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		config, at, err := s.existingCodeSigning(ctx, c.Account, id)
		if err != nil {
			return nil, err
		}
		s.setCodeSigning(&config, in.Description, in.AllowedPublishers, in.CodeSigningPolicies)
		_, err = s.commit(ctx, codeSigningWrite(c.Account, config, at))
		if errors.Is(err, catalog.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &api.UpdateCodeSigningConfigResponse{CodeSigningConfig: s.shownCodeSigning(c.Account, config)}, nil
	}
	return nil, tooManyWriters()
}

func (s *Service) getCodeSigningConfig(ctx context.Context, c api.Caller, in *api.GetCodeSigningConfigRequest) (*api.GetCodeSigningConfigResponse, error) {
	id, err := s.readCodeSigning(c, api.GetCodeSigningConfig, in.CodeSigningConfigArn, nil)
	if err != nil {
		return nil, err
	}
	config, _, err := s.existingCodeSigning(ctx, c.Account, id)
	if err != nil {
		return nil, err
	}
	return &api.GetCodeSigningConfigResponse{CodeSigningConfig: s.shownCodeSigning(c.Account, config)}, nil
}

// deleteCodeSigningConfig deletes a configuration that no function has. Whoever gives it to a function writes it too, so that none is given
// it meanwhile.
func (s *Service) deleteCodeSigningConfig(ctx context.Context, c api.Caller, in *api.DeleteCodeSigningConfigRequest) (*api.DeleteCodeSigningConfigResponse, error) {
	id, err := s.readCodeSigning(c, api.DeleteCodeSigningConfig, in.CodeSigningConfigArn, nil)
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		_, at, err := s.existingCodeSigning(ctx, c.Account, id)
		if err != nil {
			return nil, err
		}
		users, err := s.cfg.Store.List(ctx, catalog.CodeSignedKey(c.Account, id, ""), "", 1)
		if err != nil {
			return nil, fmt.Errorf("list the functions of %s: %w", id, err)
		}
		if len(users) > 0 {
			return nil, kiln.Errorf(kiln.ResourceConflict, "Cannot delete the code signing configuration %s, because functions have it.", *in.CodeSigningConfigArn)
		}
		_, err = s.commit(ctx, write{key: catalog.CodeSigningKey(c.Account, id), at: at})
		if !errors.Is(err, catalog.ErrConflict) {
			return &api.DeleteCodeSigningConfigResponse{}, err
		}
	}
	return nil, tooManyWriters()
}

func (s *Service) listCodeSigningConfigs(ctx context.Context, c api.Caller, in *api.ListCodeSigningConfigsRequest) (*api.ListCodeSigningConfigsResponse, error) {
	var v constraint.Violations
	records, next, err := s.pageBelow(ctx, &v, catalog.CodeSigningKey(c.Account, ""), in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &api.ListCodeSigningConfigsResponse{CodeSigningConfigs: []api.CodeSigningConfig{}, NextMarker: next}
	for _, r := range records {
		config, err := codeSigningOf(r)
		if err != nil {
			return nil, err
		}
		out.CodeSigningConfigs = append(out.CodeSigningConfigs, *s.shownCodeSigning(c.Account, config))
	}
	return out, nil
}

func (s *Service) listFunctionsByCodeSigningConfig(ctx context.Context, c api.Caller, in *api.ListFunctionsByCodeSigningConfigRequest) (*api.ListFunctionsByCodeSigningConfigResponse, error) {
	id, err := s.readCodeSigning(c, api.ListFunctionsByCodeSigningConfig, in.CodeSigningConfigArn, nil)
	if err != nil {
		return nil, err
	}
	var v constraint.Violations
	if _, _, err := s.existingCodeSigning(ctx, c.Account, id); err != nil {
		return nil, err
	}
	records, next, err := s.pageBelow(ctx, &v, catalog.CodeSignedKey(c.Account, id, ""), in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &api.ListFunctionsByCodeSigningConfigResponse{FunctionArns: []string{}, NextMarker: next}
	for _, r := range records {
		f := ref.Ref{Account: c.Account, Name: kiln.FunctionName(path.Base(string(r.Key)))}
		out.FunctionArns = append(out.FunctionArns, f.ARN(s.cfg.Region))
	}
	return out, nil
}

// keyMarker is the key, below that of what is listed, of the last record of the page before.
type keyMarker struct {
	After string `json:"k"`
}

// pageBelow reads the page of records below prefix that is asked for, and returns the marker of the next, nil if there is none.
func (s *Service) pageBelow(ctx context.Context, v *constraint.Violations, prefix catalog.Key, mark *string, maxItems *int32) ([]catalog.Record, *string, error) {
	at, err := readPage(v, nil, maxItems)
	if err != nil {
		return nil, nil, err
	}
	var m keyMarker
	if err := decodeMarker(mark, &m); err != nil {
		return nil, nil, err
	}
	records, err := s.cfg.Store.List(ctx, prefix, prefix+catalog.Key(m.After), at.size+1)
	if err != nil {
		return nil, nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	if len(records) <= at.size {
		return records, nil, nil
	}
	records = records[:at.size]
	last := strings.TrimPrefix(string(records[at.size-1].Key), string(prefix))
	return records, new(encodeMarker(keyMarker{last})), nil
}

func (s *Service) putFunctionCodeSigningConfig(ctx context.Context, c api.Caller, in *api.PutFunctionCodeSigningConfigRequest) (*api.PutFunctionCodeSigningConfigResponse, error) {
	r, err := s.readUpdate(ctx, c, api.PutFunctionCodeSigningConfig, in.FunctionName, func(v *constraint.Violations) { checkCodeSigningARN(v, in.CodeSigningConfigArn) })
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
		signed, err := s.signBy(ctx, f, c, api.PutFunctionCodeSigningConfig, in.CodeSigningConfigArn)
		if err != nil {
			return nil, err
		}
		return signed.writes, nil
	})
	if err != nil {
		return nil, err
	}
	return &api.PutFunctionCodeSigningConfigResponse{CodeSigningConfigArn: in.CodeSigningConfigArn, FunctionName: new(string(r.Name))}, nil
}

func (s *Service) getFunctionCodeSigningConfig(ctx context.Context, c api.Caller, in *api.GetFunctionCodeSigningConfigRequest) (*api.GetFunctionCodeSigningConfigResponse, error) {
	r, err := s.readUnqualified(ctx, c, api.GetFunctionCodeSigningConfig, ref.Namespaced, in.FunctionName)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &api.GetFunctionCodeSigningConfigResponse{FunctionName: new(string(r.Name))}
	if f.CodeSigning != "" {
		out.CodeSigningConfigArn = new(s.codeSigningARN(r.Account, f.CodeSigning))
	}
	return out, nil
}

func (s *Service) deleteFunctionCodeSigningConfig(ctx context.Context, c api.Caller, in *api.DeleteFunctionCodeSigningConfigRequest) (*api.Unit, error) {
	r, err := s.readUnqualified(ctx, c, api.DeleteFunctionCodeSigningConfig, ref.Namespaced, in.FunctionName)
	if err != nil {
		return nil, err
	}
	return &api.Unit{}, s.change(ctx, r, func(f *kiln.Function) ([]write, error) { return s.unsign(ctx, f) })
}

// signature is a code signing configuration that a function is given, with what to write beside the function.
type signature struct {
	config kiln.CodeSigningConfig
	writes []write
}

// signBy gives f the configuration with that ARN. It fails with AWS's error if there is none.
func (s *Service) signBy(ctx context.Context, f *kiln.Function, c api.Caller, op *api.Operation, arn *string) (signature, error) {
	id, err := s.readCodeSigning(c, op, arn, nil)
	if err != nil {
		return signature{}, err
	}
	a := f.Latest.Account
	config, at, err := s.findCodeSigning(ctx, a, id)
	if err != nil {
		return signature{}, err
	}
	if at == 0 {
		return signature{}, kiln.Errorf(kiln.CodeSigningConfigNotFound,
			"The code signing configuration cannot be found. Check that the provided configuration is not deleted: %s.", *arn)
	}
	if f.CodeSigning == id {
		return signature{config: config}, nil
	}
	writes, err := s.unsign(ctx, f)
	if err != nil {
		return signature{}, err
	}
	f.CodeSigning = id
	return signature{config, append(writes, codeSigningWrite(a, config, at),
		write{key: catalog.CodeSignedKey(a, id, f.Latest.Function), value: struct{}{}, refers: entry{account: a}})}, nil
}

// signNew gives f, which is new, the configuration with that ARN, if one is given, and returns what to write beside f. It fails with AWS's
// error if f must not have a package that nobody has signed.
func (s *Service) signNew(ctx context.Context, f *kiln.Function, c api.Caller, arn *string) ([]write, error) {
	if arn == nil {
		return nil, nil
	}
	signed, err := s.signBy(ctx, f, c, api.CreateFunction, arn)
	if err != nil {
		return nil, err
	}
	return signed.writes, verifyBy(signed.config)
}

// unsign takes from f its code signing configuration, if it has one, and returns what to write beside f.
func (s *Service) unsign(ctx context.Context, f *kiln.Function) ([]write, error) {
	if f.CodeSigning == "" {
		return nil, nil
	}
	k := catalog.CodeSignedKey(f.Latest.Account, f.CodeSigning, f.Latest.Function)
	f.CodeSigning = ""
	r, err := s.cfg.Store.Get(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k, err)
	}
	return []write{{key: k, at: r.Revision}}, nil
}

// verify returns AWS's error if f must not have a package that nobody has signed: of signatures kiln knows none.
func (s *Service) verify(ctx context.Context, f *kiln.Function) error {
	if f.CodeSigning == "" {
		return nil
	}
	config, _, err := s.findCodeSigning(ctx, f.Latest.Account, f.CodeSigning)
	if err != nil {
		return err
	}
	return verifyBy(config)
}

func verifyBy(config kiln.CodeSigningConfig) error {
	if !config.Enforced {
		return nil
	}
	return kiln.Errorf(kiln.CodeVerificationFailed, "The code signature failed one or more of the validation checks for signature mismatch or expiry, "+
		"and the code signing policy is set to ENFORCE. Lambda blocks the deployment.")
}

// checkCodeSigning adds to v what AWS's model finds wrong with the members of a configuration. Nil is right.
func checkCodeSigning(v *constraint.Violations, description *string, publishers *api.AllowedPublishers, policies *api.CodeSigningPolicies) {
	if description != nil {
		v.Length("description", *description, 0, maxDescription)
	}
	if publishers != nil {
		const member = "allowedPublishers.signingProfileVersionArns"
		all := publishers.SigningProfileVersionArns
		if all == nil {
			v.Missing(member)
		} else {
			v.Items(member, all, 1, maxPublishers)
		}
		for _, arn := range all {
			if len(arn) > maxPublisher || !publisherPattern.Matches(arn) {
				v.AddList(member, all, fmt.Sprintf("Member must satisfy constraint: [Member must have length less than or equal to %d, %s]", maxPublisher, publisherPattern.Rule()))
				break
			}
		}
	}
	if policies != nil && policies.UntrustedArtifactOnDeployment != nil {
		v.Enum("codeSigningPolicies.untrustedArtifactOnDeployment", *policies.UntrustedArtifactOnDeployment, api.Enum("CodeSigningPolicy")...)
	}
}

func checkCodeSigningARN(v *constraint.Violations, arn *string) {
	if arn == nil {
		v.Missing("codeSigningConfigArn")
		return
	}
	v.Length("codeSigningConfigArn", *arn, 0, maxCodeSigningARN)
	v.Pattern("codeSigningConfigArn", *arn, codeSigningPattern)
}

// readCodeSigning reads which configuration an operation is about, and lets check look at the other members.
func (s *Service) readCodeSigning(c api.Caller, op *api.Operation, arn *string, check func(*constraint.Violations)) (id string, err error) {
	var v constraint.Violations
	checkCodeSigningARN(&v, arn)
	if check != nil {
		check(&v)
	}
	if err := validation(&v); err != nil {
		return "", err
	}
	id = (*arn)[strings.LastIndexByte(*arn, ':')+1:]
	if !strings.HasSuffix(*arn, strings.TrimPrefix(s.codeSigningARN(c.Account, id), "arn:aws")) {
		return "", ref.Reader{Region: s.cfg.Region, Account: c.Account, Operation: op.Name}.Denied(*arn)
	}
	return id, nil
}

func (s *Service) setCodeSigning(config *kiln.CodeSigningConfig, description *string, publishers *api.AllowedPublishers, policies *api.CodeSigningPolicies) {
	set(&config.Description, description)
	if publishers != nil {
		config.Publishers = publishers.SigningProfileVersionArns
	}
	if policies != nil && policies.UntrustedArtifactOnDeployment != nil {
		config.Enforced = *policies.UntrustedArtifactOnDeployment == signingEnforced
	}
	config.LastModified = s.cfg.Now().UTC()
}

// findCodeSigning reads a configuration. One that is not there has the revision 0.
func (s *Service) findCodeSigning(ctx context.Context, a kiln.AccountID, id string) (kiln.CodeSigningConfig, catalog.Revision, error) {
	r, err := s.cfg.Store.Get(ctx, catalog.CodeSigningKey(a, id))
	if err != nil {
		return kiln.CodeSigningConfig{}, 0, fmt.Errorf("read code signing configuration %s: %w", id, err)
	}
	if r.Revision == 0 {
		return kiln.CodeSigningConfig{}, 0, nil
	}
	config, err := codeSigningOf(r)
	return config, r.Revision, err
}

// existingCodeSigning reads a configuration. It fails with AWS's error if there is none.
func (s *Service) existingCodeSigning(ctx context.Context, a kiln.AccountID, id string) (kiln.CodeSigningConfig, catalog.Revision, error) {
	config, at, err := s.findCodeSigning(ctx, a, id)
	if err == nil && at == 0 {
		err = kiln.Errorf(kiln.ResourceNotFound, "The Lambda code signing configuration %s can not be found.", s.codeSigningARN(a, id))
	}
	return config, at, err
}

func codeSigningOf(r catalog.Record) (kiln.CodeSigningConfig, error) {
	var config kiln.CodeSigningConfig
	if err := json.Unmarshal(r.Value, &config); err != nil {
		return config, fmt.Errorf("read %s: %w", r.Key, err)
	}
	return config, nil
}

func codeSigningWrite(a kiln.AccountID, config kiln.CodeSigningConfig, at catalog.Revision) write {
	return write{key: catalog.CodeSigningKey(a, config.ID), at: at, value: config, refers: entry{account: a}}
}

func (s *Service) codeSigningARN(a kiln.AccountID, id string) string {
	return "arn:aws:lambda:" + string(s.cfg.Region) + ":" + string(a) + ":code-signing-config:" + id
}

func (s *Service) shownCodeSigning(a kiln.AccountID, config kiln.CodeSigningConfig) *api.CodeSigningConfig {
	policy := signingWarned
	if config.Enforced {
		policy = signingEnforced
	}
	return &api.CodeSigningConfig{
		CodeSigningConfigId: &config.ID, CodeSigningConfigArn: new(s.codeSigningARN(a, config.ID)), Description: &config.Description,
		AllowedPublishers:   &api.AllowedPublishers{SigningProfileVersionArns: config.Publishers},
		CodeSigningPolicies: &api.CodeSigningPolicies{UntrustedArtifactOnDeployment: &policy},
		LastModified:        new(config.LastModified.Format(lastModifiedLayout)),
	}
}
