package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
	"kiln/api"
	apiremote "kiln/api/remote"
	"kiln/catalog"
	catalogremote "kiln/catalog/remote"
	"kiln/control/deploy"
	"kiln/fleet"
	fleetremote "kiln/fleet/remote"
	"kiln/frontend"
	"kiln/frontend/sigv4"
	"kiln/internal/constraint"
	"kiln/internal/local"
	"kiln/invoke/placement"
)

// The roles that a process may have. Without one it has all.
const (
	roleControl = "control"
	roleData    = "data"
	roleWorker  = "worker"
)

// The sockets of the control plane, below the data directory: one for the catalog, one for the operations that change it, one for who manages
// accounts.
const (
	catalogSocket    = "catalog.sock"
	operationsSocket = "operations.sock"
	accountsSocket   = "accounts.sock"
)

const (
	// functionsSocket is where the data role takes what functions ask of AWS's API.
	functionsSocket = "functions.sock"
	// workersDir has a directory for each worker, in which it listens on workerSocket.
	workersDir   = "workers"
	workerSocket = "worker.sock"
)

var workerPattern = constraint.MustPattern(`[a-z0-9-]{1,32}`)

func (o *options) validateRole() []error {
	var faults []error
	if !slices.Contains([]string{"", roleControl, roleData, roleWorker}, o.role) {
		faults = append(faults, fmt.Errorf("--role %s: want control, data or worker", o.role))
	}
	if o.role == roleWorker && !workerPattern.Matches(o.name) {
		faults = append(faults, fmt.Errorf("--name %q: want 1 to 32 lower case letters, digits or -", o.name))
	}
	if _, port, _ := net.SplitHostPort(o.listen); o.role == roleControl && o.endpoint == "" && port == "0" {
		faults = append(faults, errors.New("--role control: URLs of code need the port of the data role's --listen, or --endpoint"))
	}
	if (o.role == roleData || o.role == roleWorker) && o.masterKey != "" {
		faults = append(faults, errors.New("--master-key: the store is the control role's"))
	}
	if o.role == roleData && o.auth == authNone {
		faults = append(faults, errors.New("--role data: only --auth sigv4 tells whose requests are"))
	}
	return faults
}

func (n *node) socket(name string) string { return filepath.Join(n.data, name) }

// newControl returns the control plane, which is in this process.
func (n *node) newControl(urls *frontend.CodeURL) *deploy.Service {
	return deploy.New(deploy.Config{
		Store: n.store, Blobs: n.blobs, Region: kiln.Region(n.region), CodeURL: urls.URL, Concurrency: n.limits(), Log: n.log,
	})
}

// control returns the control plane, which is here or in the process that has its role.
func (n *node) control(urls *frontend.CodeURL) control {
	if n.role != roleData {
		c := n.newControl(urls)
		report := func(_ context.Context, all []catalog.ProvisionStatus) error { c.Provisioned(all); return nil }
		return control{c.Handlers(), n.restarted("control plane", maxPause, c.Run).run, report}
	}
	return control{
		// Of a control plane without a store only what its operations take is asked.
		handlers: apiremote.Forward(n.socket(operationsSocket), deploy.New(deploy.Config{}).Handlers()),
		run:      func(ctx context.Context) error { <-ctx.Done(); return nil },
		report:   catalogremote.NewClient(n.socket(catalogSocket)).Report,
	}
}

// control is the control plane, wherever it is.
type control struct {
	handlers []api.Handler
	run      func(context.Context) error
	// report tells it of provisioned concurrency.
	report func(context.Context, []catalog.ProvisionStatus) error
}

// serveControl runs the control plane alone, for the process that has the other role.
func (n *node) serveControl(ctx context.Context) error {
	urls, err := n.codeURLs()
	if err != nil {
		return err
	}
	// The store is open, so that this is the only process that listens there.
	records, err := local.Listen(n.socket(catalogSocket))
	if err != nil {
		return err
	}
	operations, err := local.Listen(n.socket(operationsSocket))
	if err != nil {
		_ = records.Close() // nothing was said over it
		return err
	}
	accounts, err := n.accounts()
	if err != nil {
		return err
	}
	c := n.newControl(urls)
	fmt.Printf("control plane in %s\n", n.data)
	return runLayers(ctx,
		n.restarted("control plane", maxPause, c.Run),
		accounts,
		layer{"catalog", catalogremote.NewServer(records, n.store, c.Provisioned, n.log).Run},
		layer{"operations", apiremote.NewServer(operations, c.Handlers(), n.log).Run},
	)
}

// backOfWorkers wires the workers of other processes as what is behind the frontend.
func (n *node) backOfWorkers(b *back, ended fleet.Ended) error {
	functions, err := local.Listen(n.socket(functionsSocket)) // the address that clients reach is this process's alone
	if err != nil {
		return err
	}
	workers := placement.New(ended)
	b.worker = workers
	b.lookup = func(ctx context.Context, id string) (sigv4.Credential, bool) { return lookupAmong(ctx, workers, id) }
	b.layers = []layer{
		{"workers", func(ctx context.Context) error { return n.join(ctx, workers) }},
		{"functions", func(ctx context.Context) error { return admit(ctx, functions, b.door) }},
	}
	return nil
}

