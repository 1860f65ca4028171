package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kiln/kilntest"
)

const echoPort = 8080

// running is a pool that runs.
type running struct {
	*Pool
	// stop ends it.
	stop func()
}

// open runs a pool until the test ends.
func open(t *testing.T, cfg Config) running {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	p, err := New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return running{p, stop}
}

// taker is a pool.
type taker interface {
	take(context.Context) (*namespace, error)
}

func take(t *testing.T, p taker) *namespace {
	t.Helper()
	n, err := p.take(t.Context())
	must(t, err)
	return n
}

// dial connects from a namespace and returns what the other side says.
func dial(n *namespace, addr string, port int) (string, error) {
	return kilntest.Dial(n.file, net.Dialer{Timeout: 10 * time.Second}, net.JoinHostPort(addr, strconv.Itoa(port)))
}

// patience is how long a connection may take that must not come to be. Those that do take less than a millisecond.
const patience = 200 * time.Millisecond

// reaches reports whether a connection from a namespace succeeds within patience.
func reaches(t *testing.T, ns *os.File, addr string, port int) bool {
	t.Helper()
	_, err := kilntest.Dial(ns, net.Dialer{Timeout: patience}, net.JoinHostPort(addr, strconv.Itoa(port)))
	return err == nil
}

func dropped(t *testing.T, ns *os.File, addr string, port int) {
	t.Helper()
	if reaches(t, ns, addr, port) {
		t.Errorf("%s:%d can be reached", addr, port)
	}
}

// own is the namespace that stands for the machine's.
func own(t *testing.T) *os.File {
	t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestTheInternetIsReachedUnderTheMachinesAddress(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	n := take(t, open(t, Config{}))
	got, err := dial(n, kilntest.ServerAddr, echoPort)
	if err != nil || got != kilntest.MachineAddr {
		t.Errorf("the server sees %q, %v; want %s", got, err, kilntest.MachineAddr)
	}
}

func TestNothingElseIsReached(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	kilntest.Listen(t, ns, smtpPort)
	kilntest.Listen(t, nil, echoPort)
	p := open(t, Config{})
	a, b := take(t, p), take(t, p)
	must(t, inNamespace(b.file, func() error {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", echoPort))
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	if _, err := dial(a, kilntest.ServerAddr, echoPort); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{kilntest.PrivateAddr, kilntest.CGNATAddr, kilntest.MetadataAddr, kilntest.AzureAddr, kilntest.MachineAddr} {
		if !reaches(t, own(t), addr, echoPort) {
			t.Errorf("the machine itself does not reach %s", addr)
		}
		dropped(t, a.file, addr, echoPort)
	}
	sub := subnetOf(t, p)
	for _, addr := range []netip.Addr{sub.at(b.number), sub.at(hostNumber), sub.at(routerNumber), sub.at(gatewayNumber), ResolverAddr} {
		dropped(t, a.file, addr.String(), echoPort)
	}
	for _, addr := range []string{"224.0.0.1", "255.255.255.255", "203.0.113.255"} {
		dropped(t, a.file, addr, echoPort)
	}
	if !reaches(t, own(t), kilntest.ServerAddr, smtpPort) {
		t.Error("the machine itself does not reach the server's mail")
	}
	dropped(t, a.file, kilntest.ServerAddr, smtpPort)
}

func TestAPortThatTheMachinePassesOnIsNotReached(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	const published = 8081
	// What Docker does for a published port.
	r, err := newRuleset(0, "published")
	must(t, err)
	c := r.conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: r.table, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest, Type: nftables.ChainTypeNAT,
	})
	server := netip.MustParseAddr(kilntest.ServerAddr)
	r.add(c, protocol(expr.CmpOpEq, unix.IPPROTO_TCP), port(published), []expr.Any{
		&expr.Immediate{Register: unix.NFT_REG_1, Data: server.AsSlice()},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: []byte{echoPort >> 8, echoPort & 0xff}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG_1, RegProtoMin: unix.NFT_REG_2},
	})
	must(t, r.commit())
	defer deleteTable(0, "published")
	n := take(t, open(t, Config{}))
	if _, err := dial(n, kilntest.ServerAddr, echoPort); err != nil {
		t.Fatal(err)
	}
	if !reaches(t, n.file, "198.51.100.99", published) {
		t.Error("nothing is passed on: the test proves nothing")
	}
	dropped(t, n.file, kilntest.MachineAddr, published)
}

// subnetOf is the range of a running pool, read from the machine's routes.
func subnetOf(t *testing.T, p running) subnet {
	t.Helper()
	link, err := netlink.LinkByName(uplinkPrefix + nodeName(p.cfg.Dir))
	must(t, err)
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	must(t, err)
	a, ok := netip.AddrFromSlice(addrs[0].IP.To4())
	if !ok {
		t.Fatalf("address %v", addrs[0])
	}
	return subnet{netip.PrefixFrom(a, subnetBits).Masked()}
}

func TestAllowedRangesAreReached(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	n := take(t, open(t, Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24")}}))
	if got, err := dial(n, kilntest.PrivateAddr, echoPort); err != nil || got != kilntest.MachineAddr {
		t.Errorf("%q, %v", got, err)
	}
	dropped(t, n.file, kilntest.CGNATAddr, echoPort)
}

func TestNothingComesIn(t *testing.T) {
	ns := kilntest.Internet(t)
	p := open(t, Config{})
	n := take(t, p)
	kilntest.Listen(t, n.file, echoPort)
	before := received(t, n.file, insideName)
	sub := subnetOf(t, p)
	// Whoever is on the same network as the machine may send it packets for any address.
	must(t, withHandle(ns, func(h *netlink.Handle) error {
		return h.RouteAdd(&netlink.Route{Dst: single(sub.at(n.number)), Gw: net.ParseIP(kilntest.MachineAddr)})
	}))
	dropped(t, ns, sub.at(n.number).String(), echoPort)
	dropped(t, ns, sub.at(routerNumber).String(), dnsPort)
	dropped(t, own(t), sub.at(routerNumber).String(), dnsPort)
	router, err := netlink.LinkByName(uplinkPrefix + nodeName(p.cfg.Dir))
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: router.Attrs().Index, Dst: single(sub.at(n.number)), Gw: sub.at(routerNumber).AsSlice()}))
	dropped(t, own(t), sub.at(n.number).String(), echoPort)
	if got := received(t, n.file, insideName) - before; got != 0 {
		t.Errorf("%d packets came in", got)
	}
}

