package main

import (
	"kiln/invoke/assignment"
	"kiln/telemetry"
	"kiln/worker"
	"kiln/worker/environment"
	"kiln/worker/pool"
)

// sources are the parts of a node that metrics are read from. A process that has one role lacks those of the others: engine and what
// belongs to it, or assigner.
type sources struct {
	engine   engine
	spares   *pool.Pool[*environment.Spare]
	workers  *worker.Node
	memory   *worker.Memory
	logs     *telemetry.FunctionLogs
	assigner *assignment.Assigner
}

// telemetry is s as telemetry reads it.
func (s sources) telemetry() telemetry.Sources {
	var t telemetry.Sources
	if s.assigner != nil {
		t.Queue = s.assigner.Waiting
	}
	if s.engine != nil {
		t.Pool, t.Yielded, t.Environments, t.Sandboxes, t.LogsDropped = s.pool, s.spares.Yielded, s.environments, s.sandboxes, s.logs.Dropped
		t.Memory = func() (int, int) { return s.memory.Reserved(), s.memory.Total() }
	}
	return t
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
