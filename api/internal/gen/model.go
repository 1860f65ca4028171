package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// model is what the SDK's source says about the service.
type model struct {
	// shapes holds every schema by the name of its Go variable.
	shapes map[string]*shape
	// order lists those names as the source does.
	order []string
	// operations are sorted by name.
	operations []operation
	// required holds "Struct.Field" for every field of the SDK's structs that is documented as required.
	required map[string]bool
	// enums holds the values of each enum in the source's order.
	enums map[string][]string
}

type shape struct {
	name    string
	typ     string // "Structure", "List", ... as in smithy.ShapeTypeStructure
	traits  map[string]trait
	members []member
}

type member struct {
	name   string
	target string
	traits map[string]trait
}

// trait holds the fields of a trait's literal: its Go source, unquoted where it is a string.
type trait map[string]string

type operation struct {
	name          string
	input, output string // shape names; output is "" for none
}

func readModel(dir string) (*model, error) {
	m := &model{shapes: map[string]*shape{}, required: map[string]bool{}, enums: map[string][]string{}}
	if err := m.eachFile(filepath.Join(dir, "schemas", "*.go"), m.readSchemas); err != nil {
		return nil, err
	}
	if err := m.eachFile(filepath.Join(dir, "types", "*.go"), m.readTypes); err != nil {
		return nil, err
	}
	if err := m.eachFile(filepath.Join(dir, "api_op_*.go"), m.readOperation); err != nil {
		return nil, err
	}
	slices.SortFunc(m.operations, func(a, b operation) int { return cmp.Compare(a.name, b.name) })
	return m, m.check()
}

// check guards against a change in the SDK's layout that would otherwise lose something silently.
func (m *model) check() error {
	n := 0
	for _, s := range m.shapes {
		if s.typ == "Operation" {
			n++
		}
		for _, mb := range s.members {
			if s.typ != "Enum" && m.shapes[mb.target] == nil {
				return fmt.Errorf("member %s.%s has the unknown target %s", s.name, mb.name, mb.target)
			}
		}
	}
	if n == 0 || n != len(m.operations) {
		return fmt.Errorf("%d operations in the schemas, %d in the client", n, len(m.operations))
	}
	return nil
}

func (m *model) eachFile(pattern string, read func(*ast.File) error) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no files match %s", pattern)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if err := read(f); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

// readSchemas collects `var X = smithy.NewSchema(...)` and, in init, `X_M = X.AddMember("M", target, traits...)`.
func (m *model) readSchemas(f *ast.File) (err error) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			if len(n.Values) == 1 {
				err = cmp.Or(err, m.addShape(n.Names[0].Name, n.Values[0]))
			}
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "AddMember" {
				err = cmp.Or(err, m.addMember(sel.X, n.Args))
			}
		}
		return err == nil
	})
	return err
}

func (m *model) addShape(variable string, value ast.Expr) error {
	call, ok := value.(*ast.CallExpr)
	if !ok || selector(call.Fun) != "NewSchema" || len(call.Args) < 3 {
		return nil // the service itself
	}
	id, err := literal(call.Args[0])
	if err != nil {
		return fmt.Errorf("schema %s: %w", variable, err)
	}
	ts, err := traits(call.Args[3:])
	if err != nil {
		return fmt.Errorf("schema %s: %w", variable, err)
	}
	m.shapes[variable] = &shape{name: id["Name"], typ: strings.TrimPrefix(selector(call.Args[1]), "ShapeType"), traits: ts}
	m.order = append(m.order, variable)
	return nil
}

func (m *model) addMember(owner ast.Expr, args []ast.Expr) error {
	s := m.shapes[selector(owner)]
	if s == nil || len(args) < 2 {
		return fmt.Errorf("AddMember of unknown schema %s", selector(owner))
	}
	name, err := unquote(args[0])
	if err != nil {
		return err
	}
	ts, err := traits(args[2:])
	if err != nil {
		return fmt.Errorf("member %s.%s: %w", s.name, name, err)
	}
	s.members = append(s.members, member{name: name, target: selector(args[1]), traits: ts})
	return nil
}

