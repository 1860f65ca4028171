package deploy

import (
	"encoding/json"
	"fmt"
	"time"

	"kiln"
	"kiln/catalog/ref"
)

// AWS's words for a change that has begun, whatever it is.
const (
	beginReason     = "The function is being created."
	beginReasonCode = "Creating"
)

// beginCreate makes v a version that has just come into being.
func beginCreate(v *kiln.Version) {
	v.State, v.StateReason, v.StateReasonCode = kiln.StatePending, beginReason, beginReasonCode
	v.LastUpdateStatus, v.UpdateReason, v.UpdateReasonCode = "", "", ""
}

// beginUpdate makes v a version that has just been changed.
func beginUpdate(v *kiln.Version) {
	v.LastUpdateStatus, v.UpdateReason, v.UpdateReasonCode = kiln.UpdateInProgress, beginReason, beginReasonCode
}

// settled returns v after what had begun is done, under a new revision, and false if nothing had begun. Code is stored and checked
// before a record refers to it, so there is nothing that can fail here.
func settled(v kiln.Version, revision string) (kiln.Version, bool) {
	if !unsettled(&v) {
		return v, false
	}
	v.State, v.StateReason, v.StateReasonCode = kiln.StateActive, "", ""
	v.LastUpdateStatus, v.UpdateReason, v.UpdateReasonCode = kiln.UpdateSuccessful, "", ""
	v.RevisionID = revision
	return v, true
}

func unsettled(v *kiln.Version) bool {
	return v.State == kiln.StatePending || v.LastUpdateStatus == kiln.UpdateInProgress
}

// settleAt returns when what has begun with v is done. A clock that was set back does not make it later than settle from now.
func settleAt(v *kiln.Version, now time.Time, settle time.Duration) time.Time {
	at, latest := v.LastModified.Add(settle), now.Add(settle)
	if at.After(latest) {
		return latest
	}
	return at
}

// busy returns AWS's error if v cannot be changed now.
func busy(v *kiln.Version, r ref.Ref, region kiln.Region) error {
	switch {
	case v.State == kiln.StatePending:
		return kiln.Errorf(kiln.ResourceConflict, "The operation cannot be performed at this time. "+
			"The function is currently in the following state: %s", v.State)
	case v.LastUpdateStatus == kiln.UpdateInProgress:
		return inProgress(r, region)
	}
	return nil
}

func inProgress(r ref.Ref, region kiln.Region) error {
	return kiln.Errorf(kiln.ResourceConflict, "The operation cannot be performed at this time. "+
		"An update is in progress for resource: %s", r.Unqualified().ARN(region))
}

// guard returns AWS's error if the caller expects another revision than f has. An expectation of nil or "" is none.
func guard(f *kiln.Function, revision *string) error {
	return guardRevision(f.Latest.RevisionID, revision)
}

func guardRevision(current string, expected *string) error {
	if expected == nil || *expected == "" || *expected == current {
		return nil
	}
	return kiln.Errorf(kiln.PreconditionFailed, "The Revision Id provided does not match the latest Revision Id. "+
		"Call the GetFunction/GetAlias API to retrieve the latest Revision Id")
}

// runsAlike reports whether code runs the same under a and b.
func runsAlike(a, b kiln.Config) bool {
	a.Description, b.Description = "", ""
	return fingerprint(a) == fingerprint(b)
}

// fingerprint returns a digest that two Configs share if and only if they are equal.
func fingerprint(c kiln.Config) kiln.Digest {
	text, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encode a Config: %v", err)) // strings, numbers and a map of strings: there is nothing to fail
	}
	return kiln.DigestOf(text)
}
