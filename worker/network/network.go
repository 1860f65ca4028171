// Package network gives each sandbox a network namespace with a way to the internet and to nothing else.
//
// A node has one namespace of its own, the router. Each sandbox's namespace has one link, to the router; the router has one more, to the
// machine. What a sandbox may send is decided in the router, packet by packet, by nftables; the machine's own rules only see to it that
// nothing from the router is delivered to the machine itself, and translate the router's address. Namespaces have no names and are held by
// descriptors, so that the router, every sandbox's link and all of their rules end with the process, however it ends. What is left on the
// machine then, a table and a setting per outward interface, bears the node's name or a lock and is removed by the next start.
//
// Sandboxes have no IPv6 but ::1.
package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"
)

const (
	// defaultReady is how many namespaces wait by default: some for each runtime's pool.
	defaultReady = 8
	// takeTimeout bounds how long a sandbox waits for a namespace while they are made one after the other, some milliseconds each.
	takeTimeout = 10 * time.Second
	// refillPause keeps the making of a namespace from the start of the sandbox that took one, which waits for the same locks of the
	// kernel, as long as more than half are ready.
	refillPause = 100 * time.Millisecond
	// maxPause bounds the pause between two attempts to make a namespace.
	maxPause = 30 * time.Second
)

// Config says what a Pool gives sandboxes.
type Config struct {
	// Dir is the node's data directory, which tells it from other nodes on this machine.
	Dir string
	// Allow are private ranges that sandboxes may reach; see ValidateAllow.
	Allow []netip.Prefix
	// Ready is how many namespaces wait for a sandbox; 0 means 8.
	Ready int
	// Resolvers is the file that names the machine's resolvers; empty means /etc/resolv.conf.
	Resolvers string
	// Log is told of what an operator did not ask for; nil means nobody is.
	Log *slog.Logger
}

// Pool has network namespaces ready for sandboxes. Run must be running.
type Pool struct {
	cfg Config
	// ready are namespaces that can be taken, as many as its capacity says. Run closes it.
	ready chan *namespace

	mu sync.Mutex
	// used are namespaces whose sandboxes have ended, and that are to be prepared anew; the most that are kept is Config.Ready.
	used    []*namespace // +checklocks:mu
	numbers numbers      // +checklocks:mu
	// links is the number of the last link that was made.
	links uint32 // +checklocks:mu

	// taken wait for the sandboxes that have a namespace to end.
	taken sync.WaitGroup
}

// New returns a pool, which is empty until Run.
func New(cfg Config) (*Pool, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, errors.Join(errors.New("network: no directory given"), err)
	}
	cfg.Dir = dir
	if err := ValidateAllow(cfg.Allow); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if cfg.Ready == 0 {
		cfg.Ready = defaultReady
	}
	if cfg.Resolvers == "" {
		cfg.Resolvers = "/etc/resolv.conf"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Pool{cfg: cfg, ready: make(chan *namespace, cfg.Ready-1), numbers: numbers{next: firstSandbox}}, nil
}

// nodeName tells the nodes of a machine apart. An interface's name has room for it.
func nodeName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:4])
}

// Run removes what a killed predecessor left, opens the way to the internet and keeps namespaces ready until ctx ends. Every sandbox must
// have ended by then. When it returns nothing is left on the machine.
func (p *Pool) Run(ctx context.Context) (err error) {
	defer close(p.ready)
	r, err := openRouter(nodeName(p.cfg.Dir), p.cfg.Allow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	dns, err := openResolver(r, p.cfg.Resolvers)
	if err != nil {
		return err
	}
	names, cancel := context.WithCancel(context.WithoutCancel(ctx)) // sandboxes may ask for as long as there are any
	failed := make(chan error, 1)                                   // one value, so that its sender never waits
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop() // without names nobody would find the internet
		failed <- dns.run(names)
	})
	p.fill(ctx, r)
	if len(failed) == 0 {
		p.taken.Wait()
	}
	p.empty()
	cancel()
	wg.Wait()
	return <-failed
}

// fill keeps namespaces ready until ctx ends.
func (p *Pool) fill(ctx context.Context, r *router) {
	pause := time.Second
	for ctx.Err() == nil {
		if len(p.ready) > cap(p.ready)/2 {
			wait(ctx, refillPause)
		}
		n, err := p.make(r)
		if err == nil {
			pause = time.Second
			select {
			case p.ready <- n:
			case <-ctx.Done():
				p.discard(n)
			}
			continue
		}
		p.cfg.Log.Error("make network namespace", "pause", pause, "err", err)
		wait(ctx, pause)
		pause = min(2*pause, maxPause)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// make prepares a used namespace or, if there is none that is clean, a new one.
func (p *Pool) make(r *router) (*namespace, error) {
	for n := p.takeUsed(); n != nil; n = p.takeUsed() {
		err := p.assign(r, n)
		if err == nil {
			return n, nil
		}
		p.cfg.Log.Warn("a network namespace cannot be used again", "err", err)
	}
	n, err := r.add(p.nextLink())
	if err != nil {
		return nil, err
	}
	return n, p.assign(r, n)
}

func (p *Pool) nextLink() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links++
	return p.links
}

// assign gives a namespace an address that no sandbox had of which the router tracks connections. If it fails the namespace has ended.
func (p *Pool) assign(r *router, n *namespace) error {
	p.mu.Lock()
	number, tracked, err := p.numbers.take(time.Now())
	p.mu.Unlock()
	if err != nil {
		p.discard(n)
		return err
	}
	before := n.number
	if tracked {
		err = r.forget(number)
	}
	if err == nil {
		err = r.assign(n, number)
	}
	if before != 0 {
		p.giveNumber(before)
	}
	if err != nil {
		n.number = number
		p.discard(n)
	}
	return err
}

func (p *Pool) takeUsed() *namespace {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.used) == 0 {
		return nil
	}
	n := p.used[0]
	p.used = p.used[1:]
	return n
}

func (p *Pool) giveNumber(number uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.numbers.give(number, time.Now())
}

// take returns a namespace that nobody else has, and waits for one if need be.
func (p *Pool) take(ctx context.Context) (*namespace, error) {
	limit := time.NewTimer(takeTimeout)
	defer limit.Stop()
	select {
	case n, ok := <-p.ready:
		if !ok {
			return nil, errors.New("network has stopped")
		}
		return n, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-limit.C:
		return nil, fmt.Errorf("no network namespace was ready within %v", takeTimeout)
	}
}

// giveBack takes a namespace back in which no process is left.
func (p *Pool) giveBack(n *namespace) {
	p.mu.Lock()
	keep := len(p.used) < p.cfg.Ready
	if keep {
		p.used = append(p.used, n)
	}
	p.mu.Unlock()
	if !keep {
		p.discard(n)
	}
}

// discard ends a namespace, and its link to the router with it.
func (p *Pool) discard(n *namespace) {
	if err := n.file.Close(); err != nil {
		p.cfg.Log.Warn("close network namespace", "err", err)
	}
	if n.number != 0 {
		p.giveNumber(n.number)
	}
}

// empty ends the namespaces that no sandbox has.
func (p *Pool) empty() {
	for n := p.takeUsed(); n != nil; n = p.takeUsed() {
		p.discard(n)
	}
	for {
		select {
		case n := <-p.ready:
			p.discard(n)
		default:
			return
		}
	}
}
