// Package telemetry keeps what functions log.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"kiln"
)

// Bounds of what is kept of the logs. A queue that is full loses lines rather than hold up an invocation.
const (
	queueLength = 1024
	queueBytes  = 32 << 20
	// fileSize is where a function's log begins anew; one older file is kept beside it.
	fileSize = 16 << 20
)

// FunctionLogs appends what functions log to a file per function, DIR/ACCOUNT/FUNCTION.log. It is safe for concurrent use.
type FunctionLogs struct {
	dir   string
	log   *slog.Logger
	queue chan lines
	// queued is the number of bytes in the queue.
	queued  atomic.Int64
	dropped atomic.Int64
}

type lines struct {
	account  kiln.AccountID
	function kiln.FunctionName
	text     []byte
}

// NewFunctionLogs returns logs kept below dir, which is made when it is first needed. Run must be running for anything to be
// written.
func NewFunctionLogs(dir string, log *slog.Logger) *FunctionLogs {
	return &FunctionLogs{dir: dir, log: log, queue: make(chan lines, queueLength)}
}

// Write queues whole lines of a function's log and returns at once. It keeps text. What does not fit into the queue is dropped
// and counted.
func (l *FunctionLogs) Write(a kiln.AccountID, f kiln.FunctionName, text []byte) {
	if l.queued.Add(int64(len(text))) <= queueBytes {
		select {
		case l.queue <- lines{a, f, text}:
			return
		default:
		}
	}
	l.queued.Add(-int64(len(text)))
	l.dropped.Add(1)
}

// Dropped is how many writes were lost because the disk could not keep up.
func (l *FunctionLogs) Dropped() int64 { return l.dropped.Load() }

// Run writes what is queued until ctx ends, and then what is left in the queue.
func (l *FunctionLogs) Run(ctx context.Context) error {
	for {
		select {
		case e := <-l.queue:
			l.append(e)
		case <-ctx.Done():
			for len(l.queue) > 0 {
				l.append(<-l.queue)
			}
			return nil
		}
	}
}

func (l *FunctionLogs) append(e lines) {
	l.queued.Add(-int64(len(e.text)))
	if err := l.write(e); err != nil {
		l.dropped.Add(1)
		l.log.Error("write function log", "account", e.account, "function", e.function, "err", err)
	}
}

func (l *FunctionLogs) write(e lines) error {
	path := l.Path(e.account, e.function)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := rotate(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(e.text); err != nil {
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
