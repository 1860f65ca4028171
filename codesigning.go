package kiln

import "time"

// CodeSigningConfig says who must have signed the packages of functions that have it, and what becomes of others
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-codesigning.html).
type CodeSigningConfig struct {
	// ID is unique: "csc-" and 17 characters.
	ID          string
	Description string
	// Publishers are the ARNs of the versions of signing profiles.
	Publishers []string
	// Enforced says that packages which were not signed by Publishers are refused, and not only warned of.
	Enforced     bool
	LastModified time.Time
}
