package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln"
	"kiln/blob"
	"kiln/catalog"
	catalogremote "kiln/catalog/remote"
	"kiln/catalog/sealed"
	"kiln/control/account"
	"kiln/fleet"
	"kiln/frontend"
	"kiln/frontend/sigv4"
	"kiln/invoke"
	"kiln/invoke/admission"
	"kiln/invoke/assignment"
	"kiln/invoke/provision"
	"kiln/pebblestore"
	"kiln/telemetry"
	"kiln/worker"
	"kiln/worker/artifact"
	"kiln/worker/bootstrap"
	"kiln/worker/network"
	"kiln/worker/runtime"
	"kiln/worker/runtime/guest"
)

// unpackedBytes bounds the unpacked code that a node keeps on disk.
const unpackedBytes = 10 << 30

const (
	// spareMB is what a sandbox that waits for its function is promised: its own processes and an interpreter that has started.
	spareMB = 64
	// spareShare is the part of the memory, one of that many, that sandboxes which wait may take unless another size is given.
	spareShare = 8
)

// codeKeyBytes is the length of the key that signs the URLs of deployment packages.
const codeKeyBytes = 32

const (
	// maxPause bounds the pause before a part that failed is run again.
	maxPause = 30 * time.Second
	// maxViewPause is that of the catalog's view, whose other process may be back any time.
	maxViewPause = time.Second
)

// Where code and the catalog are stored, and the key that the catalog is encrypted with, below the data directory.
const (
	blobDir       = "blobs"
	storeDir      = "catalog"
	masterKeyFile = "master.key"
)

// serve runs a node, or one role of it, until ctx ends.
func serve(ctx context.Context, o options, log *slog.Logger) error {
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	n := &node{options: o, log: log, metrics: telemetry.NewMetrics()}
	if o.role == roleData || o.role == roleWorker {
		n.source, n.blobs = catalogremote.NewClient(n.socket(catalogSocket)), blob.Attach(filepath.Join(o.data, blobDir))
	}
	switch o.role {
	case roleData:
		return n.serveData(ctx)
	case roleWorker:
		return n.serveWorker(ctx)
	}
	store, end, err := openStore(ctx, o.data, o.masterKey, log)
	if err != nil {
		return err
	}
	return errors.Join(n.serveStored(ctx, store), end())
}

// openStore opens the store in a data directory, which end closes. master is the path of the master key, "" for that in the directory.
func openStore(ctx context.Context, data, master string, log *slog.Logger) (store catalog.Store, end func() error, err error) {
	db, err := pebblestore.Open(filepath.Join(data, storeDir), pebblestore.Options{Logger: log})
	if err != nil {
		return nil, nil, err
	}
	store, err = sealed.Open(ctx, db.Catalog(), cmp.Or(master, filepath.Join(data, masterKeyFile)))
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, db.Close, nil
}

// serveStored runs a node, or its control plane, on a store.
func (n *node) serveStored(ctx context.Context, store catalog.Store) error {
	key, err := account.Ensure(ctx, store, n.data, n.first)
	if err != nil {
		return err
	}
	n.account = key.Account
	blobs, err := blob.Open(filepath.Join(n.data, blobDir))
	if err != nil {
		return err
	}
	n.store, n.source, n.blobs = store, store, blobs
	if n.role == roleControl {
		return n.serveControl(ctx)
	}
	return n.serveData(ctx)
}

