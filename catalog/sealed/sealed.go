// Package sealed is a catalog.Store whose values are encrypted before the store below it sees them: environment variables and the secrets of
// access keys are plain in memory only.
//
// Each account has a data key, which is derived from the master key and stored nowhere. A value is bound to the key of its record, so that it
// cannot be passed off as another's.
package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyderivation"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"

	"kiln"
	"kiln/catalog"
	"kiln/internal/wholefile"
)

// sealedValue begins a value that is encrypted. JSON, which values are that were stored without, begins otherwise.
const sealedValue = 1

// MasterKey is what the data keys of accounts are derived from.
type MasterKey struct{ deriver keyderivation.KeysetDeriver }

// OpenMasterKey reads the master key in the file at path, which it makes if there is none; the caller must be the only one who does. Who loses the
// file loses everything that was stored with it.
func OpenMasterKey(path string) (*MasterKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeMasterKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return nil, fmt.Errorf("read master key in %s: %w", path, err)
	}
	deriver, err := keyderivation.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use master key in %s: %w", path, err)
	}
	return &MasterKey{deriver}, nil
}

// makeMasterKey writes a new key to path and returns what is there then.
func makeMasterKey(path string) ([]byte, error) {
	template, err := keyderivation.CreatePRFBasedKeyTemplate(prf.HKDFSHA256PRFKeyTemplate(), aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, err
	}
	handle, err := keyset.NewHandle(template)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&text)); err != nil {
		return nil, err
	}
	if err := wholefile.Create(path, text.Bytes()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// Store implements catalog.Store.
type Store struct {
	inner  catalog.Store
	master *MasterKey

	mu   sync.RWMutex
	keys map[kiln.AccountID]tink.AEAD // +checklocks:mu
}

var _ catalog.Store = (*Store)(nil)

// markKey is of a record by which a store knows its master key. Its account is no matter: each can be derived a key for.
const markKey = catalog.Key("000000000000/node/master-key")

// ErrOtherKey is returned by Open for a master key that is not the one with which a store was written.
var ErrOtherKey = errors.New("the store was written with another master key")

// Open returns a Store on another one, with the master key in the file at path. The key is made if there is none and nothing has been stored
// with one.
func Open(ctx context.Context, inner catalog.Store, path string) (*Store, error) {
	mark, err := inner.Get(ctx, markKey)
	if err != nil {
		return nil, fmt.Errorf("look for master key: %w", err)
	}
	if _, err := os.Stat(path); mark.Revision != 0 && err != nil {
		return nil, fmt.Errorf("master key, with which the store was written: %w", err)
	}
	master, err := OpenMasterKey(path)
	if err != nil {
		return nil, err
	}
	s := New(inner, master)
	if mark.Revision == 0 {
		_, err := s.Commit(ctx, catalog.Change{Key: markKey, Value: []byte("{}")})
		return s, err
	}
	if _, err := s.open(mark); err != nil {
		return nil, fmt.Errorf("%s: %w", path, ErrOtherKey)
	}
	return s, nil
}

// New returns a Store on another one.
func New(inner catalog.Store, master *MasterKey) *Store {
	return &Store{inner: inner, master: master, keys: make(map[kiln.AccountID]tink.AEAD)}
}

// Get implements catalog.Source.
func (s *Store) Get(ctx context.Context, k catalog.Key) (catalog.Record, error) {
	r, err := s.inner.Get(ctx, k)
	if err != nil {
		return catalog.Record{}, err
	}
	return s.open(r)
}

// List implements catalog.Store.
func (s *Store) List(ctx context.Context, prefix, after catalog.Key, limit int) ([]catalog.Record, error) {
	records, err := s.inner.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		if records[i], err = s.open(r); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// Watch implements catalog.Source. A value that cannot be opened comes as it is stored, which nobody can read: one broken record must not cost
// a watcher all others.
func (s *Store) Watch(ctx context.Context, prefix catalog.Key, fn func(catalog.Event) error) error {
	return s.inner.Watch(ctx, prefix, func(e catalog.Event) error {
		if r, err := s.open(e.Record); err == nil {
			e.Record = r
		}
		return fn(e)
	})
}

// Commit implements catalog.Store.
func (s *Store) Commit(ctx context.Context, changes ...catalog.Change) (catalog.Revision, error) {
	all := make([]catalog.Change, len(changes))
	for i, c := range changes {
		all[i] = c
		if c.Value == nil {
			continue
		}
		value, err := s.seal(c.Key, c.Value)
		if err != nil {
			return 0, fmt.Errorf("%w: seal %s: %w", catalog.ErrRefused, c.Key, err)
		}
		all[i].Value = value
	}
	return s.inner.Commit(ctx, all...)
}

func (s *Store) seal(k catalog.Key, value []byte) ([]byte, error) {
	key, err := s.key(catalog.AccountOf(k))
	if err != nil {
		return nil, err
	}
	text, err := key.Encrypt(value, []byte(k))
	return append([]byte{sealedValue}, text...), err
}

// open returns r with its value as it was before it was sealed. Values that never were, of a store from before there was a master key, stay as
// they are.
func (s *Store) open(r catalog.Record) (catalog.Record, error) {
	if len(r.Value) == 0 || r.Value[0] != sealedValue {
		return r, nil
	}
	key, err := s.key(catalog.AccountOf(r.Key))
	if err != nil {
		return catalog.Record{}, err
	}
	if r.Value, err = key.Decrypt(r.Value[1:], []byte(r.Key)); err != nil {
		return catalog.Record{}, fmt.Errorf("open %s: %w", r.Key, err)
	}
	return r, nil
}

// key returns the data key of an account.
func (s *Store) key(a kiln.AccountID) (tink.AEAD, error) {
	s.mu.RLock()
	key := s.keys[a]
	s.mu.RUnlock()
	if key != nil {
		return key, nil
	}
	handle, err := s.master.deriver.DeriveKeyset([]byte(a))
	if err != nil {
		return nil, fmt.Errorf("derive data key of %s: %w", a, err)
	}
	if key, err = aead.New(handle); err != nil {
		return nil, fmt.Errorf("use data key of %s: %w", a, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[a] = key
	return key, nil
}
