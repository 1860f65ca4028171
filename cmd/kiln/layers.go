package main

import (
	"context"
	"errors"
	"fmt"
)

// layer is a component that runs until its context ends.
type layer struct {
	name string
	run  func(ctx context.Context) error
}

// runLayers runs layers until ctx ends or one of them returns, and then ends them one by one in reverse order: a layer may use
// those before it for as long as it runs.
func runLayers(ctx context.Context, layers ...layer) error {
	base := context.WithoutCancel(ctx)
	ended := make(chan error, len(layers)) // one from each
	type running struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	var up []running
	for _, l := range layers {
		lctx, cancel := context.WithCancel(base)
		r := running{cancel, make(chan struct{})}
		up = append(up, r)
		go func() {
			defer close(r.done)
			err := l.run(lctx)
			switch {
			case err != nil:
				err = fmt.Errorf("%s: %w", l.name, err)
			case lctx.Err() == nil:
				err = fmt.Errorf("%s ended by itself", l.name)
			}
			ended <- err
		}()
	}
	var errs []error
	first := 0
	select {
	case <-ctx.Done():
	case err := <-ended:
		errs, first = append(errs, err), 1
	}
	for i := len(up) - 1; i >= 0; i-- {
		up[i].cancel()
		<-up[i].done
	}
	for range len(layers) - first {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}
