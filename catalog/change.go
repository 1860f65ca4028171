package catalog

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a commit, which every Store enforces. Lengths are in bytes.
const (
	MaxKey   = 1 << 10
	MaxValue = 1 << 20
	// MaxSealing is what a Store that stands before another may add to a value.
	MaxSealing = 64
	// MaxChanges is within what a NATS JetStream atomic batch takes.
	MaxChanges = 1000
	// MaxCommit bounds the keys and values of a commit together.
	MaxCommit = 8 << 20
)

// Validate returns an error that wraps ErrRefused unless changes may be passed to Commit: there is at least one, all are within
// the bounds, no key occurs twice, and all keys begin with the same account.
func Validate(changes []Change) error {
	if err := validate(changes); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

func validate(changes []Change) error {
	if n := len(changes); n == 0 || n > MaxChanges {
		return fmt.Errorf("commit of %d changes: want 1 to %d", n, MaxChanges)
	}
	account, _, _ := strings.Cut(string(changes[0].Key), "/")
	seen := make(map[Key]bool, len(changes))
	size := 0
	for _, c := range changes {
		owner, rest, _ := strings.Cut(string(c.Key), "/")
		switch {
		case owner == "" || rest == "":
			return fmt.Errorf("commit to key %.80q: want account/kind/name", c.Key)
		case owner != account:
			return errors.New("commit to keys of two accounts")
		case seen[c.Key]:
			return fmt.Errorf("commit to key %.80q twice", c.Key)
		case len(c.Key) > MaxKey:
			return fmt.Errorf("commit to key %.80q... of %d bytes: at most %d", c.Key, len(c.Key), MaxKey)
		case len(c.Value) > MaxValue+MaxSealing:
			return fmt.Errorf("commit of %d bytes to key %.80q: at most %d", len(c.Value), c.Key, MaxValue)
		}
		seen[c.Key] = true
		size += len(c.Key) + len(c.Value)
	}
	if size > MaxCommit {
		return fmt.Errorf("commit of %d bytes: at most %d", size, MaxCommit)
	}
	return nil
}
