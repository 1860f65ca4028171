package deploy

import (
	"context"
	"strconv"

	"kiln"
	"kiln/api"
	"kiln/internal/constraint"
)

func (s *Service) publishVersion(ctx context.Context, c api.Caller, in *api.PublishVersionRequest) (*api.FunctionConfiguration, error) {
	r, err := s.readUpdate(ctx, c, api.PublishVersion, in.FunctionName, func(v *constraint.Violations) {
		settings{description: in.Description}.check(v)
	})
	if err != nil {
		return nil, err
	}
	var made kiln.Version
	err = s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
		if err := guard(f, in.RevisionId); err != nil {
			return nil, err
		}
		if err := guardCode(f, in.CodeSha256); err != nil {
			return nil, err
		}
		if err := busy(&f.Latest, r, s.cfg.Region); err != nil {
			return nil, err
		}
		var writes []write
		var err error
		// $LATEST is ready, and so is a copy of it.
		made, writes, err = s.publish(ctx, f, in.Description, func(*kiln.Version) {})
		return writes, err
	})
	if err != nil {
		return nil, err
	}
	return s.configuration(&made, s.arn(&made, true)), nil
}

// guardCode returns AWS's error if the caller expects other code than f has.
func guardCode(f *kiln.Function, sha256 *string) error {
	current := f.Latest.Code.Digest.Base64()
	if sha256 == nil || *sha256 == "" || *sha256 == current {
		return nil
	}
	return kiln.Errorf(kiln.InvalidParameterValue, "CodeSHA256 (%s) is different from current CodeSHA256 in $LATEST (%s). "+
		"Please try again with the CodeSHA256 in $LATEST.", *sha256, current)
}

// publish returns the version that f's $LATEST is published as, and what to write for it: the last one and nothing if nothing has
// changed since, or a new one, prepared by begin.
func (s *Service) publish(ctx context.Context, f *kiln.Function, description *string, begin func(*kiln.Version)) (kiln.Version, []write, error) {
	if f.Published == fingerprint(f.Latest.Config) {
		last, _, err := s.published(ctx, f, f.LastPublished)
		if err != nil {
			return kiln.Version{}, nil, err
		}
		if last != nil {
			return *last, nil, nil
		}
	}
	v := s.nextVersion(f, description)
	begin(&v)
	return v, []write{versionWrite(v, f.ID, f.LastPublished)}, nil
}

// nextVersion gives out the next number of f and returns its $LATEST under that. $LATEST gets a new revision by it.
func (s *Service) nextVersion(f *kiln.Function, description *string) kiln.Version {
	f.LastPublished++
	f.Published = fingerprint(f.Latest.Config)
	f.Latest.RevisionID = s.cfg.NewID()
	v := f.Latest
	v.Qualifier = kiln.Qualifier(strconv.Itoa(f.LastPublished))
	v.RevisionID, v.Deployment, v.LastModified = s.cfg.NewID(), s.cfg.NewID(), s.cfg.Now()
	set(&v.Description, description)
	return v
}
