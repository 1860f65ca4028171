package kiln

import "maps"

// AliasName is the name of an alias: unique within a function, and not a number.
type AliasName string

// Alias is a name for a version of a function, which can be given to another version
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-aliases.html).
type Alias struct {
	// Version is what the alias names: LatestVersion or a version number.
	Version     Qualifier
	Description string
	// Weights are the shares, 0 to 1, of the invocations that go to other versions. Nil means that all go to Version.
	Weights map[Qualifier]float64 `json:",omitempty"`
	// RevisionID changes with every change of the alias; callers compare it.
	RevisionID string
}

// Choose returns the version that an invocation goes to. draw is a random number, evenly distributed from 0 to but not including 1.
func (a *Alias) Choose(draw float64) Qualifier {
	for q, w := range a.Weights { // there is one at most, so that their order does not matter
		if draw < w {
			return q
		}
	}
	return a.Version
}

// Names reports whether invocations of the alias may go to q.
func (a *Alias) Names(q Qualifier) bool {
	_, also := a.Weights[q]
	return also || a.Version == q
}

// MaxAliases bounds the aliases of a function: with the longest descriptions they fit into its record.
const MaxAliases = 500

func cloneAliases(m map[AliasName]Alias) map[AliasName]Alias {
	c := maps.Clone(m)
	for name, a := range c {
		a.Weights = maps.Clone(a.Weights)
		c[name] = a
	}
	return c
}
