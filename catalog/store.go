// Package catalog is what the planes agree on about functions: Store keeps it durably for the control plane, View holds it in
// memory for the data plane.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"kiln"
)

// Key names a record of the store: an account, a kind of record and its name, "000000000000/function/hello".
// Every key begins with the account that owns the record. Build keys with the functions of this package.
type Key string

// Revision orders the changes of a store. It grows with every commit, and a record's revision is that of the commit that last
// wrote it. 0 is the revision of a record that does not exist.
type Revision uint64

// ErrConflict is returned by Commit when a record is not at the revision that the caller expected.
var ErrConflict = errors.New("record changed since it was read")

// ErrRefused is wrapped by the errors of commits that were turned down before anything was written, for whatever other reason.
var ErrRefused = errors.New("commit refused")

// Record is a stored value.
type Record struct {
	Key      Key
	Revision Revision
	Value    []byte
}

// Change writes or deletes one record.
type Change struct {
	Key Key
	// If is the revision that the record must have for the commit to happen: 0 means it must not exist.
	If Revision
	// Value is the new value; nil deletes the record.
	Value []byte
}

// Event is one record's change as a watcher sees it. Value is nil when the record was deleted.
type Event struct {
	Record
	// Synced is true on one event without a key: everything stored when the watch began has been delivered.
	Synced bool
}

// Source is what a View is fed from: a Store, or one in another process. It is safe for concurrent use. Values handed out may not be
// changed by who put them in.
type Source interface {
	// Get returns the record under k. A record that does not exist has Revision 0 and no error.
	Get(ctx context.Context, k Key) (Record, error)

	// Watch calls fn with every record whose key begins with prefix, then once with Synced, then with each later change in
	// commit order, one call at a time, until ctx ends or fn returns an error, which Watch returns. A watcher that falls
	// behind slows nobody: it reads on from the store, and may then see a record's newest value only.
	Watch(ctx context.Context, prefix Key, fn func(Event) error) error
}

// Store keeps the catalog's records. It is safe for concurrent use. Values passed in belong to the store and values handed out
// to the caller; neither may be changed afterwards.
type Store interface {
	Source

	// List returns up to limit records whose key begins with prefix and sorts after the key after, in key order.
	List(ctx context.Context, prefix, after Key, limit int) ([]Record, error)

	// Commit makes all changes or none. When it returns nil they survive a crash of the machine. It returns ErrConflict, and
	// changes nothing, if one record is not at its If. All keys belong to one account and none occurs twice.
	//
	// An error that wraps ErrRefused says that nothing was changed either: changes are not valid, ctx had ended before, or the
	// store cannot write. After any other error the changes may have been made, or may yet appear after a restart.
	Commit(ctx context.Context, changes ...Change) (Revision, error)
}

// FunctionKey is where the kiln.Function of that name is stored, as JSON.
func FunctionKey(a kiln.AccountID, f kiln.FunctionName) Key {
	return Key(string(a) + "/function/" + string(f))
}

// VersionKey is where the published kiln.Version number n of a function is stored, as JSON. id is kiln.Function.ID. The keys of
// a function's versions sort by their numbers.
func VersionKey(a kiln.AccountID, f kiln.FunctionName, id string, n int) Key {
	return VersionPrefix(a, f, id) + Key(fmt.Sprintf("%010d", n))
}

// VersionPrefix is the prefix of all published versions of the function with that ID.
func VersionPrefix(a kiln.AccountID, f kiln.FunctionName, id string) Key {
	return Key(string(a) + "/version/" + string(f) + "/" + id + "/")
}

// LayerKey is where the kiln.LayerNumbers of the layer of that name are stored, as JSON.
func LayerKey(a kiln.AccountID, l kiln.LayerName) Key {
	return Key(string(a) + "/layer/" + string(l))
}

// MaxLayerVersion is the highest version number of a layer that LayerVersionKey has a place for.
const MaxLayerVersion = 9_999_999_999

// LayerVersionKey is where the kiln.LayerVersion number n is stored, as JSON. The keys of a layer's versions sort by their numbers,
// the highest first. n is 1 to MaxLayerVersion.
func LayerVersionKey(a kiln.AccountID, l kiln.LayerName, n int) Key {
	return LayerVersionPrefix(a, l) + Key(fmt.Sprintf("%010d", MaxLayerVersion-n))
}

// LayerVersionPrefix is the prefix of all versions of a layer.
func LayerVersionPrefix(a kiln.AccountID, l kiln.LayerName) Key {
	return LayerVersionsPrefix(a) + Key(string(l)+"/")
}

// LayerVersionsPrefix is the prefix of all versions of all layers of an account.
func LayerVersionsPrefix(a kiln.AccountID) Key {
	return Key(string(a) + "/layerversion/")
}

// ReservationsKey is where it is stored what the functions of account a have reserved of its concurrency together, as the control plane
// needs it. What each has is in its kiln.Function.
func ReservationsKey(a kiln.AccountID) Key {
	return Key(string(a) + "/reservations/concurrency")
}

// CodeSigningKey is where the kiln.CodeSigningConfig of that identifier is stored, as JSON. That of "" is the prefix of all.
func CodeSigningKey(a kiln.AccountID, id string) Key {
	return Key(string(a) + "/codesigning/" + id)
}

// CodeSignedKey is of a record, without content that matters, for a function that has a code signing configuration. That of the function ""
// is the prefix of all which have it.
func CodeSignedKey(a kiln.AccountID, id string, f kiln.FunctionName) Key {
	return Key(string(a) + "/codesigned/" + id + "/" + string(f))
}

// AccountKey is where it is stored that there is an account a, as package account needs it.
func AccountKey(a kiln.AccountID) Key { return Key(string(a) + "/account/" + string(a)) }

// AccountOf returns the account that owns the record under k.
func AccountOf(k Key) kiln.AccountID {
	a, _, _ := strings.Cut(string(k), "/")
	return kiln.AccountID(a)
}

// AccessKeyKey is where an access key of account a is stored.
func AccessKeyKey(a kiln.AccountID, accessKeyID string) Key {
	return Key(string(a) + "/accesskey/" + accessKeyID)
}
