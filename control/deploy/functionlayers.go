package deploy

import (
	"context"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
)

// withLayers calls use with the layers that arns name, in their order, for a function of account a. Meanwhile nobody deletes their
// content. It fails with AWS's errors for a layer version that is not there or that the account may not use, and for a list that
// no function can have.
func (s *Service) withLayers(ctx context.Context, a kiln.AccountID, arns []string, use func([]kiln.Layer) error) error {
	layers, err := s.resolveLayers(ctx, a, arns)
	if err != nil {
		return err
	}
	var held []object
	for i := range layers {
		held = append(held, contentOf(&layers[i]))
	}
	if err := s.hold(ctx, held); err != nil {
		return err
	}
	defer s.release(held)
	// What was deleted before it was held may have lost its content. A layer version that is still there is what it was.
	if _, err := s.resolveLayers(ctx, a, arns); err != nil {
		return err
	}
	return use(layers)
}

func (s *Service) resolveLayers(ctx context.Context, a kiln.AccountID, arns []string) ([]kiln.Layer, error) {
	if len(arns) > kiln.MaxLayers {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "Cannot reference more than %d layers.", kiln.MaxLayers)
	}
	var layers []kiln.Layer
	var unzipped int64
	for i, arn := range arns {
		l, err := s.usableLayer(ctx, a, arn)
		if err != nil {
			return nil, err
		}
		for j, other := range layers {
			if l.Account == other.Account && l.Name == other.Name {
				return nil, kiln.Errorf(kiln.InvalidParameterValue, "Two different versions of the same layer are not allowed to be referenced "+
					"in the same function. %s and %s are versions of the same layer.", arns[j], arns[i])
			}
		}
		layers = append(layers, l)
		unzipped += l.Code.Unzipped
	}
	if unzipped > kiln.MaxUnzipped {
		return nil, kiln.Errorf(kiln.InvalidParameterValue, "Layers consume more than the available size of %d bytes", kiln.MaxUnzipped)
	}
	return layers, nil
}

// usableLayer returns the layer version that arn names if account a may use it.
func (s *Service) usableLayer(ctx context.Context, a kiln.AccountID, arn string) (kiln.Layer, error) {
	r := ref.ResolveLayerVersion(arn)
	denied := ref.Reader{Region: s.cfg.Region, Account: a, Operation: api.GetLayerVersion.Name}.Denied(arn)
	switch {
	case r.Region != s.cfg.Region && r.Account == a:
		return kiln.Layer{}, kiln.Errorf(kiln.InvalidParameterValue,
			"Layers are not in the same region as the function. Layers are expected to be in region %s.", s.cfg.Region)
	case r.Region != s.cfg.Region:
		return kiln.Layer{}, denied
	}
	v, _, err := s.findLayerVersion(ctx, r)
	switch {
	case err != nil:
		return kiln.Layer{}, err
	case v == nil && r.Account == a:
		return kiln.Layer{}, kiln.Errorf(kiln.InvalidParameterValue, "Layer version %s does not exist.", arn)
	case v == nil || !v.UsableBy(a):
		return kiln.Layer{}, denied
	}
	return v.Layer, nil
}

// checkUnzipped returns AWS's error if code and layers are too large together.
func checkUnzipped(c kiln.Config) error {
	size := c.Code.Unzipped
	for _, l := range c.Layers {
		size += l.Code.Unzipped
	}
	if size <= kiln.MaxUnzipped {
		return nil
	}
	return kiln.Errorf(kiln.InvalidParameterValue,
		"Function code combined with layers exceeds the maximum allowed size of %d bytes. The actual size is %d bytes.", kiln.MaxUnzipped, size)
}
