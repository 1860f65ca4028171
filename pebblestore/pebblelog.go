package pebblestore

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// pebbleLog passes on what Pebble has to say.
type pebbleLog struct {
	log  *slog.Logger
	disk *disk
	// lastError is when a background error was logged last, in Unix nanoseconds.
	lastError atomic.Int64
}

func (l *pebbleLog) Infof(format string, args ...any) {
	l.log.Debug("pebble event", "detail", fmt.Sprintf(format, args...))
}

func (l *pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("pebble error", "detail", fmt.Sprintf(format, args...))
}

// Fatalf closes the database to writing and ends the calling goroutine: Pebble relies on it that Fatalf does not return. Goexit
// runs deferred calls, by which Pebble's background work releases its locks.
func (l *pebbleLog) Fatalf(format string, args ...any) {
	l.disk.fail(fmt.Errorf(format, args...))
	l.Errorf(format, args...)
	runtime.Goexit()
}

// backgroundError logs at most one error a second: Pebble tries a failed flush anew without a pause.
func (l *pebbleLog) backgroundError(err error) {
	now := time.Now().UnixNano()
	if last := l.lastError.Load(); now-last < int64(time.Second) || !l.lastError.CompareAndSwap(last, now) {
		return
	}
	l.log.Error("pebble background work", "err", err)
}

func (l *pebbleLog) corruption(info pebble.DataCorruptionInfo) {
	l.log.Error("stored data is corrupt", "file", info.Path, "err", info.Details)
}
