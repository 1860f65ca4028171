package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// acceptPause is how long nobody is accepted after that has failed.
const acceptPause = 100 * time.Millisecond

// Serve calls serve with each connection that comes on l, in a goroutine of its own, at most limit at a time: others wait in l. A
// connection of another user is closed instead, and logged. serve must return soon after its connection is closed, which happens when ctx
// ends, or after serve has returned. Serve closes l and returns when ctx has ended, with nil, or when l is closed by somebody else.
func Serve(ctx context.Context, l *net.UnixListener, limit int, log *slog.Logger, serve func(context.Context, *net.UnixConn)) error {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	defer CloseWith(ctx, l)()
	slots := make(chan struct{}, limit)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := accept(ctx, l, log)
		if conn == nil {
			return err
		}
		open.Go(func() {
			defer func() { <-slots }()
			defer CloseWith(ctx, conn)()
			if err := Check(conn); err != nil {
				log.Warn("refuse a connection", "socket", l.Addr().String(), "err", err)
				return
			}
			serve(ctx, conn)
		})
	}
}

// accept waits for a connection. It returns none, and no error, when ctx has ended.
func accept(ctx context.Context, l *net.UnixListener, log *slog.Logger) (*net.UnixConn, error) {
	for {
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, nil
		case errors.Is(err, net.ErrClosed):
			return nil, fmt.Errorf("accept on socket: %w", err)
		}
		log.Warn("accept on socket", "socket", l.Addr().String(), "err", err) // too many files are open, which passes
		select {
		case <-time.After(acceptPause):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// CloseWith closes c when ctx ends or, at the latest, when the function that it returns is called. Whoever uses c meanwhile is told by
// what it does.
func CloseWith(ctx context.Context, c io.Closer) (end func()) {
	closed := func() { c.Close() }
	stop := context.AfterFunc(ctx, closed)
	return func() {
		stop()
		closed()
	}
}
