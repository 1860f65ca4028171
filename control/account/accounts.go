package account

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"kiln"
	"kiln/catalog"
)

// MaxKeys is how many access keys an account may have.
const MaxKeys = 100

// The errors of Accounts that a caller can do something about.
var (
	ErrExists   = errors.New("the account is there already")
	ErrNotFound = errors.New("there is no such account or access key")
	ErrTooMany  = fmt.Errorf("the account has %d access keys, which is the maximum", MaxKeys)
	ErrInvalid  = errors.New("an account is a number of twelve digits")
)

// Account is one of a node's accounts.
type Account struct {
	ID      kiln.AccountID
	Created time.Time
	// Keys are the identifiers of its access keys.
	Keys []string
}

// Accounts are the accounts of a node and their access keys. It is safe for concurrent use.
type Accounts struct {
	store catalog.Store
	now   func() time.Time
}

// NewAccounts returns the accounts in a store. Nil for now means time.Now.
func NewAccounts(store catalog.Store, now func() time.Time) *Accounts {
	if now == nil {
		now = time.Now
	}
	return &Accounts{store, now}
}

// record is what is stored under catalog.AccountKey.
type record struct{ Created time.Time }

// Create makes an account with one access key. An id of "" means that it is chosen. It returns ErrExists if there is one, and ErrInvalid if
// there can be none.
func (a *Accounts) Create(ctx context.Context, id kiln.AccountID) (catalog.AccessKey, error) {
	if id == "" {
		id = randomID()
	}
	if !accountPattern.Matches(string(id)) {
		return catalog.AccessKey{}, ErrInvalid
	}
	k := Choice{Account: id}.complete()
	account, err := change(catalog.AccountKey(id), 0, record{a.now().UTC()})
	if err != nil {
		return catalog.AccessKey{}, err
	}
	key, err := change(catalog.AccessKeyKey(id, k.ID), 0, k)
	if err != nil {
		return catalog.AccessKey{}, err
	}
	_, err = a.store.Commit(ctx, account, key)
	if errors.Is(err, catalog.ErrConflict) {
		return catalog.AccessKey{}, ErrExists
	}
	if err != nil {
		return catalog.AccessKey{}, fmt.Errorf("create account %s: %w", id, err)
	}
	return k, nil
}

// randomID returns a number of twelve digits that does not begin with 0.
func randomID() kiln.AccountID {
	const least = 100_000_000_000
	n, err := rand.Int(rand.Reader, big.NewInt(9*least))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return kiln.AccountID(n.Add(n, big.NewInt(least)).String())
}

func change(k catalog.Key, at catalog.Revision, value any) (catalog.Change, error) {
	text, err := json.Marshal(value)
	return catalog.Change{Key: k, If: at, Value: text}, err
}

// List returns all accounts in the order of their numbers.
func (a *Accounts) List(ctx context.Context) ([]Account, error) {
	var all []Account
	for after := catalog.Key(""); ; {
		// The next record of another account. Keys begin with the account, and nothing that an account has sorts after this.
		page, err := a.store.List(ctx, "", after, 1)
		if err != nil {
			return nil, fmt.Errorf("list accounts: %w", err)
		}
		if len(page) == 0 {
			return all, nil
		}
		id := catalog.AccountOf(page[0].Key)
		found, err := a.find(ctx, id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil {
			all = append(all, found)
		}
		after = catalog.Key(id) + "/\xff"
	}
}

// find reads an account. It returns ErrNotFound if there is none.
func (a *Accounts) find(ctx context.Context, id kiln.AccountID) (Account, error) {
	if !accountPattern.Matches(string(id)) {
		return Account{}, ErrInvalid
	}
	r, err := a.store.Get(ctx, catalog.AccountKey(id))
	if err != nil {
		return Account{}, fmt.Errorf("read account %s: %w", id, err)
	}
	if r.Revision == 0 {
		return Account{}, ErrNotFound
	}
	var stored record
	if err := json.Unmarshal(r.Value, &stored); err != nil {
		return Account{}, fmt.Errorf("read account %s: %w", id, err)
	}
	found := Account{ID: id, Created: stored.Created}
	keys, err := a.store.List(ctx, catalog.AccessKeyKey(id, ""), "", MaxKeys+1)
	if err != nil {
		return Account{}, fmt.Errorf("list access keys of %s: %w", id, err)
	}
	for _, k := range keys {
		found.Keys = append(found.Keys, string(k.Key[len(catalog.AccessKeyKey(id, "")):]))
	}
	return found, nil
}

// CreateKey makes another access key of an account. It returns ErrNotFound if there is no such account, and ErrTooMany if it has MaxKeys.
func (a *Accounts) CreateKey(ctx context.Context, id kiln.AccountID) (catalog.AccessKey, error) {
	found, err := a.find(ctx, id)
	if err != nil {
		return catalog.AccessKey{}, err
	}
	if len(found.Keys) >= MaxKeys {
		return catalog.AccessKey{}, ErrTooMany
	}
	k := Choice{Account: id}.complete()
	key, err := change(catalog.AccessKeyKey(id, k.ID), 0, k)
	if err != nil {
		return catalog.AccessKey{}, err
	}
	if _, err := a.store.Commit(ctx, key); err != nil {
		return catalog.AccessKey{}, fmt.Errorf("create access key of %s: %w", id, err)
	}
	return k, nil
}

// DeleteKey ends an access key: nobody is let in with it any more. It returns ErrNotFound if the account has no such key.
func (a *Accounts) DeleteKey(ctx context.Context, id kiln.AccountID, key string) error {
	if !accountPattern.Matches(string(id)) {
		return ErrInvalid
	}
	if !idPattern.Matches(key) {
		return ErrNotFound
	}
	k := catalog.AccessKeyKey(id, key)
	r, err := a.store.Get(ctx, k)
	if err != nil {
		return fmt.Errorf("read access key %s: %w", key, err)
	}
	if r.Revision == 0 {
		return ErrNotFound
	}
	// Before the key itself, so that the next start does not bring it back.
	if err := a.forgetFirst(ctx, id, key); err != nil {
		return err
	}
	if _, err := a.store.Commit(ctx, catalog.Change{Key: k, If: r.Revision}); err != nil {
		return fmt.Errorf("delete access key %s: %w", key, err)
	}
	return nil
}

// forgetFirst notes that the first access key is no more, if it is that one.
func (a *Accounts) forgetFirst(ctx context.Context, id kiln.AccountID, key string) error {
	r, err := a.store.Get(ctx, firstKey)
	if err != nil || r.Revision == 0 {
		return err
	}
	var first firstRecord
	if err := json.Unmarshal(r.Value, &first); err != nil {
		return fmt.Errorf("read the first access key: %w", err)
	}
	if first.Account != id || first.ID != key {
		return nil
	}
	first.Deleted = true
	c, err := change(firstKey, r.Revision, first)
	if err != nil {
		return err
	}
	if _, err := a.store.Commit(ctx, c); err != nil {
		return fmt.Errorf("forget the first access key: %w", err)
	}
	return nil
}
