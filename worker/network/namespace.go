package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// insideName is the name that a sandbox's interface has for the function.
const insideName = "eth0"

// namespace is a network namespace with one interface, which leads to the router. It has no name: it ends with the descriptors that are
// open on it and the processes in it, however they end.
type namespace struct {
	file *os.File
	// link is the number of its link, for its whole life.
	link uint32
	// number is that of its address within the subnet, which is another for each sandbox.
	number uint32
}

// newNamespace makes a network namespace and calls setup in it. The namespace has a loopback interface, which is up.
func newNamespace(setup func() error) (*os.File, error) {
	var file *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		// No interface but loopback gets an address by itself.
		if err := withoutIPv6("default"); err != nil {
			return err
		}
		var err error
		if file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		return setup()
	})
	if err == nil {
		err = raiseLoopback(file)
	}
	if err != nil && file != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, err
}

// withoutIPv6 turns IPv6 off for an interface, or for "default", those to come.
func withoutIPv6(name string) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil // the kernel has none
	}
	return writeSetting("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", "1")
}

func raiseLoopback(ns *os.File) error {
	return withHandle(ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find loopback interface: %w", err)
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring up loopback interface: %w", err)
		}
		return nil
	})
}

// inNamespace calls f on a thread that is in the namespace.
func inNamespace(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread calls f on a thread that nobody else uses meanwhile, and whose network namespace f may change.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		// A thread that does not find home stays locked, and ends.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// withHandle gives f a line to the kernel's links and routes of a namespace.
func withHandle(ns *os.File, f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("reach network namespace: %w", err)
	}
	defer h.Close()
	return f(h)
}

// hardwareAddr is the address of an end of a link: locally administered, different for each end.
func hardwareAddr(end byte, number uint32) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x6b, end, byte(number >> 16), byte(number >> 8), byte(number)}
}

const (
	insideEnd = iota
	routerEnd
)

func linkName(number uint32) string { return fmt.Sprintf("s%d", number) }

// prepare gives a namespace, new or used, the address and the routes with which gVisor finds it. gVisor takes them off the interface
// when it starts, and gives them to the sandbox's own network.
func (r *router) prepare(n *namespace) error {
	return withHandle(n.file, func(h *netlink.Handle) error {
		link, err := h.LinkByName(insideName)
		if err != nil {
			return fmt.Errorf("find %s: %w", insideName, err)
		}
		gateway := net.IP(r.subnet.at(gatewayNumber).AsSlice())
		steps := []func() error{
			func() error { return h.LinkSetUp(link) },
			func() error { return removeAddrs(h, link) },
			func() error { return h.AddrReplace(link, &netlink.Addr{IPNet: single(r.subnet.at(n.number))}) },
			func() error {
				return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway, Flags: int(netlink.FLAG_ONLINK)})
			},
			// Nobody asks for a hardware address: both ends are told.
			func() error { return h.NeighSet(neighbor(link, gateway, hardwareAddr(routerEnd, n.link))) },
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return fmt.Errorf("prepare network namespace: %w", err)
			}
		}
		return nil
	})
}

// removeAddrs removes what a sandbox that did not start has left.
func removeAddrs(h *netlink.Handle, link netlink.Link) error {
	addrs, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.AddrDel(link, &a); err != nil {
			return err
		}
	}
	return nil
}

func neighbor(link netlink.Link, ip net.IP, hardware net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: hardware}
}

// single is the range of one address.
func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: net.IP(a.AsSlice()), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
