package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Bounds of one sandbox. They are a multiple of what a function needs that does nothing but use the network, and a fraction of what a
// machine can bear.
const (
	// newConnections is how many connections a sandbox may open in a second, and connectionBurst how many at once: as many as it may
	// have descriptors.
	newConnections  = 100
	connectionBurst = 1024
	// maxConnections is how many of its connections may be tracked at a time: twice its descriptors, as those of UDP are tracked for
	// half a minute after their last packet. The kernel tracks 65,536 or more, and drops everybody's when they are used up.
	maxConnections = 2048
	// maxBytes is the throughput in either direction: 64 MB/s, of the order of what functions have on AWS. byteBurst lets a
	// connection reach it over a long way although what is beyond it is dropped and not queued.
	maxBytes  = 64 << 20
	byteBurst = 8 << 20
	// maxPackets is what maxBytes takes in packets of 1,400 bytes.
	maxPackets  = 50_000
	packetBurst = 10_000
)

const (
	dnsPort  = 53
	smtpPort = 25
)

// Values of `fib daddr type`.
const (
	typeLocal     = unix.RTN_LOCAL
	typeBroadcast = unix.RTN_BROADCAST
	typeAnycast   = unix.RTN_ANYCAST
	typeMulticast = unix.RTN_MULTICAST
)

// States of a tracked connection, as bits.
const (
	stateEstablished = expr.CtStateBitESTABLISHED
	stateRelated     = expr.CtStateBitRELATED
	stateNew         = expr.CtStateBitNEW
)

// register is where rules keep the value that they look at.
const register = unix.NFT_REG_1

// ruleset writes one table in one transaction.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

// newRuleset begins a table in the namespace that ns is a descriptor of, or in this process' own if ns is 0.
func newRuleset(ns int, name string) (*ruleset, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(ns))
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	return &ruleset{conn: conn, table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})}, nil
}

func (r *ruleset) commit() error {
	if r.err != nil {
		return fmt.Errorf("write table %s of nftables: %w", r.table.Name, r.err)
	}
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("write table %s of nftables: %w", r.table.Name, err)
	}
	return nil
}

// chain adds a chain of filters. What no rule decides is dropped if drop is set.
func (r *ruleset) chain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, drop bool) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	if drop {
		policy = nftables.ChainPolicyDrop
	}
	return r.conn.AddChain(&nftables.Chain{
		Name: name, Table: r.table, Hooknum: hook, Priority: priority, Type: nftables.ChainTypeFilter, Policy: &policy,
	})
}

func (r *ruleset) add(c *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: all})
}

// blockedSet adds the set of the addresses that no sandbox reaches.
func (r *ruleset) blockedSet(spans []span) *nftables.Set {
	s := &nftables.Set{Table: r.table, Name: "blocked", KeyType: nftables.TypeIPAddr, Interval: true}
	var elements []nftables.SetElement
	for _, sp := range spans {
		elements = append(elements, nftables.SetElement{Key: bytes4(sp.first)})
		if end := sp.last + 1; end != 0 { // the last span reaches to the end
			elements = append(elements, nftables.SetElement{Key: bytes4(end), IntervalEnd: true})
		}
	}
	if err := r.conn.AddSet(s, joinAdjacent(elements)); err != nil {
		r.err = err
	}
	return s
}

// joinAdjacent leaves out where one span ends and the next begins at once, which would be one key twice.
func joinAdjacent(elements []nftables.SetElement) []nftables.SetElement {
	var out []nftables.SetElement
	for _, e := range elements {
		if n := len(out); n > 0 && string(out[n-1].Key) == string(e.Key) {
			out = out[:n-1]
			continue
		}
		out = append(out, e)
	}
	return out
}

// perSandbox adds a set with a meter for each address of a sandbox, and returns what makes a rule go on for packets that are beyond it.
func (r *ruleset) perSandbox(name string, address []expr.Any, meter expr.Any) []expr.Any {
	s := &nftables.Set{Table: r.table, Name: name, KeyType: nftables.TypeIPAddr, Dynamic: true, Size: maxSandboxes}
	if err := r.conn.AddSet(s, nil); err != nil {
		r.err = err
	}
	return append(address, &expr.Dynset{
		SrcRegKey: register, SetID: s.ID, SetName: s.Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{meter},
	})
}

