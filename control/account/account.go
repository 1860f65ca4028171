// Package account has the accounts of a node and their access keys: the first, which the operator is given, and those that are made later.
package account

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/internal/constraint"
	"kiln/internal/wholefile"
)

// DefaultAccount is the account of a node whose operator chose none.
const DefaultAccount kiln.AccountID = "000000000000"

// CredentialsFile is the name of the file below the data directory that holds the credentials.
const CredentialsFile = "credentials"

// firstKey is where the credentials of the first account are found again, whichever account that is.
const firstKey = catalog.Key(string(DefaultAccount) + "/node/first-access-key")

var (
	accountPattern = constraint.MustPattern(`\d{12}`)
	idPattern      = constraint.MustPattern(`\w{1,128}`)
	secretPattern  = constraint.MustPattern(`[!-~]{1,256}`)
)

// Choice is what an operator chooses of the first account, at the first start only. Empty fields are chosen by kiln: DefaultAccount,
// and a random key.
type Choice struct {
	Account     kiln.AccountID
	AccessKeyID string
	Secret      string
}

// Validate says every fault of the choice at once.
func (c Choice) Validate() error {
	var faults []error
	if c.Account != "" && !accountPattern.Matches(string(c.Account)) {
		faults = append(faults, fmt.Errorf("account id %q: want 12 digits", c.Account))
	}
	if c.AccessKeyID != "" && !idPattern.Matches(c.AccessKeyID) {
		faults = append(faults, fmt.Errorf("access key id %q: want 1 to 128 letters, digits or _", c.AccessKeyID))
	}
	if c.Secret != "" && !secretPattern.Matches(c.Secret) {
		faults = append(faults, errors.New("secret access key: want 1 to 256 printable ASCII characters without a space"))
	}
	return errors.Join(faults...)
}

// Ensure creates the first account of a store, unless it is there, and writes CredentialsFile into dataDir, unless it is there. It
// returns the account's key. It fails if c chooses something else than was chosen at the first start.
func Ensure(ctx context.Context, store catalog.Store, dataDir string, c Choice) (catalog.AccessKey, error) {
	if err := c.Validate(); err != nil {
		return catalog.AccessKey{}, err
	}
	k, err := first(ctx, store, c)
	if err != nil {
		return catalog.AccessKey{}, err
	}
	if err := c.agrees(k.AccessKey); err != nil {
		return catalog.AccessKey{}, err
	}
	if err := putAbsent(ctx, store, catalog.AccountKey(k.Account), record{time.Now().UTC()}); err != nil {
		return catalog.AccessKey{}, fmt.Errorf("store account %s: %w", k.Account, err)
	}
	if k.Deleted {
		return k.AccessKey, nil
	}
	// The key itself is written second, so that one that was written is always found again.
	if err := putAbsent(ctx, store, catalog.AccessKeyKey(k.Account, k.ID), k.AccessKey); err != nil {
		return catalog.AccessKey{}, fmt.Errorf("store access key %s: %w", k.ID, err)
	}
	if err := writeCredentials(dataDir, k.AccessKey); err != nil {
		return catalog.AccessKey{}, fmt.Errorf("write credentials: %w", err)
	}
	return k.AccessKey, nil
}

// firstRecord is what is stored under firstKey.
type firstRecord struct {
	catalog.AccessKey
	// Deleted says that the key was deleted. The account stays.
	Deleted bool `json:",omitempty"`
}

// first returns the first account's key, and chooses it if there is none.
func first(ctx context.Context, store catalog.Store, c Choice) (firstRecord, error) {
	if err := putAbsent(ctx, store, firstKey, firstRecord{AccessKey: c.complete()}); err != nil {
		return firstRecord{}, fmt.Errorf("choose the first access key: %w", err)
	}
	r, err := store.Get(ctx, firstKey)
	if err != nil {
		return firstRecord{}, fmt.Errorf("read the first access key: %w", err)
	}
	var k firstRecord
	if err := json.Unmarshal(r.Value, &k); err != nil {
		return firstRecord{}, fmt.Errorf("read the first access key: %w", err)
	}
	return k, nil
}

// complete returns the key that c chooses.
func (c Choice) complete() catalog.AccessKey {
	k := catalog.AccessKey{ID: c.AccessKeyID, Secret: c.Secret, Account: c.Account}
	if k.Account == "" {
		k.Account = DefaultAccount
	}
	if k.ID == "" {
		const length = 16 // after the prefix, as AWS's
		k.ID = "AKIA" + rand.Text()[:length]
	}
	if k.Secret == "" {
		const length = 30 // bytes: 40 characters, as AWS's
		secret := make([]byte, length)
		_, _ = rand.Read(secret) // it never fails
		k.Secret = base64.StdEncoding.EncodeToString(secret)
	}
	return k
}

func (c Choice) agrees(k catalog.AccessKey) error {
	if (c.Account == "" || c.Account == k.Account) && (c.AccessKeyID == "" || c.AccessKeyID == k.ID) && (c.Secret == "" || c.Secret == k.Secret) {
		return nil
	}
	return fmt.Errorf("this node's first account is %s with access key %s: another can be chosen at the first start only", k.Account, k.ID)
}

// putAbsent stores value under k unless something is there.
func putAbsent(ctx context.Context, store catalog.Store, k catalog.Key, value any) error {
	r, err := store.Get(ctx, k)
	if err != nil || r.Revision != 0 {
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if _, err := store.Commit(ctx, catalog.Change{Key: k, Value: text}); !errors.Is(err, catalog.ErrConflict) {
		return err
	}
	return nil
}

// writeCredentials writes the file that the AWS SDKs read, if it is missing.
func writeCredentials(dir string, k catalog.AccessKey) error {
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", k.ID, k.Secret)
	return wholefile.Create(filepath.Join(dir, CredentialsFile), []byte(text))
}
