package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// uplinkPrefix begins the names of what kilns have in the machine's own namespace: links and tables.
	uplinkPrefix = "kiln-"
	// uplinkInside is the router's end of the link to the machine.
	uplinkInside = "uplink"
)

// idleTimeout is how long a connection is kept over which nothing goes, as by AWS's NAT gateways
// (https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-basics.html). No other connection is kept longer.
const idleTimeout = 350 * time.Second

// ResolverAddr is where sandboxes find their resolver. It is the one of Amazon's resolvers in a virtual private cloud.
var ResolverAddr = netip.AddrFrom4([4]byte{169, 254, 169, 253})

// router is a network namespace of a node, to which each of its sandboxes has a link, and which has one link to the machine. All that
// belongs to sandboxes is in it, and ends with it.
type router struct {
	node   string
	subnet subnet
	mtu    int
	file   *os.File
	handle *netlink.Handle
	claims []*claim
}

// openRouter makes the router of a node, in the place of what a killed kiln left of one.
func openRouter(node string, allow []netip.Prefix) (_ *router, err error) {
	lock, err := lockMachine()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	r := &router{node: node}
	if err := r.sweep(); err != nil {
		return nil, err
	}
	routes, err := hostRoutes()
	if err != nil {
		return nil, err
	}
	if r.subnet, err = chooseSubnet(append(routes.taken, allow...)); err != nil {
		return nil, err
	}
	r.mtu = routes.mtu
	defer func() {
		if err != nil {
			err = errors.Join(err, r.closeLocked())
		}
	}()
	if err := r.open(allow); err != nil {
		return nil, err
	}
	if err := r.connect(); err != nil {
		return nil, err
	}
	return r, r.expose(routes.outward(allow))
}

// sweep removes what an earlier kiln of this node left on the machine.
func (r *router) sweep() error {
	return errors.Join(deleteTable(0, r.uplink()), deleteLink(r.uplink()), releaseOrphans())
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil // its namespace has just ended
	}
	if err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

func (r *router) uplink() string { return uplinkPrefix + r.node }

// open makes the namespace and the rules in it.
func (r *router) open(allow []netip.Prefix) (err error) {
	settings := func() error {
		return errors.Join(
			writeSetting("/proc/sys/net/ipv4/ip_forward", "1"),
			writeSetting("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", strconv.Itoa(int(idleTimeout.Seconds()))),
		)
	}
	if r.file, err = newNamespace(settings); err != nil {
		return err
	}
	if r.handle, err = netlink.NewHandleAt(netns.NsHandle(int(r.file.Fd())), unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return fmt.Errorf("reach network namespace: %w", err)
	}
	lo, err := r.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	if err := r.handle.AddrReplace(lo, &netlink.Addr{IPNet: single(ResolverAddr)}); err != nil {
		return fmt.Errorf("add address of the resolver: %w", err)
	}
	return writeRouterRules(int(r.file.Fd()), allow)
}

// connect makes the link between the machine and the router.
func (r *router) connect() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = r.uplink(), r.mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: uplinkInside, PeerNamespace: netlink.NsFd(int(r.file.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s: %w", r.uplink(), err)
	}
	host, router := r.subnet.at(hostNumber), r.subnet.at(routerNumber)
	outside, err := netlink.LinkByName(r.uplink())
	if err != nil {
		return fmt.Errorf("find link %s: %w", r.uplink(), err)
	}
	inside, err := r.handle.LinkByName(uplinkInside)
	if err != nil {
		return fmt.Errorf("find link %s: %w", uplinkInside, err)
	}
	steps := []func() error{
		func() error { return withoutIPv6(r.uplink()) },
		func() error { return setForwarding(r.uplink(), true) },
		func() error {
			return netlink.AddrAdd(outside, &netlink.Addr{IPNet: single(host), Peer: single(router)})
		},
		func() error { return netlink.LinkSetUp(outside) },
		func() error { return r.handle.LinkSetMTU(inside, r.mtu) },
		func() error {
			return r.handle.AddrAdd(inside, &netlink.Addr{IPNet: single(router), Peer: single(host)})
		},
		func() error { return r.handle.LinkSetUp(inside) },
		func() error {
			return r.handle.RouteAdd(&netlink.Route{LinkIndex: inside.Attrs().Index, Gw: net.IP(host.AsSlice())})
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("connect %s: %w", r.uplink(), err)
		}
	}
	return nil
}

// expose lets the machine forward between the router and the interfaces that lead outward. The rules come first, so that an interface
// forwards for nobody else at any time.
func (r *router) expose(outward []string) error {
	h := hostRules{table: r.uplink(), uplink: r.uplink(), router: r.subnet.at(routerNumber)}
	for _, name := range outward {
		forwards, err := readForwarding(name)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(claimPath(name)); err == nil || !forwards {
			h.opened = append(h.opened, name)
		}
	}
	if err := h.write(0); err != nil {
		return err
	}
	for _, name := range h.opened {
		c, err := claimForwarding(name)
		if err != nil {
			return err
		}
		if c != nil {
			r.claims = append(r.claims, c)
		}
	}
	return nil
}

// close removes the router and all that it needs on the machine. No sandbox may use it any more.
func (r *router) close() error {
	lock, err := lockMachine()
	if err != nil {
		return err
	}
	defer lock.Close()
	return r.closeLocked()
}

