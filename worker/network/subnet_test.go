package network

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func prefixes(t *testing.T, texts ...string) []netip.Prefix {
	t.Helper()
	var all []netip.Prefix
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		must(t, err)
		all = append(all, p)
	}
	return all
}

func TestASubnetOverlapsNothingThatTheMachineKnows(t *testing.T) {
	for name, c := range map[string]struct {
		taken []netip.Prefix
		want  string
	}{
		"nothing":                    {nil, "10.255.0.0/16"},
		"a part of the first":        {prefixes(t, "10.255.3.0/24"), "10.254.0.0/16"},
		"one address":                {prefixes(t, "10.255.0.1/32"), "10.254.0.0/16"},
		"all of the first range":     {prefixes(t, "10.0.0.0/8"), "172.31.0.0/16"},
		"all that companies use":     {prefixes(t, "10.0.0.0/8", "172.16.0.0/12"), "100.127.0.0/16"},
		"what is not private at all": {prefixes(t, "203.0.113.0/24"), "10.255.0.0/16"},
	} {
		if got, err := chooseSubnet(c.taken); err != nil || got.String() != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, c.want)
		}
	}
	if _, err := chooseSubnet(prefixes(t, "10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10")); err == nil {
		t.Error("there is one where there is none")
	}
}

func TestWhatIsAllowedIsNotBlocked(t *testing.T) {
	blocks := func(spans []span, addr string) bool {
		n := number(netip.MustParseAddr(addr))
		for _, s := range spans {
			if s.first <= n && n <= s.last {
				return true
			}
		}
		return false
	}
	all, some := blocked(nil), blocked(prefixes(t, "10.1.0.0/16", "192.168.0.0/16", "10.1.2.0/24"))
	for addr, want := range map[string][2]bool{
		"10.0.255.255": {true, true}, "10.1.0.0": {true, false}, "10.1.2.3": {true, false}, "10.1.255.255": {true, false}, "10.2.0.0": {true, true},
		"192.168.0.0": {true, false}, "192.168.255.255": {true, false}, "192.167.255.255": {false, false}, "8.8.8.8": {false, false},
		"169.254.169.254": {true, true}, "127.0.0.1": {true, true}, "255.255.255.255": {true, true}, "100.64.0.0": {true, true},
		"223.255.255.255": {false, false}, "0.0.0.0": {true, true}, "168.63.129.16": {true, true}, "168.63.129.17": {false, false},
	} {
		if got := [2]bool{blocks(all, addr), blocks(some, addr)}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	for i, s := range some {
		if s.last < s.first || i > 0 && s.first <= some[i-1].last {
			t.Errorf("spans %v", some)
		}
	}
}

func TestAnAddressRestsBeforeItIsUsedAgain(t *testing.T) {
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	n := numbers{next: firstSandbox}
	take := func(at time.Duration, want uint32, tracked bool) {
		t.Helper()
		if got, is, err := n.take(now.Add(at)); err != nil || got != want || is != tracked {
			t.Errorf("got %d, %v, %v, want %d, %v", got, is, err, want, tracked)
		}
	}
	take(0, firstSandbox, false)
	n.give(firstSandbox, now)
	take(rest-1, firstSandbox+1, false)
	take(rest, firstSandbox, false)
	n.give(firstSandbox, now.Add(rest))
	n.next = firstSandbox + maxSandboxes
	take(rest+1, firstSandbox, true)
	if _, _, err := n.take(now.Add(time.Hour)); err == nil {
		t.Error("there are more addresses than there are")
	}
}

func TestResolversAreReadAsByOtherPrograms(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "[127.0.0.1:53]",
		"# nameserver 1.1.1.1\n":                 "[127.0.0.1:53]",
		"nameserver 127.0.0.53\noptions edns0\n": "[127.0.0.53:53]",
		"search a b\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver\nnameserver x\nnameserver 1.1.1.1\nnameserver 9.9.9.9\n": "[10.0.0.1:53 [fd00::1]:53 1.1.1.1:53]",
	} {
		var got []string
		for _, s := range parseServers(strings.NewReader(text)) {
			got = append(got, s.String())
		}
		if "["+strings.Join(got, " ")+"]" != want {
			t.Errorf("%q: %v, want %s", text, got, want)
		}
	}
}
