package kilntest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside says that the test binary runs in a network namespace of its own.
const inside = "KILN_TEST_NETWORK"

// Main runs the tests of m in a network namespace that stands for the machine's: nothing that they do is seen outside, and they reach
// nothing but what Internet makes.
func Main(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) != "" {
		if err := raise("lo"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The signal follows the thread that starts the process, which must therefore stay.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Outside runs a program where the machine's own network is, whose packages it downloads, and returns what it printed.
func Outside(cmd *exec.Cmd) (out []byte, err error) {
	if os.Getenv(inside) == "" {
		return cmd.CombinedOutput()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread, in another network, is of no further use
		var own netns.NsHandle
		if own, err = netns.GetFromPid(os.Getppid()); err != nil {
			return
		}
		defer own.Close()
		if err = netns.Set(own); err == nil {
			out, err = cmd.CombinedOutput()
		}
	}()
	<-done
	return out, err
}

// The addresses of the machine and of its internet. All of the internet's answer the machine, so that what does not arrive from elsewhere
// was dropped on the way.
const (
	MachineAddr  = "203.0.113.2"
	GatewayAddr  = "203.0.113.1"
	ServerAddr   = "198.51.100.7"
	PrivateAddr  = "10.1.2.3"
	CGNATAddr    = "100.100.100.200"
	MetadataAddr = "169.254.169.254"
	AzureAddr    = "168.63.129.16"
)

// Outward is the machine's interface to the internet.
const Outward = "wan0"

// Internet makes, for the length of the test, a network namespace that is the internet of the machine, and returns it. The tests must run
// in Main. The test is skipped without root.
func Internet(t testing.TB) *os.File {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if os.Getenv(inside) == "" {
		t.Fatal("the test does not run in kilntest.Main")
	}
	if err := filters(); err != nil {
		t.Skipf("this machine has no nftables: %v", err)
	}
	ns := Namespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Outward
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "world", PeerNamespace: netlink.NsFd(int(ns.Fd()))}))
	out, err := netlink.LinkByName(Outward)
	must(t, err)
	t.Cleanup(func() { must(t, netlink.LinkDel(out)) })
	must(t, addAddrs(out, MachineAddr+"/24"))
	must(t, raise(Outward))
	must(t, InNamespace(ns, func() error {
		world, err := netlink.LinkByName("world")
		if err != nil {
			return err
		}
		err = addAddrs(world, GatewayAddr+"/24", ServerAddr+"/32", PrivateAddr+"/32", CGNATAddr+"/32", MetadataAddr+"/32", AzureAddr+"/32")
		return errors.Join(err, raise("world"))
	}))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: out.Attrs().Index, Gw: net.ParseIP(GatewayAddr)}))
	return ns
}

func filters() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

// AddAddr gives an internet one more address.
func AddAddr(t testing.TB, ns *os.File, addr string) {
	t.Helper()
	must(t, InNamespace(ns, func() error {
		world, err := netlink.LinkByName("world")
		if err != nil {
			return err
		}
		return addAddrs(world, addr+"/32")
	}))
}

// Namespace makes a network namespace, which ends with the test.
func Namespace(t testing.TB) *os.File {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	must(t, err)
	defer home.Close()
	made, err := netns.New()
	must(t, err)
	must(t, errors.Join(raise("lo"), netns.Set(home)))
	ns := os.NewFile(uintptr(made), "network namespace")
	t.Cleanup(func() { ns.Close() })
	return ns
}

// InNamespace calls f on a thread that is in the network namespace, or in this process' own if ns is nil.
func InNamespace(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	if err := netns.Set(netns.NsHandle(int(ns.Fd()))); err != nil {
		return err
	}
	return errors.Join(f(), netns.Set(home))
}

// Listen answers, until the test ends, every connection to a port of the namespace (nil: the machine) with the address that it comes from.
func Listen(t testing.TB, ns *os.File, port int) {
	t.Helper()
	var l net.Listener
	must(t, InNamespace(ns, func() (err error) {
		l, err = net.ListenTCP("tcp4", &net.TCPAddr{Port: port})
		return err
	}))
	serve(t, l, func(c net.Conn) {
		fmt.Fprint(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr())
	})
}

func serve(t testing.TB, l net.Listener, answer func(net.Conn)) {
	ended := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answer(c)
			c.Close()
		}
	}()
}

// AnswerNames serves the domain name system at an address of the namespace, until the test ends: every name has the address given, whatever is
// asked.
func AnswerNames(t testing.TB, ns *os.File, at, addr string) {
	t.Helper()
	var c *net.UDPConn
	must(t, InNamespace(ns, func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(at), Port: 53})
		return err
	}))
	ended := make(chan struct{})
	t.Cleanup(func() {
		c.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(nameAnswer(b[:n], net.ParseIP(addr).To4()), from)
		}
	}()
}

// nameAnswer is the answer to a query with one question: an address if one of version 4 is asked for, else nothing.
func nameAnswer(query []byte, addr []byte) []byte {
	const header = 12
	end := header + strings.IndexByte(string(query[header:]), 0) + 5
	a := append([]byte(nil), query[:end]...)
	a[2], a[3] = 0x81, 0x80 // an answer, without error
	clear(a[6:header])
	if query[end-3] == 1 {
		a[7] = 1
		a = append(a, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		a = append(a, addr...)
	}
	return a
}

// Dial connects from a namespace within the deadlines of d and returns what the other side says.
func Dial(ns *os.File, d net.Dialer, addr string) (answer string, err error) {
	err = InNamespace(ns, func() error {
		c, err := d.Dial("tcp4", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	return answer, err
}

func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddrs(link netlink.Link, addrs ...string) error {
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
