package network

import (
	"context"
	"errors"
	"fmt"

	"kiln/worker/sandbox"
)

// Engine starts the sandboxes of another engine, each in a network namespace of its own, which it has for its whole life.
type Engine struct {
	inner sandbox.Engine
	pool  *Pool
}

var _ sandbox.Engine = (*Engine)(nil)

// NewEngine returns an engine that starts the sandboxes of inner in namespaces of p.
func NewEngine(inner sandbox.Engine, p *Pool) *Engine { return &Engine{inner, p} }

// Start implements sandbox.Engine. The spec must name no network.
func (e *Engine) Start(ctx context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	if s.Network != nil {
		return nil, errors.New("the sandbox has a network already")
	}
	n, err := e.pool.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", s.ID, err)
	}
	s.Network = n.file
	b, err := e.inner.Start(ctx, s)
	if err != nil {
		e.pool.discard(n) // a process that could not be ended may be in it
		return nil, err
	}
	e.pool.taken.Go(func() {
		<-b.Done()
		if b.Destroy() != nil { // whoever ends the sandbox is told as well
			e.pool.discard(n)
			return
		}
		e.pool.giveBack(n)
	})
	return b, nil
}
