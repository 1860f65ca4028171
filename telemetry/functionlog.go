// Package telemetry keeps what functions log and counts what a node does.
package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"kiln"
)

// Bounds of what is kept of the logs. What does not fit into memory is lost rather than hold up an invocation.
const (
	pendingBytes = 32 << 20
	// fileSize is where a function's log begins anew; one older file is kept beside it. A piece is what is appended at a time, so that
	// it is not exceeded by much.
	fileSize  = 16 << 20
	pieceSize = 1 << 20
	// gatherTime is how long lines wait for others to be written together with: to open a file for each invocation costs as much as a
	// tenth of what the node does for it.
	gatherTime = 20 * time.Millisecond
)

// FunctionLogs appends what functions log to a file per function, DIR/ACCOUNT/FUNCTION.log. It is safe for concurrent use.
type FunctionLogs struct {
	dir string
	log *slog.Logger
	// wake tells Run that there is something to write; one token is enough.
	wake    chan struct{}
	dropped atomic.Int64

	mu      sync.Mutex
	pending map[function][]byte // +checklocks:mu
	// bytes is the length of all that is pending.
	bytes int // +checklocks:mu
}

type function struct {
	account kiln.AccountID
	name    kiln.FunctionName
}

// NewFunctionLogs returns logs kept below dir, which is made when it is first needed. Run must be running for anything to be
// written.
func NewFunctionLogs(dir string, log *slog.Logger) *FunctionLogs {
	return &FunctionLogs{dir: dir, log: log, wake: make(chan struct{}, 1), pending: make(map[function][]byte)}
}

// Write takes whole lines of a function's log, which it copies, and returns at once. What is too much to keep is dropped and counted.
func (l *FunctionLogs) Write(a kiln.AccountID, f kiln.FunctionName, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes+len(text) > pendingBytes {
		l.dropped.Add(1)
		return
	}
	l.bytes += len(text)
	id := function{a, f}
	l.pending[id] = append(l.pending[id], text...)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Dropped is how many writes were lost because the disk could not keep up.
func (l *FunctionLogs) Dropped() int64 { return l.dropped.Load() }

// Run writes what is pending, a little later, until ctx ends, and then what is left.
func (l *FunctionLogs) Run(ctx context.Context) error {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for ctx.Err() == nil {
		select {
		case <-l.wake:
			wait.Reset(gatherTime)
		case <-wait.C:
			l.flush()
		case <-ctx.Done():
		}
	}
	l.flush()
	return nil
}

// flush writes all that is pending.
func (l *FunctionLogs) flush() {
	l.mu.Lock()
	pending := l.pending
	l.pending, l.bytes = make(map[function][]byte), 0
	l.mu.Unlock()
	for id, text := range pending {
		if err := l.write(id, text); err != nil {
			l.dropped.Add(1)
			l.log.Error("write function log", "account", id.account, "function", id.name, "err", err)
		}
	}
}

func (l *FunctionLogs) write(id function, text []byte) error {
	path := l.Path(id.account, id.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	for len(text) > 0 {
		n := piece(text)
		if err := appendTo(path, text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// piece is how much of text to append at a time: whole lines, if they are not too long.
func piece(text []byte) int {
	if len(text) <= pieceSize {
		return len(text)
	}
	if n := bytes.LastIndexByte(text[:pieceSize], '\n') + 1; n > 0 {
		return n
	}
	return pieceSize
}

func appendTo(path string, text []byte) error {
	if err := rotate(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		f.Close()
		return fmt.Errorf("append: %w", err)
	}
	return f.Close()
}

// Path is the file that the function's log is appended to.
func (l *FunctionLogs) Path(a kiln.AccountID, f kiln.FunctionName) string {
	return filepath.Join(l.dir, string(a), string(f)+".log")
}

func rotate(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.Size() < fileSize {
		return nil // a file that is not there yet is made by the open that follows, which reports anything worse
	}
	return os.Rename(path, path+".1")
}
