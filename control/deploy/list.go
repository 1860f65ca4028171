package deploy

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// maxPage is how many items a page has at most, whatever MaxItems says, as on AWS.
const maxPage = 50

var masterRegionPattern = constraint.MustPattern(`ALL|(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}`)

func (s *Service) listFunctions(ctx context.Context, c api.Caller, in *api.ListFunctionsRequest) (*api.ListFunctionsResponse, error) {
	var v constraint.Violations
	if in.FunctionVersion != nil {
		v.Enum("functionVersion", *in.FunctionVersion, "ALL")
	}
	if in.MasterRegion != nil {
		v.Pattern("masterRegion", *in.MasterRegion, masterRegionPattern)
	}
	at, err := readPage(&v, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &api.ListFunctionsResponse{Functions: []api.FunctionConfiguration{}}
	if given(in.MasterRegion, "ALL") && *in.MasterRegion != string(s.cfg.Region) {
		return out, nil // functions of other regions are not replicated here
	}
	l := lister{s: s, account: c.Account, page: at, versions: in.FunctionVersion != nil}
	if err := l.fill(ctx); err != nil {
		return nil, err
	}
	out.Functions, out.NextMarker = append(out.Functions, l.found...), l.next
	return out, nil
}

func (s *Service) listVersions(ctx context.Context, c api.Caller, in *api.ListVersionsByFunctionRequest) (*api.ListVersionsByFunctionResponse, error) {
	r, at, err := s.readListVersions(ctx, c, in)
	if err != nil {
		return nil, err
	}
	f, _, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	l := lister{s: s, account: r.Account, page: at, versions: true}
	switch {
	case at.marker == marker{}:
		l.add(&f.Latest, true)
	case at.marker.Function != r.Name || !at.marker.Versions:
		return nil, invalidMarker(*in.Marker)
	}
	if err := l.addVersions(ctx, f); err != nil {
		return nil, err
	}
	return &api.ListVersionsByFunctionResponse{Versions: l.found, NextMarker: l.next}, nil
}

// readListVersions returns which versions are asked for, and which part of the list.
func (s *Service) readListVersions(ctx context.Context, c api.Caller, in *api.ListVersionsByFunctionRequest) (ref.Ref, page, error) {
	reader := s.reader(ctx, c, api.ListVersionsByFunction, ref.Namespaced)
	var v constraint.Violations
	reader.Check(&v, in.FunctionName, nil)
	at, err := readPage(&v, in.Marker, in.MaxItems)
	if err != nil {
		return ref.Ref{}, page{}, err
	}
	r, err := reader.Resolve(*in.FunctionName, nil)
	if err != nil {
		return ref.Ref{}, page{}, err
	}
	return r, at, wholeFunction(r)
}

// page is which part of a list is asked for.
type page struct {
	marker marker
	size   int
}

// marker is the last item of the page before: Function, or if Versions is true its version number After. The zero marker is the
// beginning. Callers see it as a word without meaning.
type marker struct {
	Function kiln.FunctionName `json:"f"`
	Versions bool              `json:"v,omitempty"`
	After    int               `json:"a,omitempty"`
}

func (m marker) String() string { return encodeMarker(m) }

func encodeMarker(m any) string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("encode a marker: %v", err))
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// decodeMarker reads the marker that a caller gave, if any.
func decodeMarker(mark *string, into any) error {
	if mark == nil || *mark == "" {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(*mark)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return invalidMarker(*mark)
	}
	return nil
}

// readPage checks what v has found so far, and reads the members that all lists have.
func readPage(v *constraint.Violations, mark *string, maxItems *int32) (page, error) {
	const modelMaxItems = 10000
	p := page{size: maxPage}
	if maxItems != nil {
		v.Range("maxItems", int(*maxItems), 1, modelMaxItems)
		p.size = min(int(*maxItems), maxPage)
	}
	if err := validation(v); err != nil {
		return page{}, err
	}
	if err := decodeMarker(mark, &p.marker); err != nil {
		return page{}, err
	}
	if strings.Contains(string(p.marker.Function), "/") || p.marker.After < 0 {
		return page{}, invalidMarker(*mark)
	}
	return p, nil
}

