package remote

import (
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"sync"
	"sync/atomic"
	"time"

	"kiln"
	"kiln/fleet"
	"kiln/internal/local"
)

// ErrLost is wrapped by the errors of calls to a worker whose process has ended, or that cannot be reached.
var ErrLost = errors.New("worker is lost")

// Client is a fleet.Worker in another process. When that ends, calls fail at once and so does every later one. It is safe for
// concurrent use. Run must be running.
type Client struct {
	calls *rpc.Client
	free  atomic.Int64
	// heard is how many answers have come.
	heard atomic.Int64
	// settling are pings, and calls that somebody is told of later.
	settling sync.WaitGroup
}

var _ fleet.Worker = (*Client)(nil)

// Dial connects to the worker that is served on the socket at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := local.Dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to worker: %w", err)
	}
	c := &Client{calls: rpc.NewClient(conn)}
	var free int
	if err := c.call(ctx, "Free", Nothing{}, &free); err != nil {
		return nil, errors.Join(err, c.calls.Close())
	}
	c.free.Store(int64(free))
	return c, nil
}

// Run tells of environments that have ended by themselves until ctx ends or the worker does, and closes the connection.
func (c *Client) Run(ctx context.Context, ended fleet.Ended) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.settling.Wait()
	defer c.calls.Close()
	defer cancel()
	c.settling.Go(func() { c.watch(ctx) })
	for {
		var ids []fleet.EnvironmentID
		if err := c.call(ctx, "Ended", Nothing{}, &ids); err != nil {
			return err
		}
		for _, id := range ids {
			ended(id)
		}
	}
}

const (
	// pingEvery is how often a worker is asked whether it is there, and pingTime for how long it may say nothing then: callers of one that
	// hangs are to know within seconds.
	pingEvery = 500 * time.Millisecond
	pingTime  = 1500 * time.Millisecond
)

// watch closes the connection when the worker does not answer any more, until ctx ends.
func (c *Client) watch(ctx context.Context) {
	again := time.NewTicker(pingEvery)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
		if c.ping(ctx) != nil {
			return
		}
	}
}

// ping asks the worker whether it is there, and closes the connection if nothing comes from it for pingTime. One that has so much to do that it
// is late with this answer is there, and answers others.
func (c *Client) ping(ctx context.Context) error {
	var free int
	answered := make(chan error, 1)                                             // one value, so that its sender never waits
	c.settling.Go(func() { answered <- c.call(ctx, "Free", Nothing{}, &free) }) // to send may block too
	silent := time.NewTicker(pingTime)
	defer silent.Stop()
	for heard := c.heard.Load(); ; {
		select {
		case err := <-answered:
			if err == nil {
				c.free.Store(int64(free))
			}
			return err
		case <-silent.C:
		}
		now := c.heard.Load()
		if now == heard {
			_ = c.calls.Close() // which ends what was asked
			return <-answered
		}
		heard = now
	}
}

// Free is the memory that the worker had not promised when it was last asked for something, in MB.
func (c *Client) Free() int { return int(c.free.Load()) }

// Lookup finds credentials that the worker has issued.
func (c *Client) Lookup(ctx context.Context, id string) (b Bearer, err error) {
	err = c.call(ctx, "Lookup", id, &b)
	return b, err
}

// call asks the worker. Its error is ctx's, or wraps ErrLost.
func (c *Client) call(ctx context.Context, method string, in, out any) error {
	call := c.calls.Go(service+"."+method, in, out, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		c.heard.Add(1)
	case <-ctx.Done():
		return ctx.Err()
	}
	if call.Error != nil {
		return fmt.Errorf("%w: %w", ErrLost, call.Error)
	}
	return nil
}

// Start implements fleet.Worker.
func (c *Client) Start(ctx context.Context, v *kiln.Version, why fleet.Initialization) (fleet.EnvironmentID, error) {
	var out Started
	// It is bounded by the worker itself. One that nobody waits for any more would be lost if it came after all.
	if err := c.call(context.WithoutCancel(ctx), "Start", Starting{*v, why}, &out); err != nil {
		return "", &kiln.Error{Kind: kiln.Unavailable, Message: "The worker that was to run the function has ended. Please try again.", Cause: err}
	}
	c.free.Store(int64(out.Free))
	return out.ID, out.Fault.err()
}

// Invoke implements fleet.Worker.
func (c *Client) Invoke(ctx context.Context, id fleet.EnvironmentID, inv kiln.Invocation) (kiln.Result, bool, error) {
	var out Invoked
	if err := c.call(ctx, "Invoke", Invoking{id, inv}, &out); err != nil {
		return kiln.Result{}, false, &kiln.Error{Kind: kiln.Unavailable, Message: "The worker that ran the function has ended. Please try again.", Cause: err}
	}
	return out.Result, out.Reusable, out.Fault.err()
}

// Settle implements fleet.Worker.
func (c *Client) Settle(id fleet.EnvironmentID, done func(reusable bool)) {
	c.settling.Go(func() {
		var reusable bool
		call := <-c.calls.Go(service+".Settle", id, &reusable, make(chan *rpc.Call, 1)).Done
		done(call.Error == nil && reusable)
	})
}

// Stop implements fleet.Worker.
func (c *Client) Stop(id fleet.EnvironmentID, why fleet.End) {
	var free int
	call := <-c.calls.Go(service+".Stop", Stopping{id, why}, &free, make(chan *rpc.Call, 1)).Done
	if call.Error == nil { // otherwise the environment has ended with its worker
		c.free.Store(int64(free))
	}
}
