package ref

import (
	"strconv"
	"strings"

	"kiln"
	"kiln/internal/constraint"
)

const (
	maxLayer        = 140
	maxLayerVersion = 2048
)

var (
	layerPattern = constraint.MustPattern(`(arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+`)

	layerVersionPattern = constraint.MustPattern(`(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|` +
		`(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)`)
)

// Layer is a reference to a layer, or to a version of one, that was understood. It need not exist.
type Layer struct {
	Region  kiln.Region
	Account kiln.AccountID
	Name    kiln.LayerName
	// Version is 0 if the reference is to the layer, or to a version that no layer can have.
	Version int
}

// ARN returns the ARN of the layer without its version.
func (l Layer) ARN() string {
	return "arn:aws:lambda:" + string(l.Region) + ":" + string(l.Account) + ":layer:" + string(l.Name)
}

// VersionARN returns the ARN of the layer version.
func (l Layer) VersionARN() string { return l.ARN() + ":" + strconv.Itoa(l.Version) }

// CheckLayer adds to v what AWS's model finds wrong with a reference to a layer.
func CheckLayer(v *constraint.Violations, name *string) {
	if name == nil {
		v.Missing("layerName")
		return
	}
	v.Length("layerName", *name, 1, maxLayer)
	v.Pattern("layerName", *name, layerPattern)
}

// CheckLayerVersion adds to v what AWS's model finds wrong with a reference to a layer version.
func CheckLayerVersion(v *constraint.Violations, arn *string) {
	if arn == nil {
		v.Missing("arn")
		return
	}
	v.Length("arn", *arn, 1, maxLayerVersion)
	v.Pattern("arn", *arn, layerVersionPattern)
}

// CheckLayerVersions adds to v what AWS's model finds wrong with a list of references to layer versions.
func CheckLayerVersions(v *constraint.Violations, arns []string) {
	for _, arn := range arns {
		if len(arn) <= maxLayerVersion && layerVersionPattern.Matches(arn) {
			continue
		}
		v.AddList("layers", arns, "Member must satisfy constraint: [Member must have length less than or equal to 2048, "+
			"Member must have length greater than or equal to 1, "+layerVersionPattern.Rule()+", Member must not be null]")
		return
	}
}

// ResolveLayer reads a reference that has passed CheckLayer. A bare name is that of a layer of the region and the account.
func ResolveLayer(region kiln.Region, a kiln.AccountID, name string) Layer {
	if strings.Contains(name, ":") {
		return ResolveLayerVersion(name)
	}
	return Layer{Region: region, Account: a, Name: kiln.LayerName(name)}
}

// ResolveLayerVersion reads a reference that has passed CheckLayerVersion or CheckLayerVersions. One to AWS's own layers, which
// have neither account nor version, is a Layer without them.
func ResolveLayerVersion(arn string) Layer {
	part := append(strings.Split(arn, ":"), "") // a layer's ARN has no eighth part
	l := Layer{Region: kiln.Region(part[3]), Account: kiln.AccountID(part[4]), Name: kiln.LayerName(part[6])}
	if n, err := strconv.Atoi(part[7]); err == nil {
		l.Version = n
	}
	return l
}
