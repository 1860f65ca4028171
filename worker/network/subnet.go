package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// forbidden are the addresses that no sandbox reaches unless they are allowed: what is not of the public internet
// (https://www.iana.org/assignments/iana-ipv4-special-registry), but for the ranges of documentation, which lead nowhere, and one public
// address at which a cloud answers its machines.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's metadata
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

// private are the forbidden ranges that an operator may allow, because somebody's own network may have them.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
}

// ValidateAllow returns every fault of a list of ranges that sandboxes may reach, joined.
func ValidateAllow(allow []netip.Prefix) error {
	var errs []error
	for _, a := range allow {
		switch {
		case !a.Addr().Is4():
			errs = append(errs, fmt.Errorf("%v: sandboxes have no IPv6", a))
		case a.Masked() != a:
			errs = append(errs, fmt.Errorf("%v: want the first address of the range, %v", a, a.Masked()))
		case !slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Bits() <= a.Bits() && p.Contains(a.Addr()) }):
			errs = append(errs, fmt.Errorf("%v: want a part of one of %v; the rest of the internet is allowed, and the machine's own and link-local addresses never are", a, private))
		}
	}
	return errors.Join(errs...)
}

// span is a range of IPv4 addresses, both ends included.
type span struct{ first, last uint32 }

func spanOf(p netip.Prefix) span {
	first := number(p.Masked().Addr())
	return span{first, first | uint32(1<<(32-p.Bits())-1)}
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// blocked is what is forbidden without what is allowed, ascending and without overlap.
func blocked(allow []netip.Prefix) []span {
	var spans []span
	for _, f := range forbidden {
		spans = append(spans, spanOf(f))
	}
	for _, a := range allow {
		spans = without(spans, spanOf(a))
	}
	slices.SortFunc(spans, func(a, b span) int { return int(int64(a.first) - int64(b.first)) })
	return spans
}

// without takes hole out of spans.
func without(spans []span, hole span) []span {
	var left []span
	for _, s := range spans {
		if hole.last < s.first || s.last < hole.first {
			left = append(left, s)
			continue
		}
		if s.first < hole.first {
			left = append(left, span{s.first, hole.first - 1})
		}
		if hole.last < s.last {
			left = append(left, span{hole.last + 1, s.last})
		}
	}
	return left
}

// subnetBits is the size of a node's range: 65,536 addresses, one for each sandbox.
const subnetBits = 16

// chooseSubnet returns a private range that overlaps none of taken. The upper ends of the ranges come first, because people begin at the
// lower ones.
func chooseSubnet(taken []netip.Prefix) (subnet, error) {
	for _, p := range []netip.Prefix{private[0], private[2], private[1]} {
		whole := spanOf(p)
		for first := whole.last &^ (1<<(32-subnetBits) - 1); first >= whole.first; first -= 1 << (32 - subnetBits) {
			c := netip.PrefixFrom(address(first), subnetBits)
			if !slices.ContainsFunc(taken, c.Overlaps) {
				return subnet{c}, nil
			}
		}
	}
	return subnet{}, errors.New("every private range of 65,536 addresses is in use by the machine's routes or named by --egress-allow")
}

// subnet is a node's range of addresses.
type subnet struct{ netip.Prefix }

// The first addresses of a range are for the links between the host, the router and the sandboxes.
const (
	hostNumber = 1 + iota
	routerNumber
	gatewayNumber
	// firstSandbox is the number of the first sandbox's address.
	firstSandbox = 16
)

// maxSandboxes is how many addresses for sandboxes there are.
const maxSandboxes = 1<<(32-subnetBits) - 1 - firstSandbox

func (s subnet) at(n uint32) netip.Addr { return address(number(s.Addr()) + n) }

// rest is how long an address is not used again: longer than the router tracks a connection over which nothing goes.
const rest = idleTimeout + time.Minute

// numbers are those of the addresses that no sandbox has.
type numbers struct {
	// free were in use, the one that was given back first comes first.
	free []freeNumber
	// next is the lowest number that was never used.
	next uint32
}

type freeNumber struct {
	number uint32
	since  time.Time
}

// take returns a number that has rested or, if there is none, one that was never used. Only if all are used up it returns one of which
// connections may be tracked.
func (n *numbers) take(now time.Time) (number uint32, tracked bool, err error) {
	rested := len(n.free) > 0 && now.Sub(n.free[0].since) >= rest
	switch {
	case !rested && n.next < firstSandbox+maxSandboxes:
		n.next++
		return n.next - 1, false, nil
	case len(n.free) == 0:
		return 0, false, errors.New("all addresses are in use")
	}
	number = n.free[0].number
	n.free = n.free[1:]
	return number, !rested, nil
}

func (n *numbers) give(number uint32, now time.Time) {
	n.free = append(n.free, freeNumber{number, now})
}
