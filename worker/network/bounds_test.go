package network

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kiln/kilntest"
)

// datagrams opens a socket for datagrams in a namespace, until the test ends.
func datagrams(t *testing.T, ns *os.File, local, remote netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	must(t, inNamespace(ns, func() (err error) {
		if !remote.IsValid() {
			c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(local))
			return err
		}
		var from *net.UDPAddr
		if local.IsValid() {
			from = net.UDPAddrFromAddrPort(local)
		}
		c, err = net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(remote))
		return err
	}))
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func TestASandboxSendsUnderItsOwnAddressOnly(t *testing.T) {
	ns := kilntest.Internet(t)
	p := open(t, Config{})
	a, b := take(t, p), take(t, p)
	server := datagrams(t, ns, netip.AddrPortFrom(netip.IPv4Unspecified(), echoPort), netip.AddrPort{})
	to := netip.AddrPortFrom(netip.MustParseAddr(kilntest.ServerAddr), echoPort)
	sub := subnetOf(t, p)
	for _, other := range []netip.Addr{sub.at(b.number), sub.at(routerNumber), netip.MustParseAddr("192.0.2.77")} {
		must(t, withHandle(a.file, func(h *netlink.Handle) error {
			link, err := h.LinkByName(insideName)
			if err != nil {
				return err
			}
			return h.AddrAdd(link, &netlink.Addr{IPNet: single(other)})
		}))
		_, err := datagrams(t, a.file, netip.AddrPortFrom(other, 0), to).Write([]byte("spoofed"))
		must(t, err)
	}
	// It goes the same way, and later.
	_, err := datagrams(t, a.file, netip.AddrPortFrom(sub.at(a.number), 0), to).Write([]byte("honest"))
	must(t, err)
	got := make([]byte, 100)
	n, _, err := server.ReadFromUDPAddrPort(got)
	if err != nil || string(got[:n]) != "honest" {
		t.Errorf("received %q, %v", got[:n], err)
	}
}

func TestPacketsAreSentAtABoundedRate(t *testing.T) {
	ns := kilntest.Internet(t)
	p := open(t, Config{})
	n := take(t, p)
	c := datagrams(t, n.file, netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr(kilntest.ServerAddr), 9))
	before := received(t, ns, "world")
	begun := time.Now()
	const sent = 4 * packetBurst
	for range sent {
		c.Write([]byte("x")) // nobody listens, and the next write says so
	}
	allowed := packetBurst + int(maxPackets*time.Since(begun).Seconds())
	if allowed > sent*9/10 {
		t.Skipf("this machine took %v for %d packets", time.Since(begun), sent)
	}
	if got := received(t, ns, "world") - before; got > allowed+100 || got < packetBurst/2 {
		t.Errorf("%d packets of %d arrived, %d may", got, sent, allowed)
	}
}

func TestConnectionsAreOpenedAtABoundedRate(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	p := open(t, Config{})
	n, peer := take(t, p), take(t, p)
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(kilntest.ServerAddr), 9))
	before := received(t, ns, "world")
	begun := time.Now()
	const opened = connectionBurst + 400
	must(t, inNamespace(n.file, func() error {
		for i := range opened {
			c, err := net.DialUDP("udp4", &net.UDPAddr{Port: 20000 + i}, to) // a port of its own, and so a connection
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	}))
	allowed := connectionBurst + int(newConnections*time.Since(begun).Seconds())
	if allowed > opened-100 {
		t.Skipf("this machine took %v for %d connections", time.Since(begun), opened)
	}
	if got := received(t, ns, "world") - before; got > allowed+10 || got < connectionBurst {
		t.Errorf("%d connections of %d were opened, %d may", got, opened, allowed)
	}
	if !reaches(t, peer.file, kilntest.ServerAddr, echoPort) {
		t.Error("the bound of one sandbox holds another back")
	}
}

// received is how many packets an interface of a namespace has got.
func received(t *testing.T, ns *os.File, name string) (packets int) {
	t.Helper()
	must(t, withHandle(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err == nil {
			packets = int(link.Attrs().Statistics.RxPackets)
		}
		return err
	}))
	return packets
}
