package kiln

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"time"
)

// AccountID is the twelve-digit number of the tenant that owns a resource.
type AccountID string

// Region is the AWS region name that a node answers for, such as "us-east-1".
type Region string

// FunctionName is the bare name of a function, unique within an account and region.
type FunctionName string

// Qualifier selects a version of a function: LatestVersion, a version number or an alias. Empty means unqualified.
type Qualifier string

// LatestVersion is the qualifier of the one version of a function that can be changed.
const LatestVersion Qualifier = "$LATEST"

// Digest is the SHA-256 of a stored object in lower-case hexadecimal: the name under which content is stored.
type Digest string

// DigestOf returns the Digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(hex.EncodeToString(sum[:]))
}

// Base64 returns d in the form of the API's CodeSha256, or "" if d is not a digest.
func (d Digest) Base64() string {
	sum, err := hex.DecodeString(string(d))
	if err != nil || len(sum) != sha256.Size {
		return ""
	}
	return base64.StdEncoding.EncodeToString(sum)
}

// Code is a deployment package or the content of a layer: a zip file in the blob store.
type Code struct {
	Digest Digest
	// Size is the length of the zip file in bytes.
	Size int64
	// Unzipped is the length of its files together.
	Unzipped int64
}

// State is the lifecycle state of a version
// (https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html).
type State string

// The states that kiln gives a version.
const (
	StatePending State = "Pending"
	StateActive  State = "Active"
	StateFailed  State = "Failed"
)

// UpdateStatus is the state of the last change of a version.
type UpdateStatus string

// The update states. A version that was never changed has "".
const (
	UpdateSuccessful UpdateStatus = "Successful"
	UpdateInProgress UpdateStatus = "InProgress"
	UpdateFailed     UpdateStatus = "Failed"
)

// Config is what a user sets of a version: everything that decides how its code runs.
type Config struct {
	Description string
	// Role is the ARN of the execution role.
	Role    string
	Handler string
	// Runtime is a runtime identifier such as "python3.13".
	Runtime      string
	Architecture string
	Timeout      time.Duration
	// MemoryMB is MemorySize: the memory of an execution environment in MiB; its share of CPU follows from it.
	MemoryMB int
	// EphemeralMB is the size of /tmp in MiB.
	EphemeralMB int
	Environment map[string]string
	LogGroup    string
	Code        Code
	// Layers appear below /opt, later ones over earlier ones.
	Layers []Layer `json:",omitempty"`
}

// Version is a snapshot of a function's code and configuration: $LATEST, which changes, or a published number, which never does.
// A *Version that was handed out is immutable; a change makes a new one.
type Version struct {
	Account  AccountID
	Function FunctionName
	// Qualifier is LatestVersion or the decimal version number.
	Qualifier Qualifier
	Config

	State            State
	StateReason      string
	StateReasonCode  string
	LastUpdateStatus UpdateStatus
	UpdateReason     string
	UpdateReasonCode string

	// RevisionID changes with every change of the record, state changes included; callers compare it (412 on mismatch).
	RevisionID string
	// Deployment changes only when code or configuration does. Two versions with the same Deployment run the same; an
	// execution environment belongs to one Deployment.
	Deployment   string
	LastModified time.Time
}

// Function is the part of a function that is not versioned, and its $LATEST.
type Function struct {
	// ID is unique to this creation: a function deleted and created again under its name gets another, so that nothing of the
	// old one is taken for the new one's.
	ID     string
	Latest Version
	// LastPublished is the highest version number given out so far, 0 if none. Numbers are never used twice.
	LastPublished int
	// Published is the digest of the Config that LastPublished was made of: while $LATEST has the same, there is nothing to
	// publish.
	Published Digest
	Tags      map[string]string
	Aliases   map[AliasName]Alias `json:",omitempty"`
	// Reserved is how many invocations may run at a time, which no other function can have; nil if nothing is reserved. 0 stops the
	// function.
	Reserved *int `json:",omitempty"`
	// Provisioned are by version number or alias.
	Provisioned map[Qualifier]Provisioned `json:",omitempty"`
	// Policies are by version number or alias, "" for the function. See Policy.
	Policies map[Qualifier]Policy `json:",omitempty"`
	// MayLoop says that invocations of the function that it has caused itself are not stopped after MaxLoop.
	MayLoop bool `json:",omitempty"`
	// CodeSigning is the identifier of the code signing configuration that packages are checked by, "" for none.
	CodeSigning string `json:",omitempty"`
}

// Clone returns a copy of f that shares no map with it.
func (f *Function) Clone() *Function {
	c := *f
	c.Latest.Environment = cloneMap(f.Latest.Environment)
	c.Tags = cloneMap(f.Tags)
	c.Aliases = cloneAliases(f.Aliases)
	c.Provisioned = maps.Clone(f.Provisioned)
	c.Policies = maps.Clone(f.Policies)
	return &c
}

func cloneMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}