// readTypes collects the required fields of structs and the values of enums.
func (m *model) readTypes(f *ast.File) error {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.GenDecl:
			m.readRequired(d)
		case *ast.FuncDecl:
			if d.Name.Name == "Values" && d.Recv != nil {
				m.readEnum(d)
			}
		}
	}
	return nil
}

func (m *model) readRequired(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		ts, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		st, ok := ts.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range st.Fields.List {
			if len(f.Names) == 1 && strings.Contains(f.Doc.Text(), "This member is required.") {
				m.required[ts.Name.Name+"."+f.Names[0].Name] = true
			}
		}
	}
}

func (m *model) readEnum(d *ast.FuncDecl) {
	name := selector(d.Recv.List[0].Type)
	ast.Inspect(d.Body, func(n ast.Node) bool {
		if e, ok := n.(*ast.BasicLit); ok {
			if v, err := strconv.Unquote(e.Value); err == nil {
				m.enums[name] = append(m.enums[name], v)
			}
		}
		return true
	})
}

// readOperation finds `smithy.NewOperationSchema(schemas.Op, schemas.In, schemas.Out)` and the required members of In and Out.
func (m *model) readOperation(f *ast.File) error {
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			m.readRequired(g)
		}
	}
	var op operation
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && selector(call.Fun) == "NewOperationSchema" && len(call.Args) == 3 {
			op = operation{name: selector(call.Args[0]), input: selector(call.Args[1]), output: selector(call.Args[2])}
		}
		return op.name == ""
	})
	if op.name == "" {
		return fmt.Errorf("no operation schema")
	}
	if op.output == "nil" {
		op.output = ""
	}
	m.operations = append(m.operations, op)
	return nil
}

// selector returns the last name of an identifier or a qualified one.
func selector(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func traits(args []ast.Expr) (map[string]trait, error) {
	ts := map[string]trait{}
	for _, a := range args {
		u, ok := a.(*ast.UnaryExpr)
		if !ok {
			return nil, fmt.Errorf("trait is not a pointer to a literal")
		}
		lit, ok := u.X.(*ast.CompositeLit)
		if !ok {
			return nil, fmt.Errorf("trait is not a literal")
		}
		t, err := literal(lit)
		if err != nil {
			return nil, err
		}
		name := selector(lit.Type)
		if !knownTrait(name) {
			return nil, fmt.Errorf("unknown trait %s", name)
		}
		ts[name] = t
	}
	return ts, nil
}

// knownTrait says whether the emitters honour the trait, or whether it says nothing to a JSON server (XMLName, Sensitive). Any
// other, such as jsonName, would change the wire form and must be handled first.
func knownTrait(name string) bool {
	switch name {
	case "HTTP", "HTTPLabel", "HTTPQuery", "HTTPHeader", "HTTPPayload", "HTTPResponseCode",
		"Error", "HTTPError", "Streaming", "EventPayload", "Sensitive", "XMLName":
		return true
	}
	return false
}

func literal(e ast.Expr) (trait, error) {
	lit, ok := e.(*ast.CompositeLit)
	if !ok {
		return nil, fmt.Errorf("not a literal")
	}
	t := trait{}
	for _, el := range lit.Elts {
		kv, ok := el.(*ast.KeyValueExpr)
		if !ok {
			return nil, fmt.Errorf("literal without field names")
		}
		v, err := unquote(kv.Value)
		if err != nil {
			return nil, err
		}
		t[selector(kv.Key)] = v
	}
	return t, nil
}

func unquote(e ast.Expr) (string, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			return strconv.Unquote(e.Value)
		}
		return e.Value, nil
	case *ast.Ident:
		return e.Name, nil
	case *ast.SelectorExpr:
		return e.Sel.Name, nil
	}
	return "", fmt.Errorf("value is neither a literal nor a name")
}
