package identity

import (
	"strings"
	"testing"
	"time"

	"kiln"
)

var (
	epoch = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	role  = Role{Account: kiln.AccountID("123456789012"), ARN: "arn:aws:iam::123456789012:role/r"}
)

func TestCredentialsAreThoseOfTheirRoleUntilTheyAreRevoked(t *testing.T) {
	i := NewIssuer()
	c, revoke := i.Issue(role, epoch)
	if !strings.HasPrefix(c.AccessKeyID, "ASIA") || len(c.AccessKeyID) != 20 || len(c.Secret) != 40 || c.SessionToken == "" {
		t.Errorf("credentials %+v", c)
	}
	got, r, known := i.Lookup(c.AccessKeyID, epoch)
	if got != c || r != role || !known {
		t.Errorf("found %+v of %+v, %v", got, r, known)
	}
	revoke()
	got, r, known = i.Lookup(c.AccessKeyID, epoch)
	if r != (Role{}) || !known || got.SessionToken != c.SessionToken {
		t.Errorf("after the revocation: %+v of %+v, %v", got, r, known)
	}
}

func TestCredentialsEndWithTheirLifetime(t *testing.T) {
	i := NewIssuer()
	c, _ := i.Issue(role, epoch)
	if _, r, _ := i.Lookup(c.AccessKeyID, c.Expires.Add(-time.Second)); r != role {
		t.Error("they end too early")
	}
	if _, r, known := i.Lookup(c.AccessKeyID, c.Expires); r != (Role{}) || !known {
		t.Errorf("they outlive their lifetime: %+v, %v", r, known)
	}
}

func TestIdentifiersThatWereNotIssuedAreUnknown(t *testing.T) {
	i := NewIssuer()
	other, _ := NewIssuer().Issue(role, epoch)
	mine, _ := i.Issue(role, epoch)
	changed := mine.AccessKeyID[:19] + string(mine.AccessKeyID[19]^1)
	for _, id := range []string{"", "ASIA", "AKIDEXAMPLE", "ASIAAAAAAAAAAAAAAAAA", other.AccessKeyID, changed, mine.AccessKeyID + "A", strings.ToLower(mine.AccessKeyID)} {
		if _, _, known := i.Lookup(id, epoch); known {
			t.Errorf("%q is known", id)
		}
	}
}

func TestNoTwoCredentialsAreTheSame(t *testing.T) {
	i := NewIssuer()
	a, _ := i.Issue(role, epoch)
	b, _ := i.Issue(role, epoch)
	if a.AccessKeyID == b.AccessKeyID || a.Secret == b.Secret || a.SessionToken == b.SessionToken {
		t.Errorf("%+v and %+v", a, b)
	}
}
