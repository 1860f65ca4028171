// Package identity issues the temporary credentials with which functions call AWS's API.
package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"strings"
	"sync"
	"time"

	"kiln"
)

// Lifetime is how long credentials are valid at most, whatever becomes of who has them.
const Lifetime = 12 * time.Hour

// prefix begins the identifiers of temporary access keys, as AWS's.
const prefix = "ASIA"

// The rest of an identifier, encoded in 16 letters: random bytes, then bytes by which one that was issued is told from one that was not.
const (
	randomBytes = 6
	markBytes   = 4
)

// Role is who has credentials: an execution role of an account.
type Role struct {
	Account kiln.AccountID
	ARN     string
}

// Credentials let their bearer act as a role. They must not be logged.
type Credentials struct {
	AccessKeyID, Secret, SessionToken string
	Expires                           time.Time
}

// Issuer issues credentials and knows which are valid. All of them follow from a key that it makes for itself, so that those that have ended
// are told from those that never were without being kept, and end with the process. It is safe for concurrent use.
type Issuer struct {
	key []byte

	mu   sync.Mutex
	live map[string]bearer // +checklocks:mu
}

type bearer struct {
	role    Role
	expires time.Time
}

// NewIssuer returns an issuer that has issued nothing.
func NewIssuer() *Issuer {
	i := &Issuer{key: make([]byte, sha256.Size), live: make(map[string]bearer)}
	rand.Read(i.key) // never fails: crypto/rand
	return i
}

// Issue returns credentials of a role that are valid from now on, until revoke is called or Lifetime has passed.
func (i *Issuer) Issue(r Role, now time.Time) (c Credentials, revoke func()) {
	random := make([]byte, randomBytes)
	rand.Read(random) // never fails: crypto/rand
	id := i.identifier(random)
	c = i.credentials(id)
	c.Expires = now.Add(Lifetime)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.live[id] = bearer{r, c.Expires}
	return c, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.live, id)
	}
}

// Lookup returns the credentials with that identifier and whose they are. known is false if none were ever issued by this issuer; the role
// is empty if they are no longer valid.
func (i *Issuer) Lookup(id string, now time.Time) (c Credentials, r Role, known bool) {
	if !i.issued(id) {
		return Credentials{}, Role{}, false
	}
	i.mu.Lock()
	b := i.live[id]
	i.mu.Unlock()
	c = i.credentials(id)
	c.Expires = b.expires
	if now.Before(b.expires) {
		r = b.role
	}
	return c, r, true
}

var letters = base32.StdEncoding.WithPadding(base32.NoPadding)

func (i *Issuer) identifier(random []byte) string {
	return prefix + letters.EncodeToString(append(random, i.derive("mark", string(random))[:markBytes]...))
}

func (i *Issuer) issued(id string) bool {
	text, ok := strings.CutPrefix(id, prefix)
	b, err := letters.DecodeString(text)
	if !ok || err != nil || len(b) != randomBytes+markBytes {
		return false
	}
	return hmac.Equal([]byte(id), []byte(i.identifier(b[:randomBytes:randomBytes])))
}

func (i *Issuer) credentials(id string) Credentials {
	const secretBytes = 30 // 40 characters, as AWS's
	return Credentials{
		AccessKeyID:  id,
		Secret:       base64.StdEncoding.EncodeToString(i.derive("secret", id)[:secretBytes]),
		SessionToken: base64.StdEncoding.EncodeToString(i.derive("token", id)),
	}
}

func (i *Issuer) derive(what, from string) []byte {
	h := hmac.New(sha256.New, i.key)
	h.Write([]byte(what + "\x00" + from))
	return h.Sum(nil)
}