func (r *router) closeLocked() error {
	var errs []error
	// The rules go last: they keep an interface from forwarding for others.
	errs = append(errs, deleteLink(r.uplink()))
	for _, c := range r.claims {
		errs = append(errs, c.release())
	}
	r.claims = nil
	errs = append(errs, deleteTable(0, r.uplink()))
	if r.handle != nil {
		r.handle.Close()
	}
	if r.file != nil {
		errs = append(errs, r.file.Close())
	}
	return errors.Join(errs...)
}

// add makes a namespace with a link to the router. It has no address yet.
func (r *router) add(link uint32) (_ *namespace, err error) {
	n := &namespace{link: link}
	if n.file, err = newNamespace(func() error { return nil }); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = linkName(link), r.mtu, hardwareAddr(routerEnd, link)
	err = r.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: insideName, PeerHardwareAddr: hardwareAddr(insideEnd, link), PeerNamespace: netlink.NsFd(int(n.file.Fd())),
	})
	if err == nil {
		err = r.raise(link)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add link %s: %w", attrs.Name, err), n.file.Close())
	}
	return n, nil
}

func (r *router) raise(link uint32) error {
	l, err := r.handle.LinkByName(linkName(link))
	if err != nil {
		return err
	}
	if err := r.handle.LinkSetARPOff(l); err != nil {
		return err
	}
	return r.handle.LinkSetUp(l)
}

// assign gives a namespace an address, in the place of the one that it had. A packet to that one, from a connection of the sandbox that had
// it, is dropped from then on.
func (r *router) assign(n *namespace, number uint32) error {
	link, err := r.handle.LinkByName(linkName(n.link))
	if err != nil {
		return fmt.Errorf("find link %s: %w", linkName(n.link), err)
	}
	at := r.subnet.at(number)
	steps := []func() error{
		func() error { return r.withdraw(link, n) },
		func() error {
			return r.handle.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(at), Scope: netlink.SCOPE_LINK})
		},
		func() error {
			return r.handle.NeighSet(neighbor(link, net.IP(at.AsSlice()), hardwareAddr(insideEnd, n.link)))
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("assign an address to %s: %w", linkName(n.link), err)
		}
	}
	n.number = number
	return r.prepare(n)
}

// withdraw takes the address from a namespace that it has, if any.
func (r *router) withdraw(link netlink.Link, n *namespace) error {
	if n.number == 0 {
		return nil
	}
	at := r.subnet.at(n.number)
	if err := r.handle.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(at), Scope: netlink.SCOPE_LINK}); err != nil {
		return err
	}
	return r.handle.NeighDel(neighbor(link, net.IP(at.AsSlice()), hardwareAddr(insideEnd, n.link)))
}

// forget drops the connections that the router tracks of the sandbox that had an address last. It takes some 10 ms, because the kernel goes
// through all connections that there could be.
func (r *router) forget(number uint32) error {
	filter := &netlink.ConntrackFilter{}
	if err := filter.AddIP(netlink.ConntrackOrigSrcIP, net.IP(r.subnet.at(number).AsSlice())); err != nil {
		return err
	}
	if _, err := r.handle.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
		return fmt.Errorf("forget connections of %v: %w", r.subnet.at(number), err)
	}
	return nil
}

// routeTable is what matters of the machine's routes.
type routeTable struct {
	// taken are the ranges of networks that the machine knows.
	taken []netip.Prefix
	// mtu is the longest packet that goes out.
	mtu int
	// by says through which interface a range is reached; all of the internet is 0.0.0.0/0.
	by []leadsTo
}

type leadsTo struct {
	to   netip.Prefix
	name string
}

const defaultMTU = 1500

// widest is the shortest prefix of somebody's own network. Shorter ones stand for the whole internet, as private networks split it to come
// before the default route.
const widest = 8

// hostRoutes reads the routes of the machine, of all tables.
func hostRoutes() (routeTable, error) {
	t := routeTable{mtu: defaultMTU}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return t, fmt.Errorf("read the machine's routes: %w", err)
	}
	for _, route := range routes {
		to := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if route.Dst != nil {
			if to, err = netip.ParsePrefix(route.Dst.String()); err != nil {
				return t, fmt.Errorf("read the machine's routes: %w", err)
			}
		}
		if to.Bits() >= widest {
			t.taken = append(t.taken, to)
		}
		if err := t.addInterface(to, route); err != nil {
			return t, err
		}
	}
	return t, nil
}

// addInterface notes the interfaces behind a route that leads away from the machine.
func (t *routeTable) addInterface(to netip.Prefix, route netlink.Route) error {
	if route.Type != unix.RTN_UNICAST {
		return nil
	}
	indexes := []int{route.LinkIndex}
	for _, hop := range route.MultiPath {
		indexes = append(indexes, hop.LinkIndex)
	}
	for _, index := range indexes {
		if index == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(index)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue // gone since
		}
		if err != nil {
			return fmt.Errorf("read the machine's links: %w", err)
		}
		t.by = append(t.by, leadsTo{to, link.Attrs().Name})
		if to.Bits() < widest {
			t.mtu = min(t.mtu, link.Attrs().MTU)
		}
	}
	return nil
}

// outward are the interfaces through which the internet and what is allowed besides are reached.
func (t routeTable) outward(allow []netip.Prefix) []string {
	var names []string
	for _, l := range t.by {
		wanted := l.to.Bits() < widest || slices.ContainsFunc(allow, l.to.Overlaps)
		if wanted && !slices.Contains(names, l.name) {
			names = append(names, l.name)
		}
	}
	return names
}