// serveData runs everything that a request of a client meets first, and the control plane too if there is a store.
func (n *node) serveData(ctx context.Context) error {
	var err error
	if n.listener, err = net.Listen("tcp", n.listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	admin, err := n.adminLayers()
	if err != nil {
		return errors.Join(err, n.listener.Close())
	}
	layers, err := n.layers(ctx)
	if err != nil {
		return errors.Join(err, n.listener.Close(), n.closeAdmin())
	}
	// The lowest layer, so that it tells of a drain until that is over.
	return runLayers(ctx, append(admin, layers...)...)
}

// node is the parts of a node, in the order in which they come to be.
type node struct {
	options
	log *slog.Logger
	// account is that of requests which nobody authenticates.
	account kiln.AccountID
	// store is nil in a process that the control plane is not in.
	store    catalog.Store
	source   catalog.Source
	blobs    *blob.Dir
	listener net.Listener
	metrics  *telemetry.Metrics
	// adminListener is nil if there is to be none.
	adminListener net.Listener
}

// adminLayers opens the listener of the metrics, if there is to be one, and returns the layer that serves them.
func (n *node) adminLayers() ([]layer, error) {
	if n.admin == "" {
		return nil, nil
	}
	var err error
	if n.adminListener, err = net.Listen("tcp", n.admin); err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	return []layer{{"admin", telemetry.NewAdmin(n.adminListener, n.metrics, n.log).Run}}, nil
}

func (n *node) closeAdmin() error {
	if n.adminListener == nil {
		return nil
	}
	return n.adminListener.Close()
}

// layers wires the parts of a node, lowest first.
func (n *node) layers(ctx context.Context) ([]layer, error) {
	var assigner *assignment.Assigner // which asks the workers, which tell it
	back, err := n.back(ctx, func(id fleet.EnvironmentID) { assigner.Ended(id) })
	if err != nil {
		return nil, err
	}
	urls, err := n.codeURLs()
	if err != nil {
		return nil, err
	}
	accounts, err := n.accounts()
	if err != nil {
		return nil, err
	}
	control := n.control(urls)
	var keeper *provision.Keeper // which asks the assigner, which tells it
	var view *catalog.View       // as well
	assigner = assignment.New(assignment.Config{
		Worker: back.worker, IdleTimeout: n.idle, MaxAge: n.age, MaxWaiting: n.queue, MaxWait: n.queueWait, Observer: n.metrics,
		Lost: func() { keeper.Look() }, Used: back.used,
		Resolve: func(a kiln.AccountID, f kiln.FunctionName, q kiln.Qualifier) (*kiln.Version, error) {
			return view.Resolve(a, f, q)
		},
	})
	keeper = provision.New(provision.Config{Environments: assigner, Report: control.report, Log: n.log})
	back.sources.assigner = assigner
	n.metrics.Sample(back.sources.telemetry())
	limits := n.limits()
	limiter := admission.New(admission.Config{Concurrency: limits, Starts: n.starts, StartsPer: n.startsPer})
	view = catalog.NewView(catalog.ViewConfig{
		Store: n.source, Region: kiln.Region(n.region), Retired: assigner.Retire, Current: back.expect, Log: n.log,
		Reserved: func(a kiln.AccountID, f kiln.FunctionName, places *int) { limiter.Reserve(a, f, places, time.Now()) },
		Provisioned: func(a kiln.AccountID, f kiln.FunctionName, all []catalog.Provision) {
			limiter.Provision(a, f, provision.Places(all), time.Now())
			keeper.Set(a, f, all)
		},
	})
	invoker := invoker{&invoke.Service{
		Resolver: view, Limiter: limiter, Runner: assigner, Observer: n.metrics,
	}}
	server, err := frontend.New(frontend.Config{
		Listener: n.listener, Handlers: append(control.handlers, frontend.InvokeHandler(kiln.Region(n.region), invoker)),
		Verifier: n.verifier(view, back.lookup), Account: n.account, Code: n.blobs, CodeURL: urls,
		Requests: n.requests, Abandon: back.abandon, DrainTimeout: n.drain, Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	back.door.server = server
	return append(back.layers,
		accounts,
		layer{"assignment", assigner.Run},
		layer{"provisioned concurrency", keeper.Run},
		n.restarted("catalog view", maxViewPause, view.Run),
		layer{"control plane", control.run},
		layer{"frontend", func(ctx context.Context) error {
			select {
			case <-view.Synced():
			case <-ctx.Done():
				return n.listener.Close()
			}
			n.announce(back.runtimes)
			return server.Run(ctx)
		}},
	), nil
}

// back is what is behind the frontend: this machine's sandboxes, or the workers of other processes.
type back struct {
	worker fleet.Worker
	// expect is told of versions that may be called; nil means nobody is.
	expect  func(*kiln.Version)
	lookup  lookup
	abandon func()
	// used is the part of the memory that is promised, nil if that is not known.
	used     func() float64
	door     *door
	runtimes []string
	sources  sources
	layers   []layer
}

// lookup finds the temporary credentials with an identifier, and reports whether there were ever any.
type lookup func(ctx context.Context, id string) (sigv4.Credential, bool)

// back wires what is behind the frontend. ended is told of environments that end by themselves.
func (n *node) back(ctx context.Context, ended fleet.Ended) (*back, error) {
	b := &back{door: new(door)}
	if n.role == roleData {
		return b, n.backOfWorkers(b, ended)
	}
	m, err := n.newMachine(ctx, n.data, b.door, ended)
	if err != nil {
		return nil, err
	}
	b.worker, b.expect, b.abandon, b.sources, b.layers = m.workers, m.host.Expect, m.workers.Abandon, m.sources, m.layers
	b.runtimes = m.host.Runtimes.IDs()
	b.used = func() float64 { return float64(m.memory.Reserved()) / float64(m.memory.Total()) }
	b.lookup = func(_ context.Context, id string) (sigv4.Credential, bool) { return credentialOf(m.lookup(id)) }
	return b, nil
}

// network returns what gives sandboxes their way to the internet, or nil if they have none.
func (n *node) network(dir string) (*network.Pool, error) {
	if n.egress == egressNone {
		return nil, nil
	}
	return network.New(network.Config{Dir: dir, Allow: n.allowed(), Log: n.log})
}

// door leads from sandboxes to the frontend, which is made after what makes sandboxes and serves before any is made.
type door struct{ server *frontend.Server }

// Take implements environment.API.
func (d *door) Take(conn net.Conn) { d.server.Take(conn) }

// host finds what this machine has to run functions on.
func (n *node) host(ctx context.Context, dir string, cache *artifact.Cache, logs *telemetry.FunctionLogs) (*worker.Host, error) {
	runtimes, err := runtime.Find(ctx, runtime.Options{Path: n.path, Prefixes: n.prefixes()})
	if err != nil {
		return nil, err
	}
	program, err := guest.Program()
	if err != nil {
		return nil, err
	}
	root, err := runtime.BuildRoot(filepath.Join(dir, "root"), runtimes, program, bootstrap.Files)
	if err != nil {
		return nil, err
	}
	return &worker.Host{
		Region: kiln.Region(n.region), Runtimes: runtimes, Root: root, Code: cache, Logs: logs, Log: n.log,
	}, nil
}

func (n *node) verifier(view *catalog.View, temporary lookup) *sigv4.Verifier {
	if n.auth == authNone {
		return nil
	}
	return &sigv4.Verifier{
		Region: kiln.Region(n.region), Service: "lambda",
		Secrets: func(ctx context.Context, id string) (sigv4.Credential, bool) {
			if k, ok := view.AccessKey(id); ok {
				return sigv4.Credential{Account: k.Account, Secret: k.Secret}, true
			}
			return temporary(ctx, id)
		},
	}
}

// codeURLs makes the URLs of deployment packages with a key that stays the same over restarts.
func (n *node) codeURLs() (*frontend.CodeURL, error) {
	key, err := sharedKey(filepath.Join(n.data, "code-url.key"))
	if err != nil {
		return nil, fmt.Errorf("key of code URLs: %w", err)
	}
	return &frontend.CodeURL{Endpoint: n.endpoint(), Key: key}, nil
}

// sharedKey returns the key in a file, which is made if there is none: the same to all processes, whichever comes first.
func sharedKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == codeKeyBytes || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_ = os.Remove(path) // one that was cut short: what it signed is good for minutes only
	fresh := make([]byte, codeKeyBytes)
	rand.Read(fresh) // never fails: crypto/rand
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(temp, fresh, 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

// endpoint is where clients reach the node.
func (n *node) endpoint() string {
	if n.options.endpoint != "" {
		return strings.TrimSuffix(n.options.endpoint, "/")
	}
	if n.listener == nil {
		return "http://" + n.listen // of the process that serves clients; validate wants its port
	}
	return urlOf(n.listener)
}

// urlOf is the URL of what is served on l. An address that stands for all of the machine's becomes loopback's.
func urlOf(l net.Listener) string {
	addr := l.Addr().(*net.TCPAddr)
	if addr.IP.IsUnspecified() {
		return fmt.Sprintf("http://127.0.0.1:%d", addr.Port)
	}
	return "http://" + addr.String()
}

// announce says, on standard output, what a user needs to go on.
func (n *node) announce(runtimes []string) {
	announceRuntimes(runtimes)
	fmt.Printf("credentials: %s\n", filepath.Join(n.data, account.CredentialsFile))
	n.announceMetrics()
	fmt.Printf("serving on %s\n", n.endpoint())
}

// announceRuntimes says what functions may be written in, unless that is other processes' to tell.
func announceRuntimes(ids []string) {
	if len(ids) > 0 {
		fmt.Printf("runtimes: %s\n", strings.Join(ids, " "))
	}
}

func (n *node) announceMetrics() {
	if n.adminListener != nil {
		fmt.Printf("metrics on %s/metrics\n", urlOf(n.adminListener))
	}
}

// memory is what environments may be promised.
func (n *node) memory() int {
	if n.memoryMB > 0 {
		return n.memoryMB
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1024 // it fails for a bad pointer only
	}
	return int(info.Totalram * uint64(info.Unit) / 5 * 4 >> 20)
}

// pool is what sandboxes that wait for functions may be promised of it.
func (n *node) pool() int {
	if n.poolMB >= 0 {
		return n.poolMB
	}
	return n.memory() / spareShare
}

// invoker lets the frontend invoke.
type invoker struct{ service *invoke.Service }

// Invoke implements frontend.Invoker.
func (i invoker) Invoke(ctx context.Context, t frontend.Target, inv kiln.Invocation) (kiln.Result, *kiln.Version, error) {
	return i.service.Invoke(ctx, invoke.Target(t), inv)
}

// Check implements frontend.Invoker.
func (i invoker) Check(ctx context.Context, t frontend.Target) error {
	return i.service.Check(ctx, invoke.Target(t))
}

// Allows implements frontend.Invoker.
func (i invoker) Allows(ctx context.Context, t frontend.Target, a kiln.Access) bool {
	return i.service.Allows(ctx, invoke.Target(t), a)
}

// restarted runs a part again when it fails, until ctx ends: the rest of the node serves from what it has meanwhile. The pause
// between two runs doubles from a second to at most longest, and begins anew after a run that lasted.
func (n *node) restarted(name string, longest time.Duration, run func(context.Context) error) layer {
	return layer{name, func(ctx context.Context) error {
		for pause := time.Second; ; pause = min(2*pause, longest) {
			begun := time.Now()
			err := run(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if time.Since(begun) > longest {
				pause = time.Second
			}
			n.log.Error("part failed and is run again", "part", name, "pause", pause, "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
		}
	}}
}
