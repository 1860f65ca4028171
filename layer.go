package kiln

import "time"

// LayerName is the bare name of a layer, unique within an account and region.
type LayerName string

// Layer is a layer version as a function has it. It stays what it is when the layer version is deleted.
type Layer struct {
	// Account is the owner's, which need not be the function's.
	Account AccountID
	Name    LayerName
	Version int
	Code    Code
}

// LayerVersion is a published layer. Nothing of it changes but its policy.
type LayerVersion struct {
	Layer
	Description string
	// LicenseInfo is nil if there is none.
	LicenseInfo *string
	// CompatibleRuntimes and CompatibleArchitectures are what it is said to run with, for listing only. Nil lists were not given.
	CompatibleRuntimes      []string
	CompatibleArchitectures []string
	Created                 time.Time
	// Policy says which other accounts may use it.
	Policy []LayerPermission
	// PolicyRevision changes with the policy; "" if there never was one.
	PolicyRevision string
}

// LayerPermission lets an account, or all of them, use a layer version.
type LayerPermission struct {
	// StatementID is unique within a policy.
	StatementID string
	// Account is who may use it, "" for everybody.
	Account AccountID
	// Organization, if it is not "", is the AWS organization that who uses it must belong to. No account of kiln's belongs to one.
	Organization string `json:",omitempty"`
}

// UsableBy reports whether account a may use v.
func (v *LayerVersion) UsableBy(a AccountID) bool {
	if a == v.Account {
		return true
	}
	for _, p := range v.Policy {
		if p.Organization == "" && (p.Account == a || p.Account == "") {
			return true
		}
	}
	return false
}

// LayerNumbers is what is known of a layer beside its versions. It outlives them, so that no number is used twice.
type LayerNumbers struct {
	// LastPublished is the highest version number given out so far.
	LastPublished int
}
