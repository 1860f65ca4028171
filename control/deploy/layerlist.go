package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

const (
	// maxLayerPage is how many items a page of layers or layer versions may be asked to have.
	maxLayerPage = 50
	// maxScan bounds the layer versions that are read for one page: those that a filter leaves out cost as much as the others. A
	// page that ends there has a marker even if nothing follows.
	maxScan = 2000
	// scanBatch is how many are read at a time. The newest version of a layer is what is mostly wanted.
	scanBatch = 8
)

func (s *Service) listLayers(ctx context.Context, c api.Caller, in *api.ListLayersRequest) (*api.ListLayersResponse, error) {
	var v constraint.Violations
	scan, err := s.readLayerPage(&v, layerPage{in.CompatibleRuntime, in.CompatibleArchitecture, in.Marker, in.MaxItems})
	if err != nil {
		return nil, err
	}
	scan.prefix, scan.firstOnly = catalog.LayerVersionsPrefix(c.Account), true
	if err := scan.run(ctx, c.Account); err != nil {
		return nil, err
	}
	out := &api.ListLayersResponse{Layers: []api.LayersListItem{}, NextMarker: scan.next}
	for _, found := range scan.found {
		out.Layers = append(out.Layers, api.LayersListItem{
			LayerName: new(string(found.Name)), LayerArn: new(s.layerRef(&found.Layer).ARN()), LatestMatchingVersion: new(s.listedLayerVersion(found)),
		})
	}
	return out, nil
}

// listLayerVersions lists the versions of a layer, the newest first. A layer that was never published has none.
func (s *Service) listLayerVersions(ctx context.Context, c api.Caller, in *api.ListLayerVersionsRequest) (*api.ListLayerVersionsResponse, error) {
	var v constraint.Violations
	ref.CheckLayer(&v, in.LayerName)
	scan, err := s.readLayerPage(&v, layerPage{in.CompatibleRuntime, in.CompatibleArchitecture, in.Marker, in.MaxItems})
	if err != nil {
		return nil, err
	}
	r, err := s.resolveOwnLayer(c, api.ListLayerVersions, *in.LayerName)
	if err != nil {
		return nil, err
	}
	if scan.last.Layer != "" && scan.last.Layer != r.Name {
		return nil, invalidMarker(*in.Marker)
	}
	scan.prefix = catalog.LayerVersionPrefix(r.Account, r.Name)
	if err := scan.run(ctx, r.Account); err != nil {
		return nil, err
	}
	out := &api.ListLayerVersionsResponse{LayerVersions: []api.LayerVersionsListItem{}, NextMarker: scan.next}
	for _, found := range scan.found {
		out.LayerVersions = append(out.LayerVersions, s.listedLayerVersion(found))
	}
	return out, nil
}

// layerPage are the members that both lists have.
type layerPage struct {
	runtime, architecture, marker *string
	maxItems                      *int32
}

// readLayerPage checks what v has found so far, and reads the members that both lists have.
func (s *Service) readLayerPage(v *constraint.Violations, p layerPage) (*layerScan, error) {
	if p.runtime != nil && !isRuntime(*p.runtime) {
		v.Add("compatibleRuntime", *p.runtime, constraint.EnumRule(strings.Split(layerRuntimes, ", ")...))
	}
	if p.architecture != nil {
		v.Enum("compatibleArchitecture", *p.architecture, architectures()...)
	}
	scan := &layerScan{store: s.cfg.Store, runtime: p.runtime, architecture: p.architecture, size: maxLayerPage}
	if p.maxItems != nil {
		v.Range("maxItems", int(*p.maxItems), 1, maxLayerPage)
		scan.size = int(*p.maxItems)
	}
	if err := validation(v); err != nil {
		return nil, err
	}
	if err := decodeMarker(p.marker, &scan.last); err != nil {
		return nil, err
	}
	if m := scan.last; strings.Contains(string(m.Layer), "/") || m.Version < 0 || m.Version > catalog.MaxLayerVersion {
		return nil, invalidMarker(*p.marker)
	}
	return scan, nil
}

// layerMarker is the last layer version that the page before has looked at, or with a Version of 0 the whole layer. The zero
// marker is the beginning. Callers see it as a word without meaning.
type layerMarker struct {
	Layer   kiln.LayerName `json:"l"`
	Version int            `json:"v,omitempty"`
}

// key is where the store's list goes on, given the prefix of the list.
func (m layerMarker) key(a kiln.AccountID, prefix catalog.Key) catalog.Key {
	switch {
	case m.Layer == "":
		return prefix
	case m.Version == 0:
		return catalog.LayerVersionPrefix(a, m.Layer) + "~" // behind all digits
	}
	return catalog.LayerVersionKey(a, m.Layer, m.Version)
}

// layerScan collects one page of layer versions.
type layerScan struct {
	store  catalog.Store
	prefix catalog.Key
	// firstOnly says that one version of each layer is wanted.
	firstOnly bool
	// runtime and architecture are what the versions must be compatible with, nil if that does not matter.
	runtime, architecture *string
	size                  int

	// last is where the scan has come to.
	last  layerMarker
	read  int
	found []*kiln.LayerVersion
	// next is the marker of the next page, nil if there is none or nobody knows yet.
	next *string
}

func (l *layerScan) run(ctx context.Context, a kiln.AccountID) error {
	for l.next == nil {
		records, err := l.store.List(ctx, l.prefix, l.last.key(a, l.prefix), scanBatch)
		if err != nil {
			return fmt.Errorf("list layers: %w", err)
		}
		if len(records) == 0 {
			return nil
		}
		if err := l.look(records); err != nil {
			return err
		}
	}
	return nil
}

// look adds those of records that match, up to the first of a layer if that is all that is wanted of it.
func (l *layerScan) look(records []catalog.Record) error {
	for _, r := range records {
		var v kiln.LayerVersion
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		matches := l.matches(&v)
		if l.read++; l.read > maxScan || matches && len(l.found) == l.size {
			l.next = new(encodeMarker(l.last))
			return nil
		}
		l.last = layerMarker{Layer: v.Name, Version: v.Version}
		if !matches {
			continue
		}
		l.found = append(l.found, &v)
		if l.firstOnly {
			l.last.Version = 0
			return nil
		}
	}
	return nil
}

func (l *layerScan) matches(v *kiln.LayerVersion) bool {
	return (l.runtime == nil || slices.Contains(v.CompatibleRuntimes, *l.runtime)) &&
		(l.architecture == nil || slices.Contains(v.CompatibleArchitectures, *l.architecture))
}

func (s *Service) listedLayerVersion(v *kiln.LayerVersion) api.LayerVersionsListItem {
	shown := s.showLayerVersion(v)
	return api.LayerVersionsListItem{
		LayerVersionArn: shown.LayerVersionArn, Version: shown.Version, Description: shown.Description, CreatedDate: shown.CreatedDate,
		CompatibleArchitectures: shown.CompatibleArchitectures, CompatibleRuntimes: shown.CompatibleRuntimes, LicenseInfo: shown.LicenseInfo,
	}
}
