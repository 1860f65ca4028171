package blobtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"kiln"
	"kiln/blob"
)

// NewMemory returns an empty blob.Store that keeps everything in memory.
func NewMemory() blob.Store { return &memory{objects: make(map[name][]byte)} }

type name struct {
	account kiln.AccountID
	digest  kiln.Digest
}

type memory struct {
	mu      sync.Mutex
	objects map[name][]byte // +checklocks:mu
}

func (m *memory) Put(ctx context.Context, a kiln.AccountID, content []byte) (kiln.Digest, error) {
	d := kiln.DigestOf(content)
	if err := errors.Join(ctx.Err(), blob.Validate(a, d)); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[name{a, d}] = slices.Clone(content)
	return d, nil
}

func (m *memory) Open(ctx context.Context, a kiln.AccountID, d kiln.Digest) (blob.Reader, error) {
	if err := errors.Join(ctx.Err(), blob.Validate(a, d)); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	content, ok := m.objects[name{a, d}]
	if !ok {
		return nil, blob.ErrNotFound
	}
	return reader{bytes.NewReader(content)}, nil
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

func (m *memory) Delete(ctx context.Context, a kiln.AccountID, d kiln.Digest) error {
	if err := errors.Join(ctx.Err(), blob.Validate(a, d)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name{a, d})
	return nil
}

func (m *memory) List(ctx context.Context, fn func(kiln.AccountID, kiln.Digest) error) error {
	for _, n := range m.names() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(n.account, n.digest); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memory) names() (names []name) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.objects {
		names = append(names, n)
	}
	return names
}
