package frontend

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	"kiln"
)

var (
	traceRoot    = regexp.MustCompile(`^1-[0-9a-f]{8}-[0-9a-f]{24}$`)
	traceParent  = regexp.MustCompile(`^[0-9a-f]{16}$`)
	traceSampled = regexp.MustCompile(`^[01]$`)
)

// maxTrace bounds an X-Amzn-Trace-Id that is read at all; a longer one counts as absent. The longest lineage is half of it.
const maxTrace = 1 << 10

// traceID returns the X-Amzn-Trace-Id of an invocation: the parts of the caller's that are well-formed, and new ones for the
// rest. The caller's lineage is not in it.
func traceID(given string, now time.Time) (id string, lineage kiln.Lineage) {
	var root, parent, sampled string
	if len(given) <= maxTrace {
		for field := range strings.SplitSeq(given, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			switch {
			case name == "Root" && traceRoot.MatchString(value):
				root = value
			case name == "Parent" && traceParent.MatchString(value):
				parent = value
			case name == "Sampled" && traceSampled.MatchString(value):
				sampled = value
			case name == "Lineage":
				lineage = kiln.Lineage(value)
			}
		}
	}
	if root == "" {
		root, parent = fmt.Sprintf("1-%08x-%s", uint32(now.Unix()), randomHex(12)), ""
	}
	if parent == "" {
		parent = randomHex(8)
	}
	if sampled == "" {
		sampled = "0"
	}
	return "Root=" + root + ";Parent=" + parent + ";Sampled=" + sampled, lineage
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}
