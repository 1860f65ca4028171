package frontend

import "sync"

// flight counts the requests in flight, until it is drained: from then on none enters.
type flight struct {
	mu sync.Mutex
	// +checklocks:mu
	n int
	// +checklocks:mu
	draining bool
	empty    chan struct{} // closed once draining and n is 0
}

func newFlight() *flight { return &flight{empty: make(chan struct{})} }

// enter says whether a request may go on; then it must leave.
func (f *flight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return false
	}
	f.n++
	return true
}

func (f *flight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	f.closeIfEmpty()
}

// drain lets nobody enter any more. Call it once.
func (f *flight) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining = true
	f.closeIfEmpty()
}

// +checklocks:f.mu
func (f *flight) closeIfEmpty() {
	if f.draining && f.n == 0 {
		close(f.empty)
	}
}