func bytes4(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// What follows are the parts of rules.

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

func drop() []expr.Any   { return verdict(expr.VerdictDrop) }
func accept() []expr.Any { return verdict(expr.VerdictAccept) }

func compare(op expr.CmpOp, value []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: register, Data: value}
}

// interfaceName compares a packet's interface with a name, or with the beginning of one.
func interfaceName(key expr.MetaKey, op expr.CmpOp, name string, whole bool) []expr.Any {
	value := []byte(name)
	if whole {
		value = append(value, 0)
	}
	return []expr.Any{&expr.Meta{Key: key, Register: register}, compare(op, value)}
}

func from(name string) []expr.Any {
	return interfaceName(expr.MetaKeyIIFNAME, expr.CmpOpEq, name, true)
}

func notTo(name string) []expr.Any {
	return interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, name, true)
}

func to(name string) []expr.Any {
	return interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpEq, name, true)
}

func source() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}}
}

func destination() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}}
}

func is(a netip.Addr) []expr.Any { return []expr.Any{compare(expr.CmpOpEq, a.AsSlice())} }

func isNot(a netip.Addr) []expr.Any { return []expr.Any{compare(expr.CmpOpNeq, a.AsSlice())} }

func in(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: register, SetName: s.Name, SetID: s.ID}}
}

// destinationType compares what the machine's routes say of a destination.
func destinationType(t uint32) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true},
		compare(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(t)),
	}
}

// spoofed is true of a source that the packet's interface does not lead to.
func spoofed() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		compare(expr.CmpOpEq, make([]byte, 4)),
	}
}

// state is true of packets of connections in any of the states.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
}

// tracked is true of all packets of a connection but the first. The state of one of UDP that is not answered stays new.
func tracked() []expr.Any {
	const confirmed = 1 << 3 // IPS_CONFIRMED of the kernel's nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(confirmed), Xor: make([]byte, 4),
		},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
}

func protocol(op expr.CmpOp, p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, compare(op, []byte{p})}
}

func port(p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, p)),
	}
}

func packetRate(rate uint64, burst uint32) expr.Any {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: burst, Over: true}
}

func byteRate() expr.Any {
	return &expr.Limit{Type: expr.LimitTypePktBytes, Rate: maxBytes, Unit: expr.LimitTimeSecond, Burst: byteBurst, Over: true}
}

// writeRouterRules writes the rules of a router, whose namespace ns is a descriptor of. All that it routes is from sandboxes to the
// uplink, and the answers.
func writeRouterRules(ns int, allow []netip.Prefix) error {
	r, err := newRuleset(ns, "kiln")
	if err != nil {
		return err
	}
	blocked := r.blockedSet(blocked(allow))
	r.routerPrerouting()
	open := r.opening()
	r.routerForward(blocked, open)
	r.routerInput(open)
	r.masquerade("postrouting", to(uplinkInside))
	return r.commit()
}

// routerPrerouting bounds what sandboxes send before it costs anything, connection tracking included.
func (r *ruleset) routerPrerouting() {
	c := r.chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, false)
	r.add(c, from(uplinkInside), accept())
	r.add(c, from("lo"), accept())
	r.add(c, spoofed(), drop())
	r.add(c, r.perSandbox("packets-out", source(), packetRate(maxPackets, packetBurst)), drop())
	r.add(c, r.perSandbox("bytes-out", source(), byteRate()), drop())
}

