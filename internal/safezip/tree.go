package safezip

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Bounds of names and of links' targets, in bytes: a part's is Linux's own, and the whole leaves room in PATH_MAX for where it
// is unpacked to. Every part costs a system call each time that a name is used.
const (
	maxName  = 1024
	maxPart  = 255
	maxParts = 64
)

// maxSteps bounds the work on all symbolic links of an archive, in parts of names looked at or moved. An honest link takes
// about ten.
const maxSteps = 2 << 20

// cleanName returns an entry's name without "." parts and a trailing slash, or why it is refused. The root is ".".
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("has no name")
	case len(name) > maxName:
		return "", fmt.Errorf("name is longer than %d bytes", maxName)
	case name[0] == '/':
		return "", errors.New("name is absolute")
	case strings.ContainsAny(name, "\\\x00"):
		return "", errors.New("name has a backslash or NUL")
	case len(name) > 1 && name[1] == ':' && isLetter(name[0]):
		return "", errors.New("name begins with a drive letter")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", errors.New(`name has a ".." part`)
		case len(part) > maxPart:
			return "", fmt.Errorf("part of the name is longer than %d bytes", maxPart)
		default:
			parts = append(parts, part)
		}
	}
	switch {
	case len(parts) == 0:
		return ".", nil
	case len(parts) > maxParts:
		return "", fmt.Errorf("name has more than %d parts", maxParts)
	}
	return strings.Join(parts, "/"), nil
}

func isLetter(b byte) bool { return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' }

// checkTarget returns why no symbolic link may have that target.
func checkTarget(target string) error {
	switch {
	case target == "":
		return errors.New("has no target")
	case target[0] == '/':
		return errors.New("target is absolute")
	case strings.ContainsAny(target, "\\\x00"):
		return errors.New("target has a backslash or NUL")
	}
	return nil
}

// node is a place in the tree.
type node struct {
	// kind is 0 for a file, fs.ModeDir or fs.ModeSymlink.
	kind   fs.FileMode
	target string
}

// tree holds every place in an archive by its clean name, directories included that have no entry.
type tree map[string]node

// add puts name and the directories above it into t. Only a directory may come twice, and only a directory has something below.
func (t tree) add(name string, kind fs.FileMode, limit int) error {
	if name == "." {
		if kind != fs.ModeDir {
			return errors.New("has no name")
		}
		return nil
	}
	if have, ok := t[name]; ok && (kind != fs.ModeDir || have.kind != fs.ModeDir) {
		return errors.New("occurs twice")
	}
	t[name] = node{kind: kind}
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		above, ok := t[name[:i]]
		if ok && above.kind != fs.ModeDir {
			return errors.New("lies below what is no directory")
		}
		if ok {
			break
		}
		t[name[:i]] = node{kind: fs.ModeDir}
	}
	if len(t) > limit {
		return fmt.Errorf("archive has more than %d entries", limit)
	}
	return nil
}

// resolve walks the link under name to its end as Linux would, and returns an error if the way leads above the root or goes on
// for too long. A link to nothing is no error. The work comes off the budget.
func (t tree) resolve(name string, budget *int) error {
	const maxHops = 40 // Linux's own.
	var at []string    // the way so far
	rest := strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if *budget--; *budget < 0 || len(at) > maxParts {
			return errors.New("leads too far")
		}
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return errors.New("leaves the tree")
			}
			at = at[:len(at)-1]
			continue
		}
		n := t[strings.Join(append(at, part), "/")]
		if n.kind != fs.ModeSymlink {
			at = append(at, part)
			continue
		}
		if hops++; hops > maxHops {
			return errors.New("goes through too many others")
		}
		rest = append(strings.Split(n.target, "/"), rest...)
		*budget -= len(rest)
	}
	return nil
}
