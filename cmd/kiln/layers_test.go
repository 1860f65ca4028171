package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestLayersEndInReverseOrder(t *testing.T) {
	var mu sync.Mutex
	var ended []string
	until := func(name string) layer {
		return layer{name, func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, name)
			return nil
		}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runLayers(ctx, until("store"), until("worker"), until("frontend")); err != nil {
		t.Fatal(err)
	}
	if want := []string{"frontend", "worker", "store"}; !slices.Equal(ended, want) {
		t.Errorf("ended in order %v", ended)
	}
}

func TestALayerThatFailsEndsAll(t *testing.T) {
	broken := errors.New("disk on fire")
	err := runLayers(t.Context(),
		layer{"store", func(ctx context.Context) error { <-ctx.Done(); return nil }},
		layer{"worker", func(context.Context) error { return broken }},
	)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "worker: ") {
		t.Errorf("got %v", err)
	}
	err = runLayers(t.Context(), layer{"worker", func(context.Context) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("got %v", err)
	}
}
