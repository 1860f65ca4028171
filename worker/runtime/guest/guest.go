// Package guest carries the guest program within the binary that a node runs.
package guest

import (
	"embed"
	"errors"
	"io/fs"
)

// kiln-guest is built into this directory before bin/kiln is; without it this package still compiles.
//
//go:embed *
var files embed.FS

// Program returns the guest, a static executable. It fails if this binary was built without one.
func Program() ([]byte, error) {
	b, err := files.ReadFile("kiln-guest")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this binary was built without its guest: build it with `make build`")
	}
	return b, err
}
