package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Check says whether this machine can give sandboxes a way to the internet. It tries all that is needed in a network namespace of its own
// and changes nothing. The error says what is missing and what to do; the text what may keep packets from getting through, or nothing.
func Check() (text string, err error) {
	if err := checkMachine(); err != nil {
		return "", err
	}
	routes, err := hostRoutes()
	if err != nil {
		return "", err
	}
	if len(routes.outward(nil)) == 0 {
		return "the machine has no default route: functions will reach nothing until kiln is started again with one", nil
	}
	return checkFirewall()
}

// checkMachine tries a link, the rules and the settings.
func checkMachine() error {
	ns, err := newNamespace(func() error { return writeSetting("/proc/sys/net/ipv4/ip_forward", "1") })
	if err != nil {
		return fmt.Errorf("%w; run kiln as root, with /proc/sys writable and a kernel with CONFIG_NET_NS", err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName(0)
	link := func(h *netlink.Handle) error { return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: insideName}) }
	if err := withHandle(ns, link); err != nil {
		return fmt.Errorf("add a pair of links: %w; load the kernel module veth", err)
	}
	rules := hostRules{table: uplinkPrefix, uplink: uplinkInside, router: netip.IPv4Unspecified(), opened: []string{insideName}}
	if err := errors.Join(writeRouterRules(int(ns.Fd()), nil), rules.write(int(ns.Fd()))); err != nil {
		return fmt.Errorf("%w; use a kernel with nftables (modules nf_tables, nft_ct, nft_limit, nft_connlimit, nft_fib_ipv4, nft_masq)", err)
	}
	if err := unix.Access(forwardingPath("all"), unix.W_OK); err != nil {
		return fmt.Errorf("set what interfaces forward: %w; make /proc/sys writable", err)
	}
	return nil
}

// checkFirewall looks for rules of the machine that drop whatever is forwarded and not named.
func checkFirewall() (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("reach nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return "", fmt.Errorf("list chains of nftables: %w", err)
	}
	for _, c := range chains {
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if drops && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Table.Family != nftables.TableFamilyIPv6 {
			return fmt.Sprintf("the chain %s of the table %s drops what is forwarded; let it accept what comes from and goes to interfaces %s*",
				c.Name, c.Table.Name, uplinkPrefix), nil
		}
	}
	if _, err := os.Stat("/proc/net/ip_tables_names"); err == nil {
		text, err := os.ReadFile("/proc/net/ip_tables_names")
		if err == nil && len(text) > 0 {
			return fmt.Sprintf("the machine has rules of iptables; if its chain FORWARD drops, let it accept what comes from and goes to interfaces %s+", uplinkPrefix), nil
		}
	}
	return "", nil
}
