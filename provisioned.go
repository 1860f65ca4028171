package kiln

import (
	"math"
	"time"
)

// Provisioned says how many execution environments of a version, or of what an alias names, are kept initialised
// (https://docs.aws.amazon.com/lambda/latest/dg/provisioned-concurrency.html).
type Provisioned struct {
	// Places is how many, 1 or more.
	Places       int
	LastModified time.Time
}

// Shares returns how many of which version p, which is q's, asks for: of all versions that invocations of an alias go to as many as
// their weights say. There is none if q is an alias that does not exist.
func (p Provisioned) Shares(q Qualifier, aliases map[AliasName]Alias) map[Qualifier]int {
	if q != "" && q[0] >= '0' && q[0] <= '9' {
		if _, alias := aliases[AliasName(q)]; !alias {
			return map[Qualifier]int{q: p.Places}
		}
	}
	a, ok := aliases[AliasName(q)]
	if !ok {
		return nil
	}
	shares, left := make(map[Qualifier]int, 1+len(a.Weights)), p.Places
	for other, w := range a.Weights {
		if n := int(math.Round(w * float64(p.Places))); n > 0 {
			shares[other] = n
			left -= n
		}
	}
	if left > 0 {
		shares[a.Version] = left
	}
	return shares
}

// Kept is how many places of its account's concurrency are f's alone.
func (f *Function) Kept() int {
	if f.Reserved != nil {
		return *f.Reserved
	}
	return f.AllProvisioned()
}

// AllProvisioned is how many environments of f are provisioned in all.
func (f *Function) AllProvisioned() int {
	n := 0
	for _, p := range f.Provisioned {
		n += p.Places
	}
	return n
}
