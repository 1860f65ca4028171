// Package ref reads references to functions and layers as the Lambda API takes them: a name, a partial ARN or a whole ARN. One to a
// function may have a qualifier inside it, beside it, both or none.
package ref

import (
	"strconv"
	"strings"

	"kiln"
	"kiln/internal/constraint"
)

// Shape is the set of constraints that AWS's model puts on an operation's FunctionName member.
type Shape uint8

const (
	// Namespaced is the shape of the operations that read, invoke or delete.
	Namespaced Shape = iota
	// Plain is the shape of the operations that create or change, and of some that read.
	Plain
)

// The groups of both patterns that say something.
const (
	groupRegion    = 3
	groupAccount   = 9
	groupName      = 11
	groupQualifier = 13
)

const prefixPattern = `(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?`

var (
	plainPattern      = constraint.MustPattern(prefixPattern + `([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?`)
	namespacedPattern = constraint.MustPattern(prefixPattern + `([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?`)
	qualifierPattern  = constraint.MustPattern(`\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`)
)

const (
	maxPlain      = 140
	maxNamespaced = 256
	maxQualifier  = 128
)

// Ref is a function reference that was understood. It need not exist.
type Ref struct {
	Account kiln.AccountID
	Name    kiln.FunctionName
	// Qualifier is "" if the caller gave none.
	Qualifier kiln.Qualifier
}

// ARN returns the ARN of r in region, with the qualifier if r has one.
func (r Ref) ARN(region kiln.Region) string {
	arn := "arn:aws:lambda:" + string(region) + ":" + string(r.Account) + ":function:" + string(r.Name)
	if r.Qualifier == "" {
		return arn
	}
	return arn + ":" + string(r.Qualifier)
}

// Unqualified returns r without its qualifier.
func (r Ref) Unqualified() Ref {
	r.Qualifier = ""
	return r
}

// NotFound returns AWS's error that there is no function, or no version of it, of that name.
func (r Ref) NotFound(region kiln.Region) error {
	return kiln.Errorf(kiln.ResourceNotFound, "Function not found: %s", r.ARN(region))
}

// Number returns the version number that q is, and false if q is something else, such as an alias or "007".
func Number(q kiln.Qualifier) (int, bool) {
	if q == "" || q[0] < '1' || q[0] > '9' || len(q) > maxDigits {
		return 0, false
	}
	n, err := strconv.ParseUint(string(q), 10, 63)
	return int(n), err == nil
}

// maxDigits is how many digits a version number may have: catalog.VersionKey keeps the order of as many.
const maxDigits = 10

// Reader reads the references in the requests of one operation by one account.
type Reader struct {
	// Region is where the operation is served.
	Region kiln.Region
	// Account is the caller's.
	Account kiln.AccountID
	// Operation is AWS's name of it, such as "GetFunction".
	Operation string
	Shape     Shape
	// Trusted reports whether the policy of another account's function lets the caller perform the operation on it. Nil means that none
	// does.
	Trusted func(Ref) bool
}

// Read checks and reads a reference. The qualifier is the request's own member, nil if there is none. It returns the errors of
// Check as a Validation error, and those of Resolve.
func (r Reader) Read(name, qualifier *string) (Ref, error) {
	var v constraint.Violations
	r.Check(&v, name, qualifier)
	if m := v.Message(); m != "" {
		return Ref{}, kiln.Errorf(kiln.Validation, "%s", m)
	}
	return r.Resolve(*name, qualifier)
}

// Check adds to v what AWS's model finds wrong with a reference.
func (r Reader) Check(v *constraint.Violations, name, qualifier *string) {
	if name == nil {
		v.Missing("functionName")
	} else {
		v.Length("functionName", *name, 1, r.maxLength())
		v.Pattern("functionName", *name, r.pattern())
	}
	if qualifier != nil {
		v.Length("qualifier", *qualifier, 1, maxQualifier)
		v.Pattern("qualifier", *qualifier, qualifierPattern)
	}
}

// Resolve reads a reference that has passed Check. It fails if the reference leads to another region, or to another account of which
// no policy allows it, or if its two qualifiers differ.
func (r Reader) Resolve(name string, qualifier *string) (Ref, error) {
	region, ref := r.split(name)
	if region != "" && region != r.Region {
		return Ref{}, kiln.Errorf(kiln.ResourceNotFound, "Functions from '%s' are not reachable in this region ('%s')", region, r.Region)
	}
	if qualifier != nil {
		if ref.Qualifier != "" && ref.Qualifier != kiln.Qualifier(*qualifier) {
			return Ref{}, kiln.Errorf(kiln.InvalidParameterValue, "The derived qualifier from the function name does not match the specified qualifier.")
		}
		ref.Qualifier = kiln.Qualifier(*qualifier)
	}
	if ref.Account != r.Account && (r.Trusted == nil || !r.Trusted(ref)) {
		return Ref{}, r.denied(ref)
	}
	return ref, nil
}

// denied is what AWS answers about another account's function, whether or not it exists.
func (r Reader) denied(ref Ref) error {
	if r.Operation == "CreateFunction" {
		return kiln.Errorf(kiln.AccessDenied, "")
	}
	return r.Denied(ref.ARN(r.Region))
}

// Denied is AWS's error that no policy of another account's resource, whose ARN is given, allows the operation to the caller.
func (r Reader) Denied(arn string) error {
	return kiln.Errorf(kiln.AccessDenied,
		"User: arn:aws:iam::%s:root is not authorized to perform: lambda:%s on resource: %s because no resource-based policy allows the lambda:%s action",
		r.Account, r.Operation, arn, r.Operation)
}

func (r Reader) split(name string) (kiln.Region, Ref) {
	ref := Ref{Account: r.Account, Name: kiln.FunctionName(name)}
	if !strings.Contains(name, ":") {
		return "", ref
	}
	g := r.pattern().Groups(name)
	if a := strings.TrimSuffix(g[groupAccount], ":"); a != "" {
		ref.Account = kiln.AccountID(a)
	}
	ref.Name = kiln.FunctionName(g[groupName])
	ref.Qualifier = kiln.Qualifier(g[groupQualifier])
	return kiln.Region(strings.TrimSuffix(g[groupRegion], ":")), ref
}

func (r Reader) pattern() constraint.Pattern {
	if r.Shape == Plain {
		return plainPattern
	}
	return namespacedPattern
}

func (r Reader) maxLength() int {
	if r.Shape == Plain {
		return maxPlain
	}
	return maxNamespaced
}