func TestTheMachineForwardsForNobodyElse(t *testing.T) {
	ns := kilntest.Internet(t)
	other := kilntest.Namespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "lan", PeerNamespace: netlink.NsFd(int(other.Fd()))}))
	defer deleteLink("lan0")
	lan, err := netlink.LinkByName("lan0")
	must(t, err)
	must(t, netlink.AddrAdd(lan, parseAddr(t, "192.168.7.1/24")))
	must(t, netlink.LinkSetUp(lan))
	must(t, withHandle(other, func(h *netlink.Handle) error {
		l, err := h.LinkByName("lan")
		if err != nil {
			return err
		}
		if err := h.AddrAdd(l, parseAddr(t, "192.168.7.2/24")); err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Gw: net.ParseIP("192.168.7.1")})
	}))
	kilntest.Listen(t, other, echoPort)
	must(t, setForwarding("lan0", true)) // so that an answer would find its way
	must(t, withHandle(ns, func(h *netlink.Handle) error {
		_, dst, _ := net.ParseCIDR("192.168.7.0/24")
		return h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(kilntest.MachineAddr)})
	}))
	p := open(t, Config{})
	take(t, p)
	if forwards, err := readForwarding(kilntest.Outward); err != nil || !forwards {
		t.Fatalf("%s forwards: %v, %v", kilntest.Outward, forwards, err)
	}
	dropped(t, ns, "192.168.7.2", echoPort)
	p.stop()
	must(t, setForwarding(kilntest.Outward, true))
	if !reaches(t, ns, "192.168.7.2", echoPort) {
		t.Error("it is not reached through a machine that forwards either")
	}
	must(t, setForwarding(kilntest.Outward, false))
}

func TestANamespaceIsUsedAnewWithAnotherAddress(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	p := open(t, Config{Ready: 1})
	n := take(t, p)
	_, err := dial(n, kilntest.ServerAddr, echoPort)
	must(t, err)
	// What gVisor does when it starts.
	must(t, withHandle(n.file, func(h *netlink.Handle) error {
		link, err := h.LinkByName(insideName)
		if err != nil {
			return err
		}
		return h.AddrDel(link, &netlink.Addr{IPNet: single(subnetOf(t, p).at(n.number))})
	}))
	if _, err := dial(n, kilntest.ServerAddr, echoPort); err == nil {
		t.Fatal("a namespace without an address reached the server")
	}
	before := n.number
	p.giveBack(n)
	for {
		again := take(t, p)
		if again != n {
			defer p.giveBack(again)
			continue
		}
		if _, err := dial(again, kilntest.ServerAddr, echoPort); err != nil || again.number == before {
			t.Errorf("with the address %d after %d: %v", again.number, before, err)
		}
		return
	}
}

