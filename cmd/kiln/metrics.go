package main

import (
	"kiln/invoke/assignment"
	"kiln/telemetry"
	"kiln/worker"
	"kiln/worker/environment"
	"kiln/worker/pool"
	"kiln/worker/sandbox/gvisor"
)

// sources are the parts of a node that metrics are read from.
type sources struct {
	engine   *gvisor.Engine
	spares   *pool.Pool[*environment.Spare]
	workers  *worker.Node
	memory   *worker.Memory
	logs     *telemetry.FunctionLogs
	assigner *assignment.Assigner
}

// telemetry is s as telemetry reads it.
func (s sources) telemetry() telemetry.Sources {
	return telemetry.Sources{
		Pool:         s.pool,
		Yielded:      s.spares.Yielded,
		Environments: s.environments,
		Queue:        s.assigner.Waiting,
		Memory:       func() (int, int) { return s.memory.Reserved(), s.memory.Total() },
		Sandboxes:    s.sandboxes,
		LogsDropped:  s.logs.Dropped,
	}
}

// pool adds the classes of each runtime up.
func (s sources) pool() map[string]telemetry.PoolSize {
	sizes := make(map[string]telemetry.PoolSize)
	for c, n := range s.spares.Waiting() {
		size := sizes[c.Runtime]
		size.Waiting += n
		sizes[c.Runtime] = size
	}
	for c, n := range s.spares.Goal() {
		size := sizes[c.Runtime]
		size.Goal += n
		sizes[c.Runtime] = size
	}
	return sizes
}

func (s sources) environments() map[string]int {
	states := make(map[string]int)
	for _, state := range []environment.State{environment.Starting, environment.Idle, environment.Busy, environment.Stopping} {
		states[state.String()] = 0
	}
	for state, n := range s.workers.States() {
		states[state.String()] += n
	}
	return states
}

func (s sources) sandboxes() (telemetry.SandboxUsage, error) {
	u, err := s.engine.Usage()
	return telemetry.SandboxUsage{MemoryBytes: u.MemoryBytes, CPU: u.CPU, OutOfMemory: u.OutOfMemory}, err
}
