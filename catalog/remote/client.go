package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"kiln/catalog"
	"kiln/internal/local"
)

// readBuffer lets a few dozen records of usual size come with one system call.
const readBuffer = 64 << 10

// Client is a catalog.Source: the one that a Server in another process of the node serves. It keeps no connection between calls, so it
// needs no end, and finds a server that was started anew.
type Client struct {
	path string
}

var _ catalog.Source = (*Client)(nil)

// NewClient returns a Client of what is served on the socket at path. Nobody need listen there yet.
func NewClient(path string) *Client { return &Client{path} }

// Get implements catalog.Source. It fails at once if nobody serves.
func (c *Client) Get(ctx context.Context, k catalog.Key) (catalog.Record, error) {
	var got catalog.Record
	err := c.call(ctx, opGet, k, nil, func(r *bufio.Reader) error {
		e, err := readEvent(r)
		if err == nil && e.Synced {
			err = fmt.Errorf("%w: another answer than a record", errProtocol)
		}
		got = e.Record
		return err
	})
	return got, err
}

// Watch implements catalog.Source. It returns an error when the server ends; what has changed until the next Watch is part of that.
func (c *Client) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	return c.call(ctx, opWatch, prefix, nil, func(r *bufio.Reader) error {
		for {
			e, err := readEvent(r)
			if err != nil {
				return err
			}
			if ctx.Err() != nil { // what has been read ahead is told nobody
				return ctx.Err()
			}
			if err := fn(e); err != nil {
				return told{err}
			}
		}
	})
}

// told is an error of the caller's own, which goes back as it came.
type told struct{ error }

// call asks the server, and lets read have the answer. It ends when ctx does.
func (c *Client) call(ctx context.Context, op byte, k catalog.Key, body []byte, read func(*bufio.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := c.exchange(ctx, op, k, body, read)
	if t, ok := errors.AsType[told](err); ok {
		return t.error
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("catalog of another process: %w", err)
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, op byte, k catalog.Key, body []byte, read func(*bufio.Reader) error) error {
	conn, err := local.Dial(ctx, c.path)
	if err != nil {
		return err
	}
	defer local.CloseWith(ctx, conn)()
	if err := writeRequest(conn, op, k, body); err != nil {
		return err
	}
	return read(bufio.NewReaderSize(conn, readBuffer))
}