func parseAddr(t *testing.T, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	must(t, err)
	return a
}

// machine is all that a pool could leave behind on the machine.
func machine(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		all = append(all, "link "+l.Attrs().Name)
	}
	conn, err := nftables.New()
	must(t, err)
	tables, err := conn.ListTables()
	must(t, err)
	for _, table := range tables {
		all = append(all, "table "+table.Name)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	for _, r := range routes {
		all = append(all, fmt.Sprintf("route %v", r.Dst))
	}
	settings, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/forwarding")
	must(t, err)
	for _, s := range settings {
		text, err := os.ReadFile(s)
		must(t, err)
		all = append(all, s+"="+strings.TrimSpace(string(text)))
	}
	claims, err := filepath.Glob(claimPath("*"))
	must(t, err)
	all = append(all, claims...)
	descriptors, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, d := range descriptors {
		if to, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && (strings.HasPrefix(to, "net:") || strings.HasPrefix(to, "socket:")) {
			all = append(all, "descriptor of "+to)
		}
	}
	slices.Sort(all)
	return all
}

func TestNothingIsLeftOnTheMachine(t *testing.T) {
	kilntest.Internet(t)
	before := machine(t)
	p, err := New(Config{Dir: t.TempDir()})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	var taken []*namespace
	for range 20 {
		taken = append(taken, take(t, p))
	}
	for _, n := range taken {
		p.giveBack(n)
	}
	cancel()
	must(t, <-ended)
	for _, thing := range machine(t) {
		if !slices.Contains(before, thing) {
			t.Errorf("left: %s", thing)
		}
	}
}

func TestTwoNodesShareAMachine(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	a := open(t, Config{})
	na := take(t, a)
	t.Run("while both run", func(t *testing.T) {
		b := open(t, Config{})
		nb := take(t, b)
		for _, n := range []*namespace{na, nb} {
			if _, err := dial(n, kilntest.ServerAddr, echoPort); err != nil {
				t.Error(err)
			}
		}
		if subnetOf(t, a) == subnetOf(t, b) {
			t.Error("both have the same addresses")
		}
		dropped(t, na.file, subnetOf(t, b).at(nb.number).String(), echoPort)
		dropped(t, na.file, subnetOf(t, b).at(routerNumber).String(), dnsPort)
	})
	if _, err := dial(na, kilntest.ServerAddr, echoPort); err != nil {
		t.Errorf("after the other's end: %v", err)
	}
}

func TestNamesAreAskedOfTheMachinesResolvers(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.AnswerNames(t, ns, kilntest.PrivateAddr, kilntest.ServerAddr)
	kilntest.AnswerNames(t, nil, "127.0.0.53", kilntest.MachineAddr)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	n := take(t, open(t, Config{Resolvers: file}))
	for resolver, want := range map[string]string{kilntest.PrivateAddr: kilntest.ServerAddr, "127.0.0.53": kilntest.MachineAddr} {
		must(t, os.WriteFile(file, []byte("# a comment\nnameserver "+resolver+"\n"), 0o600))
		if got := lookup(t, n, "example.com"); !slices.Equal(got, []string{want}) {
			t.Errorf("%s says %v, want %s", resolver, got, want)
		}
	}
}

// lookup asks the resolver of sandboxes.
func lookup(t *testing.T, n *namespace, name string) []string {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (c net.Conn, err error) {
		err = inNamespace(n.file, func() error {
			c, err = net.Dial("udp4", netip.AddrPortFrom(ResolverAddr, dnsPort).String())
			return err
		})
		return c, err
	}}
	addrs, err := r.LookupHost(t.Context(), name)
	must(t, err)
	return addrs
}

func TestManySandboxesComeAndGo(t *testing.T) {
	ns := kilntest.Internet(t)
	kilntest.Listen(t, ns, echoPort)
	p := open(t, Config{Ready: 2})
	var mu sync.Mutex
	busy := map[uint32]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				n, err := p.take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if busy[n.number] {
					t.Errorf("two sandboxes have the address %d", n.number)
				}
				busy[n.number] = true
				mu.Unlock()
				if _, err := dial(n, kilntest.ServerAddr, echoPort); err != nil {
					t.Error(err)
				}
				mu.Lock()
				delete(busy, n.number)
				mu.Unlock()
				p.giveBack(n)
			}
		})
	}
	wg.Wait()
}