// opening adds the chain through which every packet goes that opens a connection.
func (r *ruleset) opening() []expr.Any {
	c := r.conn.AddChain(&nftables.Chain{Name: "opening", Table: r.table})
	r.add(c, r.perSandbox("rate", source(), packetRate(newConnections, connectionBurst)), drop())
	r.add(c, r.perSandbox("connections", source(), &expr.Connlimit{Count: maxConnections, Flags: expr.NFT_CONNLIMIT_F_INV}), drop())
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

// routerForward lets TCP and UDP through to the internet, as AWS does, and mail to nobody (https://aws.amazon.com/lambda/faqs/, "What
// restrictions apply to AWS Lambda function code?").
func (r *ruleset) routerForward(blocked *nftables.Set, open []expr.Any) {
	c := r.chain("forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, true)
	// To an address that nobody has any more.
	r.add(c, from(uplinkInside), to(uplinkInside), drop())
	r.add(c, from(uplinkInside), r.perSandbox("packets-in", destination(), packetRate(maxPackets, packetBurst)), drop())
	r.add(c, from(uplinkInside), r.perSandbox("bytes-in", destination(), byteRate()), drop())
	r.add(c, from(uplinkInside), state(stateEstablished|stateRelated), accept())
	r.add(c, from(uplinkInside), drop())
	r.add(c, notTo(uplinkInside), drop())
	r.add(c, destination(), in(blocked), drop())
	r.add(c, tracked(), accept())
	r.add(c, state(stateRelated), accept()) // that a packet came too late or was too long
	r.add(c, protocol(expr.CmpOpEq, unix.IPPROTO_TCP), port(smtpPort), drop())
	for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		r.add(c, protocol(expr.CmpOpEq, p), state(stateNew), open)
		r.add(c, protocol(expr.CmpOpEq, p), state(stateNew), accept())
	}
}

// routerInput lets sandboxes ask the resolver, and nothing else of the router.
func (r *ruleset) routerInput(open []expr.Any) {
	c := r.chain("input", nftables.ChainHookInput, nftables.ChainPriorityFilter, true)
	r.add(c, from("lo"), accept())
	r.add(c, from(uplinkInside), drop())
	r.add(c, tracked(), accept())
	for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		asked := append(append(destination(), is(ResolverAddr)...), append(protocol(expr.CmpOpEq, p), port(dnsPort)...)...)
		r.add(c, asked, state(stateNew), open)
		r.add(c, asked, state(stateNew), accept())
	}
}

func (r *ruleset) masquerade(chain string, which []expr.Any) {
	c := r.conn.AddChain(&nftables.Chain{
		Name: chain, Table: r.table, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Type: nftables.ChainTypeNAT,
	})
	r.add(c, which, []expr.Any{&expr.Masq{}})
}

// hostRules are the rules that a node has in the machine's own namespace.
type hostRules struct {
	table, uplink string
	// router is the address that everything comes from.
	router netip.Addr
	// opened are the interfaces that forward only since a kiln said so.
	opened []string
}

// write puts the rules in the place of what was there under their name, in the namespace that ns is a descriptor of or, if it is 0, in
// this process' own.
func (h hostRules) write(ns int) error {
	if err := deleteTable(ns, h.table); err != nil {
		return err
	}
	r, err := newRuleset(ns, h.table)
	if err != nil {
		return err
	}
	// Before the machine's own rules send it elsewhere: an address of the machine stays one of the machine.
	c := r.chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, false)
	r.add(c, from(h.uplink), source(), isNot(h.router), drop())
	for _, t := range []uint32{typeLocal, typeBroadcast, typeAnycast, typeMulticast} {
		r.add(c, from(h.uplink), destinationType(t), drop())
	}
	c = r.chain("input", nftables.ChainHookInput, nftables.ChainPriorityFilter, false)
	r.add(c, from(h.uplink), drop())
	c = r.chain("forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, false)
	r.add(c, from(h.uplink), accept())
	r.add(c, to(h.uplink), state(stateEstablished|stateRelated), accept())
	r.add(c, to(h.uplink), drop())
	for _, name := range h.opened {
		// Others' packets went no further before.
		r.add(c, from(name), interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, uplinkPrefix, false), drop())
	}
	r.masquerade("postrouting", append(append(source(), is(h.router)...), notTo(h.uplink)...))
	return r.commit()
}

// deleteTable removes a table, if it is there.
func deleteTable(ns int, name string) error {
	conn, err := nftables.New(nftables.WithNetNSFd(ns))
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list tables of nftables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			conn.DelTable(t)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete table %s of nftables: %w", name, err)
	}
	return nil
}
