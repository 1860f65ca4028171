package deploy

import (
	"context"
	"strings"
	"unicode/utf8"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// Bounds of tags (https://docs.aws.amazon.com/lambda/latest/dg/configuration-tags.html).
const (
	maxTags      = 50
	maxTagKey    = 128
	maxTagValue  = 256
	maxTagTarget = 256
)

var taggablePattern = constraint.MustPattern(`arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:` +
	`(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|` +
	`event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)`)

func (s *Service) tagResource(ctx context.Context, c api.Caller, in *api.TagResourceRequest) (*api.Unit, error) {
	r, err := s.readTaggable(ctx, c, api.TagResource, in.Resource, missing("tags", in.Tags == nil))
	if err != nil {
		return nil, err
	}
	if len(in.Tags) == 0 {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "An error occurred and the request cannot be processed.")
	}
	return &api.Unit{}, s.changeTags(ctx, r, func(tags map[string]string) {
		for k, v := range in.Tags {
			tags[k] = v
		}
	})
}

func (s *Service) untagResource(ctx context.Context, c api.Caller, in *api.UntagResourceRequest) (*api.Unit, error) {
	r, err := s.readTaggable(ctx, c, api.UntagResource, in.Resource, missing("tagKeys", len(in.TagKeys) == 0))
	if err != nil {
		return nil, err
	}
	return &api.Unit{}, s.changeTags(ctx, r, func(tags map[string]string) {
		for _, k := range in.TagKeys {
			delete(tags, k)
		}
	})
}

// changeTags changes a function's tags by edit. A function gets a new revision by it.
func (s *Service) changeTags(ctx context.Context, r ref.Ref, edit func(tags map[string]string)) error {
	return s.change(ctx, r, func(f *kiln.Function) ([]write, error) {
		if f.Tags == nil {
			f.Tags = make(map[string]string)
		}
		edit(f.Tags)
		f.Latest.RevisionID = s.cfg.NewID()
		return nil, checkTags(f.Tags)
	})
}

func (s *Service) listTags(ctx context.Context, c api.Caller, in *api.ListTagsRequest) (*api.ListTagsResponse, error) {
	r, err := s.readTaggable(ctx, c, api.ListTags, in.Resource, func(*constraint.Violations) {})
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &api.ListTagsResponse{Tags: f.Tags}
	if out.Tags == nil {
		out.Tags = make(map[string]string)
	}
	return out, nil
}

// missing returns a check that fails if a required member is absent.
func missing(member string, absent bool) func(*constraint.Violations) {
	return func(v *constraint.Violations) {
		if absent {
			v.Missing(member)
		}
	}
}

// readTaggable reads the ARN of a function. It fails with AWS's errors for what is no ARN, what has a qualifier, and what kiln has
// none of.
func (s *Service) readTaggable(ctx context.Context, c api.Caller, op *api.Operation, resource *string, check func(*constraint.Violations)) (ref.Ref, error) {
	var v constraint.Violations
	if resource == nil {
		v.Missing("resource")
	} else {
		v.Length("resource", *resource, 1, maxTagTarget)
		v.Pattern("resource", *resource, taggablePattern)
	}
	check(&v)
	if err := validation(&v); err != nil {
		return ref.Ref{}, err
	}
	if err := s.otherThanFunction(ctx, c, *resource); err != nil {
		return ref.Ref{}, err
	}
	r, err := s.reader(ctx, c, op, ref.Plain).Resolve(*resource, nil)
	if err == nil && r.Qualifier != "" {
		err = kiln.Errorf(kiln.InvalidParameterValue, "Tags on function aliases and versions are not supported. Please specify a function ARN.")
	}
	return r, err
}

// otherThanFunction returns that a resource does not exist which is not a function, or that kiln has no tags of it.
func (s *Service) otherThanFunction(ctx context.Context, c api.Caller, arn string) error {
	const arnParts = 7 // the sixth is the resource's type, the seventh its name
	kind := strings.SplitN(arn, ":", arnParts)[arnParts-2]
	what := map[string]string{
		"layer":                "Layer",
		"code-signing-config":  "Code signing config",
		"event-source-mapping": "Event source mapping",
		"capacity-provider":    "Capacity provider",
	}[kind]
	if what == "" {
		return nil
	}
	id := arn[strings.LastIndexByte(arn, ':')+1:]
	if arn == s.codeSigningARN(c.Account, id) {
		_, at, err := s.findCodeSigning(ctx, c.Account, id)
		if err != nil {
			return err
		}
		if at != 0 {
			return unsupported("tags of code signing configurations")
		}
	}
	return kiln.Errorf(kiln.ResourceNotFound, "%s not found: %s", what, arn)
}

// checkTags returns AWS's error about tags that a function cannot have.
func checkTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return kiln.Errorf(kiln.InvalidParameterValue, "Number of tags exceeds resource tag limit.")
	}
	for k, v := range tags {
		switch n := utf8.RuneCountInString(k); {
		case n < 1 || n > maxTagKey:
			return kiln.Errorf(kiln.InvalidParameterValue, "A tag's key must have 1 to %d characters.", maxTagKey)
		case utf8.RuneCountInString(v) > maxTagValue:
			return kiln.Errorf(kiln.InvalidParameterValue, "A tag's value must have at most %d characters.", maxTagValue)
		case strings.HasPrefix(strings.ToLower(k), "aws:"):
			return kiln.Errorf(kiln.InvalidParameterValue, "Tag keys that begin with aws: are reserved.")
		}
	}
	return nil
}
