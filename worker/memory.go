package worker

import "sync"

// Memory is what a node may promise to sandboxes, in MB. It is safe for concurrent use.
type Memory struct {
	total int

	mu       sync.Mutex
	reserved int // +checklocks:mu
}

// NewMemory returns memory of which nothing is promised.
func NewMemory(mb int) *Memory { return &Memory{total: mb} }

// Total is what may be promised in all.
func (m *Memory) Total() int { return m.total }

// Reserve promises mb, or reports that so much is not left.
func (m *Memory) Reserve(mb int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reserved+mb > m.total {
		return false
	}
	m.reserved += mb
	return true
}

// Release takes a promise of mb back.
func (m *Memory) Release(mb int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reserved < mb {
		panic("worker: more memory given back than was promised")
	}
	m.reserved -= mb
}

// Reserved is what is promised.
func (m *Memory) Reserved() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reserved
}
