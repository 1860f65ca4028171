package kiln

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// Lineage is which functions have called one another until an invocation, and how often each was invoked: the Lineage field of the header
// X-Amzn-Trace-Id, "a87bd80c:1|68fd508a:5"
// (https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader).
type Lineage string

const (
	// MaxLoop is how often a function may be invoked in one lineage, unless it says that it wants to be invoked more often: about what AWS
	// has (https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html).
	MaxLoop = 16
	// maxAncestors bounds the functions of a lineage. Those that came first are forgotten.
	maxAncestors = 32
)

// Add returns the lineage of an invocation, by what has lineage l, of the function that function names among all, and how often it was invoked then. What is
// not of the form of a lineage is left out.
func (l Lineage) Add(function string) (Lineage, int) {
	const nameBytes = 4
	sum := sha256.Sum256([]byte(function))
	own, times := hex.EncodeToString(sum[:nameBytes]), 0
	var ancestors []string
	for each := range strings.SplitSeq(string(l), "|") {
		name, count, _ := strings.Cut(each, ":")
		n, err := strconv.ParseUint(count, 10, 16)
		if raw, bad := hex.DecodeString(name); err != nil || bad != nil || len(raw) != nameBytes || strings.ToLower(name) != name {
			continue
		}
		if name == own {
			times = max(times, int(n))
			continue
		}
		ancestors = append(ancestors, name+":"+strconv.FormatUint(n, 10))
	}
	times++
	ancestors = append(ancestors[max(0, len(ancestors)+1-maxAncestors):], own+":"+strconv.Itoa(times))
	return Lineage(strings.Join(slices.Clip(ancestors), "|")), times
}
