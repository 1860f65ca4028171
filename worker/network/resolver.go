package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxQueries bounds the queries that wait for an answer; further ones are dropped, and asked again by who asked.
	maxQueries = 256
	// maxDNSConnections bounds the connections of TCP, over which long answers come; further ones wait to be accepted.
	maxDNSConnections = 64
	// maxMessage bounds a query or an answer in a datagram.
	maxMessage = 4096
	// askTimeout is how long one resolver of the machine may take. Stub resolvers wait for 5 s before they ask again.
	askTimeout = 2 * time.Second
	// connectionTimeout bounds a connection of TCP.
	connectionTimeout = 10 * time.Second
	// maxResolvers is how many of the machine's resolvers are asked, as in its own programs.
	maxResolvers = 3
	// maxResolversFile bounds what is read of the file that names them.
	maxResolversFile = 64 << 10
)

// resolver hands the questions of sandboxes to the machine's resolvers and the answers back. It listens in the router's namespace and
// asks from the machine's own, so that it does not matter where those are: at an address of loopback, as systemd-resolved is, or in a
// network that sandboxes do not reach. The file that names them is read for each question, because machines move.
type resolver struct {
	file string
	udp  *net.UDPConn
	tcp  *net.TCPListener
}

// openResolver opens the sockets of the resolver of a router.
func openResolver(r *router, file string) (*resolver, error) {
	d := &resolver{file: file}
	at := netip.AddrPortFrom(ResolverAddr, dnsPort)
	err := inNamespace(r.file, func() (err error) {
		if d.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		d.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open resolver: %w", err), d.close())
	}
	return d, nil
}

func (d *resolver) close() error {
	var errs []error
	if d.udp != nil {
		errs = append(errs, d.udp.Close())
	}
	if d.tcp != nil {
		errs = append(errs, d.tcp.Close())
	}
	return errors.Join(errs...)
}

// run answers until ctx ends.
func (d *resolver) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { d.close() })
	var wg sync.WaitGroup
	failed := make(chan error, 2) // one for each sender
	wg.Go(func() { failed <- d.serveUDP(ctx) })
	wg.Go(func() { failed <- d.serveTCP(ctx) })
	err := <-failed
	if stop() {
		err = errors.Join(err, d.close())
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("resolver: %w", err)
}

func (d *resolver) serveUDP(ctx context.Context) error {
	var queries sync.WaitGroup
	defer queries.Wait()
	slots := make(chan struct{}, maxQueries) // one element per query
	b := make([]byte, maxMessage)
	for {
		n, from, err := d.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		query := append([]byte(nil), b[:n]...)
		queries.Go(func() {
			defer func() { <-slots }()
			if answer := d.ask(ctx, query); answer != nil {
				_, _ = d.udp.WriteToUDPAddrPort(answer, from) // who asked asks again
			}
		})
	}
}

// ask returns the first answer of the machine's resolvers, or nil.
func (d *resolver) ask(ctx context.Context, query []byte) []byte {
	if len(query) < 2 {
		return nil
	}
	for _, server := range d.servers() {
		if answer, err := exchange(ctx, server, query); err == nil {
			return answer
		}
	}
	return nil
}

// exchange asks one resolver. An answer has the query's number, and comes to a port that nobody else can guess.
func exchange(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	answer := make([]byte, maxMessage)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return nil, err
		}
		if n >= 2 && binary.BigEndian.Uint16(answer) == binary.BigEndian.Uint16(query) {
			return answer[:n], nil
		}
	}
}

func (d *resolver) serveTCP(ctx context.Context) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	slots := make(chan struct{}, maxDNSConnections) // one element per connection
	for {
		slots <- struct{}{}
		conn, err := d.tcp.Accept()
		if err != nil {
			return err
		}
		connections.Go(func() {
			defer func() { <-slots }()
			d.relay(ctx, conn)
		})
	}
}

// relay connects a sandbox with the first of the machine's resolvers that takes it, until either has enough.
func (d *resolver) relay(ctx context.Context, inside net.Conn) {
	defer inside.Close()
	ctx, cancel := context.WithTimeout(ctx, connectionTimeout)
	defer cancel()
	outside := d.dial(ctx)
	if outside == nil {
		return
	}
	defer outside.Close()
	defer context.AfterFunc(ctx, func() { inside.Close(); outside.Close() })()
	var answers sync.WaitGroup
	defer answers.Wait()
	answers.Go(func() {
		defer inside.Close()            // so that the questions end with the answers
		_, _ = io.Copy(inside, outside) // who asked sees what is missing
	})
	_, _ = io.Copy(outside, inside)         // as above
	_ = outside.(*net.TCPConn).CloseWrite() // it fails on a connection that has ended
}

func (d *resolver) dial(ctx context.Context) net.Conn {
	dialer := net.Dialer{Timeout: askTimeout}
	for _, server := range d.servers() {
		if conn, err := dialer.DialContext(ctx, "tcp", server.String()); err == nil {
			return conn
		}
	}
	return nil
}

// servers are the machine's resolvers, in the order in which they are to be asked.
func (d *resolver) servers() []netip.AddrPort {
	f, err := os.Open(d.file)
	if err != nil {
		return []netip.AddrPort{defaultServer}
	}
	defer f.Close()
	return parseServers(io.LimitReader(f, maxResolversFile))
}

// defaultServer is asked where none is named (resolv.conf(5)).
var defaultServer = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)

func parseServers(r io.Reader) []netip.AddrPort {
	var servers []netip.AddrPort
	s := bufio.NewScanner(r)
	for s.Scan() && len(servers) < maxResolvers {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, dnsPort))
		}
	}
	if len(servers) == 0 {
		return []netip.AddrPort{defaultServer}
	}
	return servers
}
