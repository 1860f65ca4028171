package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"kiln/kilntest"
	"kiln/worker/sandbox/gvisor"
	"kiln/worker/sandbox/sandboxtest"
)

// TestMain is kiln itself, with simulated sandboxes, where a kilntest.Simulated has started it.
func TestMain(m *testing.M) {
	duration := os.Getenv(kilntest.SimulatedDuration)
	if duration == "" {
		os.Exit(m.Run())
	}
	if err := runSimulated(duration, os.Getenv(kilntest.SimulatedCounter)); err != nil {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		os.Exit(1)
	}
}

// runSimulated does what the command line says with sandboxes in which every invocation takes so long, and which are counted in a file.
func runSimulated(duration, counter string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	c, err := sandboxtest.OpenCounter(counter)
	if err != nil {
		return err
	}
	e := simulated{&sandboxtest.Engine{Duration: d, Counter: c}}
	return run(func(string, *slog.Logger) (engine, error) { return e, nil })
}

// simulated is the engine of a machine.
type simulated struct{ *sandboxtest.Engine }

// Run implements engine.
func (simulated) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Usage implements engine. Simulated sandboxes use nothing.
func (simulated) Usage() (gvisor.Usage, error) { return gvisor.Usage{}, nil }
