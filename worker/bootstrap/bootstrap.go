// Package bootstrap holds the programs that run inside a sandbox as the runtime process of the managed runtimes: they load a
// function's handler and answer invocations as AWS's own runtimes do, speaking the frames of package wire on descriptor 3.
package bootstrap

import "embed"

// The names of the programs in Files.
const (
	// Python is for Python 3.8 and newer.
	Python = "bootstrap.py"
	// NodeJS is for Node.js 16 and newer.
	NodeJS = "bootstrap.mjs"
)

// Files holds the programs. It cannot be changed.
//
//go:embed bootstrap.py bootstrap.mjs
var Files embed.FS
