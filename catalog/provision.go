package catalog

import (
	"maps"
	"slices"
	"time"

	"kiln"
)

// Provision is a provisioned concurrency configuration of a function, with what it asks for now.
type Provision struct {
	// Qualifier is the version number or alias that it is for.
	Qualifier kiln.Qualifier
	// Asked is when it was made.
	Asked  time.Time
	Shares []Share
}

// Share is how many environments of a version are provisioned.
type Share struct {
	Version *kiln.Version
	Places  int
}

// ProvisionStatus is how far the data plane is with a Provision.
type ProvisionStatus struct {
	Account   kiln.AccountID
	Function  kiln.FunctionName
	Qualifier kiln.Qualifier
	Asked     time.Time
	// Shares is what was asked for, by version.
	Shares map[kiln.Qualifier]int
	// Available is how many environments are initialised, those of versions that the alias has just left among them, and Missing how many
	// that were asked for are not.
	Available, Missing int
	// Failure is why no more are, in AWS's words if AWS has some, or "" if nothing has failed.
	Failure string
}

// provisions are the configurations of a function for which there are active versions.
func (x *index) provisions(id functionID) []Provision {
	f, ok := x.functions[id]
	if !ok {
		return nil
	}
	var all []Provision
	for _, q := range slices.Sorted(maps.Keys(f.provisioned)) {
		p := Provision{Qualifier: q, Asked: f.provisioned[q].LastModified}
		shares := f.provisioned[q].Shares(q, f.aliases)
		for _, version := range slices.Sorted(maps.Keys(shares)) {
			if v := x.resolve(id, version, nil); v != nil && v.State == kiln.StateActive {
				p.Shares = append(p.Shares, Share{v, shares[version]})
			}
		}
		if len(p.Shares) > 0 {
			all = append(all, p)
		}
	}
	return all
}

func sameProvisions(a, b []Provision) bool {
	return slices.EqualFunc(a, b, func(a, b Provision) bool {
		return a.Qualifier == b.Qualifier && a.Asked.Equal(b.Asked) && slices.Equal(a.Shares, b.Shares)
	})
}