// readParts reads of which function a list of its parts is asked for, and how many at most, and lets check look at the other members.
func (s *Service) readParts(ctx context.Context, c api.Caller, op *api.Operation, function *string, maxItems *int32, check func(*constraint.Violations)) (r ref.Ref, size int, err error) {
	reader := s.reader(ctx, c, op, ref.Plain)
	var v constraint.Violations
	reader.Check(&v, function, nil)
	if check != nil {
		check(&v)
	}
	at, err := readPage(&v, nil, maxItems)
	if err != nil {
		return ref.Ref{}, 0, err
	}
	if r, err = reader.Resolve(*function, nil); err != nil {
		return ref.Ref{}, 0, err
	}
	return r, at.size, wholeFunction(r)
}

func invalidMarker(m string) error {
	return kiln.Errorf(kiln.InvalidParameterValue, "Invalid marker: %s", m)
}

// lister collects one page of functions, or of functions and their versions.
type lister struct {
	s       *Service
	account kiln.AccountID
	page
	versions bool

	found []api.FunctionConfiguration
	// next is the marker of the next page, nil if there is none or nobody knows yet.
	next *string
}

func (l *lister) full() bool { return l.next != nil }

// add adds v and returns true, or says where the next page begins if this one is full.
func (l *lister) add(v *kiln.Version, qualified bool) bool {
	if len(l.found) == l.size {
		l.next = new(l.marker.String())
		return false
	}
	l.found = append(l.found, l.s.summary(v, l.s.arn(v, qualified)))
	l.marker = marker{Function: v.Function, Versions: l.versions}
	if n, ok := ref.Number(v.Qualifier); ok {
		l.marker.After = n
	}
	return true
}

// fill collects the page of all of the account's functions.
func (l *lister) fill(ctx context.Context) error {
	if err := l.resume(ctx); err != nil {
		return err
	}
	for !l.full() {
		records, err := l.s.cfg.Store.List(ctx, catalog.FunctionKey(l.account, ""), catalog.FunctionKey(l.account, l.marker.Function), l.size-len(l.found)+1)
		if err != nil {
			return fmt.Errorf("list functions: %w", err)
		}
		if len(records) == 0 {
			return nil
		}
		if err := l.addFunctions(ctx, records); err != nil {
			return err
		}
	}
	return nil
}

// resume goes on with the versions of the function in whose midst the page before ended.
func (l *lister) resume(ctx context.Context) error {
	if !l.marker.Versions || !l.versions {
		return nil
	}
	f, _, err := l.s.find(ctx, ref.Ref{Account: l.account, Name: l.marker.Function})
	if kiln.KindOf(err) == kiln.ResourceNotFound {
		return nil // deleted meanwhile; its name still says where to go on
	}
	if err != nil {
		return err
	}
	return l.addVersions(ctx, f)
}

func (l *lister) addFunctions(ctx context.Context, records []catalog.Record) error {
	for _, r := range records {
		var f kiln.Function
		if err := json.Unmarshal(r.Value, &f); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		if !l.add(&f.Latest, l.versions) {
			return nil
		}
		if !l.versions {
			continue
		}
		if err := l.addVersions(ctx, &f); err != nil || l.full() {
			return err
		}
	}
	return nil
}

// addVersions adds the published versions of f after the marker's.
func (l *lister) addVersions(ctx context.Context, f *kiln.Function) error {
	if l.full() {
		return nil
	}
	v := &f.Latest
	prefix := catalog.VersionPrefix(v.Account, v.Function, f.ID)
	after := catalog.VersionKey(v.Account, v.Function, f.ID, l.marker.After)
	records, err := l.s.cfg.Store.List(ctx, prefix, after, l.size-len(l.found)+1)
	if err != nil {
		return fmt.Errorf("list versions of %s: %w", v.Function, err)
	}
	for _, r := range records {
		var v kiln.Version
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		if !l.add(&v, true) {
			return nil
		}
	}
	return nil
}
