package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kiln"
	"kiln/catalog"
	"kiln/control/account"
	"kiln/internal/local"
)

// accountManager manages accounts: those of a node that runs, or those in the data directory of one that does not.
type accountManager interface {
	Create(ctx context.Context, id kiln.AccountID) (catalog.AccessKey, error)
	List(ctx context.Context) ([]account.Account, error)
	CreateKey(ctx context.Context, id kiln.AccountID) (catalog.AccessKey, error)
	DeleteKey(ctx context.Context, id kiln.AccountID, key string) error
}

func accountCommand() *cobra.Command {
	var data, master string
	c := &cobra.Command{
		Use: "account", Short: "Manage the accounts of a node, whether it runs or not",
		Long: "Manage the accounts of a node, whether it runs or not.\n\n" +
			"Each account is a world of its own: its functions, layers and limits are seen by nobody else. New access keys are printed in the\n" +
			"form of the AWS shared credentials file, under a profile with the number of their account.",
	}
	c.PersistentFlags().StringVar(&data, "data", "/var/lib/kiln", "the node's directory of everything that is kept")
	c.PersistentFlags().StringVar(&master, "master-key", "", masterKeyUsage)
	// with lets do manage the accounts, and prints what it has to say.
	with := func(do func(ctx context.Context, m accountManager, out io.Writer, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			m, end, err := openAccounts(cmd.Context(), data, master)
			if err != nil {
				return err
			}
			return errors.Join(do(cmd.Context(), m, cmd.OutOrStdout(), args), end())
		}
	}
	key := &cobra.Command{Use: "key", Short: "Manage the access keys of an account"}
	key.AddCommand(
		&cobra.Command{Use: "create ACCOUNT", Short: "Make another access key", Args: cobra.ExactArgs(1), RunE: with(createKey)},
		&cobra.Command{Use: "delete ACCOUNT KEY", Short: "End an access key", Args: cobra.ExactArgs(2), RunE: with(deleteKey)},
	)
	c.AddCommand(
		&cobra.Command{Use: "create [ACCOUNT]", Short: "Make an account, of that number or a random one, with an access key", Args: cobra.MaximumNArgs(1), RunE: with(createAccount)},
		&cobra.Command{Use: "list", Short: "List the accounts and their access keys", Args: cobra.NoArgs, RunE: with(listAccounts)},
		key,
	)
	return c
}

func createAccount(ctx context.Context, m accountManager, out io.Writer, args []string) error {
	var id kiln.AccountID
	if len(args) > 0 {
		id = kiln.AccountID(args[0])
	}
	k, err := m.Create(ctx, id)
	if err != nil {
		return err
	}
	return printKey(out, k)
}

func createKey(ctx context.Context, m accountManager, out io.Writer, args []string) error {
	k, err := m.CreateKey(ctx, kiln.AccountID(args[0]))
	if err != nil {
		return err
	}
	return printKey(out, k)
}

func deleteKey(ctx context.Context, m accountManager, _ io.Writer, args []string) error {
	return m.DeleteKey(ctx, kiln.AccountID(args[0]), args[1])
}

func printKey(out io.Writer, k catalog.AccessKey) error {
	_, err := fmt.Fprintf(out, "[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", k.Account, k.ID, k.Secret)
	return err
}

func listAccounts(ctx context.Context, m accountManager, out io.Writer, _ []string) error {
	all, err := m.List(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "ACCOUNT\tCREATED\tACCESS KEYS\n")
	for _, a := range all {
		first := ""
		if len(a.Keys) > 0 {
			first = a.Keys[0]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", a.ID, a.Created.Format(time.RFC3339), first)
		for _, k := range a.Keys[min(1, len(a.Keys)):] {
			fmt.Fprintf(w, "\t\t%s\n", k)
		}
	}
	return w.Flush()
}

// masterKeyUsage describes a flag.
const masterKeyUsage = "`file` of the key by which everything about functions is encrypted; empty means DIR/" + masterKeyFile + ", which is made if it is not there"

// openAccounts returns the accounts of the node with that data directory. end must be called after their last use.
func openAccounts(ctx context.Context, data, master string) (m accountManager, end func() error, err error) {
	client, err := account.Dial(ctx, filepath.Join(data, accountsSocket))
	switch {
	case err == nil:
		return client, client.Close, nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(data, storeDir)); err != nil {
		return nil, nil, fmt.Errorf("no node has kept anything in %s yet: %w", data, err)
	}
	store, end, err := openStore(ctx, data, master, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return account.NewAccounts(store, nil), end, nil
}

// accounts serves who manages the accounts of a node that has a store.
func (n *node) accounts() (layer, error) {
	if n.store == nil {
		return layer{"accounts", func(ctx context.Context) error { <-ctx.Done(); return nil }}, nil
	}
	// The store is open, so that this is the only process that listens there.
	l, err := local.Listen(n.socket(accountsSocket))
	if err != nil {
		return layer{}, err
	}
	return layer{"accounts", account.NewServer(l, account.NewAccounts(n.store, nil), n.log).Run}, nil
}
