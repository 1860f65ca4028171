package frontend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"kiln"
	"kiln/blob"
)

type memoryReader struct {
	*bytes.Reader
	closed *int
}

func (m memoryReader) Close() error { *m.closed++; return nil }

// oneCode has one package, in one account.
type oneCode struct {
	content []byte
	closed  *int
}

func (o oneCode) Open(_ context.Context, a kiln.AccountID, d kiln.Digest) (blob.Reader, error) {
	switch {
	case d == kiln.DigestOf([]byte("broken")):
		return nil, errors.New("the secret")
	case a != account || d != kiln.DigestOf(o.content):
		return nil, fmt.Errorf("open: %w", blob.ErrNotFound)
	}
	return memoryReader{bytes.NewReader(o.content), o.closed}, nil
}

// downloads starts a server with one package and returns its URLs' maker.
func downloads(t *testing.T, content string, closed *int, now func() time.Time) (*running, *CodeURL) {
	var u *CodeURL
	s := start(t, func(c *Config) {
		c.Code = oneCode{[]byte(content), closed}
		c.CodeURL.Now = now
		u = c.CodeURL
	})
	return s, u
}

func TestCodeIsServedUnderItsURL(t *testing.T) {
	const content = "PK zip of a function"
	closed := 0
	s, u := downloads(t, content, &closed, nil)
	path := strings.TrimPrefix(u.URL(account, kiln.DigestOf([]byte(content))), s.url)
	got := s.send(t, "GET", path, "")
	if got.status != 200 || got.body != content || got.header.Get("Content-Type") != "application/zip" || got.header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("got %+v", got)
	}
	if got := s.send(t, "GET", path, "", "Range", "bytes=3-5"); got.status != 206 || got.body != "zip" {
		t.Errorf("a part: got %+v", got)
	}
	if got := s.send(t, "HEAD", path, ""); got.status != 200 || got.header.Get("Content-Length") != fmt.Sprint(len(content)) {
		t.Errorf("HEAD: got %+v", got)
	}
	if got := s.send(t, "DELETE", path, ""); got.status != 405 {
		t.Errorf("DELETE: got %+v", got)
	}
	if closed != 3 {
		t.Errorf("%d of 3 readers were closed", closed)
	}
}

func TestCodeURLsOpenNothingElse(t *testing.T) {
	const content = "PK zip of a function"
	closed, now := 0, time.Now()
	s, u := downloads(t, content, &closed, func() time.Time { return now })
	digest := string(kiln.DigestOf([]byte(content)))
	good := strings.TrimPrefix(u.URL(account, kiln.Digest(digest)), s.url)
	parsed, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	expires := parsed.Query().Get("expires")
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, tt := range []struct {
		name, path string
		status     int
	}{
		{"as given", good, 200},
		{"another account", replace(string(account), "000000000000"), 403},
		{"another package", replace(digest[:8], "00000000"), 403},
		{"a later end", replace("expires="+expires, "expires=9"+expires), 403},
		{"no end", replace("expires=", "e="), 403},
		{"two ends", good + "&expires=" + expires, 403},
		{"no signature", replace("signature=", "s="), 403},
		{"another signature", replace("signature=", "signature=0"), 403},
		{"no query", codePrefix + string(account) + "/" + digest, 403},
		{"a way out", codePrefix + string(account) + "/../" + digest, 404},
		{"an escaped way out", codePrefix + string(account) + "/..%2f" + digest, 404},
		{"a short digest", codePrefix + string(account) + "/abc", 404},
		{"a package that is not there", strings.TrimPrefix(u.URL(account, kiln.DigestOf(nil)), s.url), 404},
		{"a package that cannot be read", strings.TrimPrefix(u.URL(account, kiln.DigestOf([]byte("broken"))), s.url), 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.send(t, "GET", tt.path, ""); got.status != tt.status || strings.Contains(got.body, "secret") {
				t.Errorf("got %+v", got)
			}
		})
	}
	now = now.Add(codeLifetime + time.Second)
	if got := s.send(t, "GET", good, ""); got.status != 403 || !strings.Contains(got.body, "Request has expired") {
		t.Errorf("after its end: got %+v", got)
	}
}

func TestAnotherKeyMakesOtherURLs(t *testing.T) {
	now := func() time.Time { return time.Unix(1, 0) }
	a := &CodeURL{Endpoint: "http://h", Key: bytes.Repeat([]byte{1}, minKey), Now: now}
	b := &CodeURL{Endpoint: "http://h", Key: bytes.Repeat([]byte{2}, minKey), Now: now}
	if a.URL(account, "d") == b.URL(account, "d") {
		t.Error("two keys give the same URL")
	}
}
