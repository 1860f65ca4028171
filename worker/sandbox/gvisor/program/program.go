// Package program carries the program of the engine's processes within the binary that a node runs.
package program

import (
	"embed"
	"errors"
	"io"
	"io/fs"
)

// kiln-sandbox is built into this directory before bin/kiln is; without it this package still compiles.
//
//go:embed *
var files embed.FS

// Open returns cmd/kiln-sandbox, a static executable. It fails if this binary was built without one.
func Open() (io.ReadCloser, error) {
	f, err := files.Open("kiln-sandbox")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this binary was built without the program of its sandboxes: build it with `make build`")
	}
	return f, err
}
