package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"kiln/fleet"
	fleetremote "kiln/fleet/remote"
	"kiln/frontend/sigv4"
	"kiln/telemetry"
	"kiln/worker"
	"kiln/worker/artifact"
	"kiln/worker/environment"
	"kiln/worker/identity"
	"kiln/worker/network"
	"kiln/worker/pool"
	"kiln/worker/sandbox"
	"kiln/worker/sandbox/gvisor"
	"kiln/worker/sandbox/gvisor/program"
)

// machine is what runs functions in sandboxes of this machine.
type machine struct {
	host    *worker.Host
	memory  *worker.Memory
	workers *worker.Node
	issuer  *identity.Issuer
	sources sources
	layers  []layer
}

// engine makes the sandboxes of a machine while Run runs.
type engine interface {
	sandbox.Engine
	Run(ctx context.Context) error
	Usage() (gvisor.Usage, error)
}

// newEngine returns an engine with its files in dir.
type newEngine func(dir string, log *slog.Logger) (engine, error)

func newGVisor(dir string, log *slog.Logger) (engine, error) {
	return gvisor.New(gvisor.Config{Dir: dir, Program: program.Open, Log: log})
}

// newMachine wires a machine whose files are below dir. api takes what functions ask of AWS's API, and ended is told of environments that
// end by themselves.
func (n *node) newMachine(ctx context.Context, dir string, api environment.API, ended fleet.Ended) (*machine, error) {
	logs := telemetry.NewFunctionLogs(filepath.Join(dir, "logs"), n.log)
	engine, err := n.sandboxes(filepath.Join(dir, "sandboxes"), n.log)
	if err != nil {
		return nil, err
	}
	cache, err := artifact.Open(filepath.Join(dir, "code"), n.blobs, unpackedBytes)
	if err != nil {
		return nil, err
	}
	namespaces, err := n.network(dir)
	if err != nil {
		return nil, err
	}
	m := &machine{memory: worker.NewMemory(n.memory()), issuer: identity.NewIssuer()}
	if m.host, err = n.host(ctx, dir, cache, logs); err != nil {
		return nil, err
	}
	m.host.Engine, m.host.Identity, m.host.API = engine, m.issuer, api
	networks := layer{"network", func(ctx context.Context) error { <-ctx.Done(); return nil }}
	if namespaces != nil {
		m.host.Engine, networks.run = network.NewEngine(engine, namespaces), namespaces.Run
	}
	spares := pool.New(pool.Config[*environment.Spare]{
		Boot: m.host.BootSpare, Memory: m.memory, SpareMB: spareMB, MaxMB: n.pool(), Log: n.log,
	})
	m.host.Spares = spares
	m.workers = worker.New(worker.Config{Preparer: m.host, Memory: m.memory, Ended: ended, Observer: n.metrics, Log: n.log})
	m.sources = sources{engine: engine, spares: spares, workers: m.workers, memory: m.memory, logs: logs}
	m.layers = []layer{
		{"function logs", logs.Run},
		{"unpacked code", func(ctx context.Context) error { <-ctx.Done(); return cache.Close() }},
		networks,
		{"sandbox engine", engine.Run},
		{"sandbox pool", spares.Run},
		{"worker", m.workers.Run},
	}
	return m, nil
}

// lookup finds credentials that the machine's environments have.
func (m *machine) lookup(id string) fleetremote.Bearer {
	c, role, known := m.issuer.Lookup(id, time.Now())
	return fleetremote.Bearer{Account: role.Account, Role: role.ARN, Secret: c.Secret, SessionToken: c.SessionToken, Known: known}
}

func credentialOf(b fleetremote.Bearer) (sigv4.Credential, bool) {
	return sigv4.Credential{
		Account: b.Account, Secret: b.Secret, SessionToken: b.SessionToken, Expired: b.Account == "", Role: b.Role,
	}, b.Known
}
