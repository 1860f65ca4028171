package gvisor_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"kiln/worker/sandbox"
)

// insideAddr is the address of a sandbox with a network.
const insideAddr = "10.9.8.7"

// namespace makes a network namespace with one interface that leads nowhere, until the test ends. Prepare gives the interface the address
// that a sandbox takes off it.
func namespace(t testing.TB) (ns *os.File, prepare func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	must(t, err)
	defer home.Close()
	made, err := netns.New()
	must(t, err)
	must(t, netns.Set(home))
	h, err := netlink.NewHandleAt(made)
	must(t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	must(t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}))
	for _, name := range []string{"lo", "peer", "eth0"} {
		link, err := h.LinkByName(name)
		must(t, err)
		must(t, h.LinkSetUp(link))
	}
	ns = os.NewFile(uintptr(made), "network namespace")
	t.Cleanup(func() {
		h.Close()
		must(t, ns.Close())
	})
	link, err := h.LinkByName("eth0")
	must(t, err)
	addr, err := netlink.ParseAddr(insideAddr + "/32")
	must(t, err)
	return ns, func() { must(t, h.AddrReplace(link, addr)) }
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestASandboxHasTheAddressesOfItsNamespace(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	ns, prepare := namespace(t)
	for i := range 2 { // the second uses the namespace anew
		prepare()
		g := start(t, e, sandbox.Spec{ID: fmt.Sprintf("network%d", i), Root: root(t), Limits: limits(), Network: ns})
		if got := g.mustDo(t, "read", "/proc/net/dev"); !strings.Contains(got, "eth0:") {
			t.Errorf("its interfaces are %s", got)
		}
		if got := g.mustDo(t, "addresses"); !strings.Contains(got, insideAddr) {
			t.Errorf("its addresses are %s", got)
		}
		must(t, g.end())
	}
	g := start(t, e, sandbox.Spec{ID: "alone", Root: root(t), Limits: limits()})
	if got := g.mustDo(t, "addresses"); strings.Contains(got, insideAddr) || strings.Contains(got, "eth0") {
		t.Errorf("a sandbox without a network has %s", got)
	}
}

// BenchmarkStartWithANetwork measures starts with and without a network, one after the other.
func BenchmarkStartWithANetwork(b *testing.B) {
	e, _ := engine(b, b.TempDir())
	r := root(b)
	ns, prepare := namespace(b)
	took := map[string][]time.Duration{}
	for i := 0; b.Loop(); i++ {
		for kind, network := range map[string]*os.File{"none": nil, "network": ns} {
			prepare()
			begun := time.Now()
			g, err := tryStart(e, sandbox.Spec{ID: fmt.Sprintf("%s%d", kind, i), Root: r, Limits: limits(), Network: network})
			must(b, err)
			g.mustDo(b, "echo", "x")
			took[kind] = append(took[kind], time.Since(begun))
			must(b, g.end())
		}
	}
	for kind, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/10].Microseconds())/1000, "ms-"+kind+"-p10")
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "ms-"+kind+"-p50")
	}
}
