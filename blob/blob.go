// Package blob keeps deployment packages under the digest of their content.
package blob

import (
	"context"
	"errors"
	"io"

	"kiln"
)

// ErrNotFound is returned for an object that is not stored.
var ErrNotFound = errors.New("no such object")

// Reader reads an object. Close it after use.
type Reader interface {
	io.Reader
	io.ReaderAt
	io.Closer
	// Size is the object's length in bytes.
	Size() int64
}

// Store keeps objects by account and digest. It is safe for concurrent use. Accounts see only what is theirs, even where the
// content is the same.
type Store interface {
	// Put stores content. When it returns nil the object survives a crash of the machine. Storing what is there does nothing.
	Put(ctx context.Context, a kiln.AccountID, content []byte) (kiln.Digest, error)
	// Open returns the object, or an error that wraps ErrNotFound.
	Open(ctx context.Context, a kiln.AccountID, d kiln.Digest) (Reader, error)
	// Delete removes an object; removing what is not there does nothing.
	Delete(ctx context.Context, a kiln.AccountID, d kiln.Digest) error
	// List returns every object of every account. It is for sweeping what nothing refers to.
	List(ctx context.Context, fn func(kiln.AccountID, kiln.Digest) error) error
}