// lookupAmong asks all workers for credentials.
func lookupAmong(ctx context.Context, workers *placement.Fleet, id string) (sigv4.Credential, bool) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for _, m := range workers.Members() {
		// A worker that cannot be asked has none that are good for anything.
		if b, err := m.(*fleetremote.Client).Lookup(ctx, id); err == nil && b.Known {
			return credentialOf(b)
		}
	}
	return sigv4.Credential{}, false
}

// joinEvery is how often it is looked for workers that have come.
const joinEvery = 200 * time.Millisecond

// join connects to the workers that there are, and to those that come, until ctx ends.
func (n *node) join(ctx context.Context, workers *placement.Fleet) error {
	var running sync.WaitGroup
	defer running.Wait()
	again := time.NewTicker(joinEvery)
	defer again.Stop()
	for {
		paths, _ := filepath.Glob(filepath.Join(n.data, workersDir, "*", workerSocket)) // the pattern is well formed
		joined := workers.Members()
		for _, path := range paths {
			name := filepath.Base(filepath.Dir(path))
			if joined[name] != nil {
				continue
			}
			c, err := dial(ctx, path)
			if err != nil {
				continue // it has ended, has not begun, or hangs
			}
			workers.Join(name, c)
			n.log.Info("worker joined", "worker", name)
			running.Go(func() {
				err := c.Run(ctx, workers.Ended)
				workers.Leave(name)
				n.log.Info("worker left", "worker", name, "err", err)
			})
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// askTime bounds what a worker is asked that it answers from memory.
const askTime = time.Second

func dial(ctx context.Context, path string) (*fleetremote.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return fleetremote.Dial(ctx, path)
}

// admit hands connections of functions to the frontend until ctx ends.
func admit(ctx context.Context, l *net.UnixListener, d *door) error {
	defer local.CloseWith(ctx, l)()
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept functions: %w", err)
		}
		if local.Check(conn) != nil {
			_ = conn.Close() // another user's
			continue
		}
		d.Take(conn)
	}
}

// serveWorker runs functions for the process that serves clients.
func (n *node) serveWorker(ctx context.Context) error {
	dir := filepath.Join(n.data, workersDir, n.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of worker: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	var server *fleetremote.Server // which asks the machine, which tells it
	p := &passage{path: n.socket(functionsSocket), conns: make(chan net.Conn, maxPassing)}
	m, err := n.newMachine(ctx, dir, p, func(id fleet.EnvironmentID) { server.Ended(id) })
	if err != nil {
		return err
	}
	admin, err := n.adminLayers()
	if err != nil {
		return err
	}
	listener, err := local.Listen(filepath.Join(dir, workerSocket))
	if err != nil {
		return errors.Join(err, n.closeAdmin())
	}
	server = fleetremote.NewServer(fleetremote.Config{
		Listener: listener, Worker: m.workers, Free: func() int { return m.memory.Total() - m.memory.Reserved() },
		Lookup: m.lookup, Drain: n.drain, Log: n.log,
	})
	n.metrics.Sample(m.sources.telemetry())
	view := catalog.NewView(catalog.ViewConfig{Store: n.source, Region: kiln.Region(n.region), Current: m.host.Expect, Log: n.log})
	layers := append(append(admin, layer{"functions", p.run}), m.layers...)
	return runLayers(ctx, append(layers,
		n.restarted("catalog view", maxViewPause, view.Run),
		layer{"fleet", func(ctx context.Context) error {
			announceRuntimes(m.host.Runtimes.IDs())
			n.announceMetrics()
			fmt.Printf("worker %s in %s\n", n.name, dir)
			return server.Run(ctx)
		}})...)
}

// lockFile takes the lock of a file, which the kernel gives back when the process ends in whatever way.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process has the lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// maxPassing is how many connections of functions wait to be taken.
const maxPassing = 32

// passage is an environment.API that takes connections to the process that serves clients.
type passage struct {
	path  string
	conns chan net.Conn // holds maxPassing
}

// Take implements environment.API.
func (p *passage) Take(conn net.Conn) {
	select {
	case p.conns <- conn:
	default:
		_ = conn.Close() // who opened it sees its end
	}
}

func (p *passage) run(ctx context.Context) error {
	var passing sync.WaitGroup
	defer passing.Wait()
	for {
		select {
		case conn := <-p.conns:
			passing.Go(func() { p.pass(ctx, conn) })
		case <-ctx.Done():
			return nil
		}
	}
}

// pass carries a connection until one of its ends is closed.
func (p *passage) pass(ctx context.Context, conn net.Conn) {
	defer local.CloseWith(ctx, conn)()
	up, err := local.Dial(ctx, p.path)
	if err != nil {
		return // nobody serves: the function sees the end of its connection
	}
	defer local.CloseWith(ctx, up)()
	var answers sync.WaitGroup
	answers.Go(func() {
		_, _ = io.Copy(conn, up) // it ends when either end does
		_ = conn.Close()
	})
	_, _ = io.Copy(up, conn)
	_ = up.Close()
	answers.Wait()
}
