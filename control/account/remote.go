package account

import (
	"context"
	"log/slog"
	"net"
	"net/rpc"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/internal/local"
)

const (
	// serviceName is that of what is called over a connection, in the protocol of net/rpc.
	serviceName = "Accounts"
	// maxClients is how many connections are served at a time.
	maxClients = 16
	// callTime bounds what one call takes.
	callTime = 30 * time.Second
)

// Server lets other processes of this machine's operator manage the accounts of a node that runs.
type Server struct {
	listener *net.UnixListener
	accounts *Accounts
	log      *slog.Logger
}

// NewServer returns a server on l, which comes from local.Listen and which Run closes.
func NewServer(l *net.UnixListener, a *Accounts, log *slog.Logger) *Server { return &Server{l, a, log} }

// Run serves until ctx ends, or until the listener fails.
func (s *Server) Run(ctx context.Context) error {
	return local.Serve(ctx, s.listener, maxClients, s.log, func(ctx context.Context, conn *net.UnixConn) {
		server := rpc.NewServer()
		if err := server.RegisterName(serviceName, &calls{ctx, s.accounts}); err != nil {
			s.log.Error("serve who manages accounts", "err", err)
			return
		}
		server.ServeConn(conn)
	})
}

// calls are what net/rpc, which has no contexts, calls over one connection. ctx ends with that.
type calls struct {
	ctx      context.Context
	accounts *Accounts
}

func (c *calls) within(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.ctx, callTime)
	defer cancel()
	return call(ctx)
}

// Create is Accounts.Create.
func (c *calls) Create(id kiln.AccountID, key *catalog.AccessKey) error {
	return c.within(func(ctx context.Context) (err error) {
		*key, err = c.accounts.Create(ctx, id)
		return err
	})
}

// List is Accounts.List.
func (c *calls) List(_ struct{}, all *[]Account) error {
	return c.within(func(ctx context.Context) (err error) {
		*all, err = c.accounts.List(ctx)
		return err
	})
}

// CreateKey is Accounts.CreateKey.
func (c *calls) CreateKey(id kiln.AccountID, key *catalog.AccessKey) error {
	return c.within(func(ctx context.Context) (err error) {
		*key, err = c.accounts.CreateKey(ctx, id)
		return err
	})
}

// KeyName names an access key of an account.
type KeyName struct {
	Account kiln.AccountID
	Key     string
}

// DeleteKey is Accounts.DeleteKey.
func (c *calls) DeleteKey(k KeyName, _ *struct{}) error {
	return c.within(func(ctx context.Context) error { return c.accounts.DeleteKey(ctx, k.Account, k.Key) })
}

// Client manages the accounts of a node that runs in another process. Its errors are the texts of those of Accounts.
type Client struct{ rpc *rpc.Client }

// Dial connects to the Server on the socket at path. It fails at once if nobody listens there.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := local.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Client{rpc.NewClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.rpc.Close() }

func (c *Client) call(ctx context.Context, method string, in, out any) error {
	select {
	case done := <-c.rpc.Go(serviceName+"."+method, in, out, make(chan *rpc.Call, 1)).Done: // one value, so that nobody waits to send it
		return done.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Create is as Accounts.Create.
func (c *Client) Create(ctx context.Context, id kiln.AccountID) (k catalog.AccessKey, err error) {
	err = c.call(ctx, "Create", id, &k)
	return k, err
}

// List is as Accounts.List.
func (c *Client) List(ctx context.Context) (all []Account, err error) {
	err = c.call(ctx, "List", struct{}{}, &all)
	return all, err
}

// CreateKey is as Accounts.CreateKey.
func (c *Client) CreateKey(ctx context.Context, id kiln.AccountID) (k catalog.AccessKey, err error) {
	err = c.call(ctx, "CreateKey", id, &k)
	return k, err
}

// DeleteKey is as Accounts.DeleteKey.
func (c *Client) DeleteKey(ctx context.Context, id kiln.AccountID, key string) error {
	return c.call(ctx, "DeleteKey", KeyName{id, key}, new(struct{}))
}
