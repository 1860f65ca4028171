package frontend

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"kiln"
	"kiln/blob"
	"kiln/frontend/restjson"
)

const (
	codePrefix = "/_kiln/code/"
	// codeLifetime is how long AWS's own URLs to a function's code are good for.
	codeLifetime = 10 * time.Minute
	minKey       = 32
)

// Code opens stored deployment packages. An object that is not there is an error that wraps blob.ErrNotFound.
type Code interface {
	Open(ctx context.Context, a kiln.AccountID, d kiln.Digest) (blob.Reader, error)
}

// CodeURL makes and checks the URLs under which a server hands out deployment packages. A URL is good for ten minutes, for
// whoever holds it. It is safe for concurrent use.
type CodeURL struct {
	// Endpoint is where clients reach the server, such as "http://127.0.0.1:9600".
	Endpoint string
	// Key signs the URLs: at least 32 random bytes, the same after a restart.
	Key []byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// URL returns a URL of the deployment package d of account a.
func (u *CodeURL) URL(a kiln.AccountID, d kiln.Digest) string {
	expires := strconv.FormatInt(u.now().Add(codeLifetime).Unix(), 10)
	q := url.Values{"expires": {expires}, "signature": {u.sign(a, d, expires)}}
	return u.Endpoint + codePrefix + string(a) + "/" + string(d) + "?" + q.Encode()
}

var codePath = regexp.MustCompile(`^` + codePrefix + `([0-9]{12})/([0-9a-f]{64})$`)

// check returns what the URL that r asks for names.
func (u *CodeURL) check(r *http.Request) (kiln.AccountID, kiln.Digest, error) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	m := codePath.FindStringSubmatch(path)
	if m == nil {
		return "", "", kiln.Errorf(kiln.ResourceNotFound, "There is no such URL.")
	}
	q, err := url.ParseQuery(query)
	if err != nil || len(q["expires"]) != 1 || len(q["signature"]) != 1 {
		return "", "", kiln.Errorf(kiln.AccessDenied, "The URL is not signed.")
	}
	a, d, expires := kiln.AccountID(m[1]), kiln.Digest(m[2]), q.Get("expires")
	if !hmac.Equal([]byte(u.sign(a, d, expires)), []byte(q.Get("signature"))) {
		return "", "", kiln.Errorf(kiln.AccessDenied, "The signature of the URL does not match.")
	}
	if end, err := strconv.ParseInt(expires, 10, 64); err != nil || u.now().Unix() > end {
		return "", "", kiln.Errorf(kiln.AccessDenied, "Request has expired")
	}
	return a, d, nil
}

func (u *CodeURL) sign(a kiln.AccountID, d kiln.Digest, expires string) string {
	h := hmac.New(sha256.New, u.Key)
	h.Write([]byte("kiln code\n" + string(a) + "\n" + string(d) + "\n" + expires))
	return hex.EncodeToString(h.Sum(nil))
}

func (u *CodeURL) now() time.Time {
	if u.Now == nil {
		return time.Now()
	}
	return u.Now()
}

// serveCode sends a deployment package to the holder of its URL.
func (s *Server) serveCode(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return restjson.ErrMethodNotAllowed
	}
	a, d, err := s.cfg.CodeURL.check(r)
	if err != nil {
		return err
	}
	b, err := s.cfg.Code.Open(r.Context(), a, d)
	if errors.Is(err, blob.ErrNotFound) {
		return kiln.Errorf(kiln.ResourceNotFound, "The deployment package does not exist.")
	}
	if err != nil {
		return err
	}
	defer b.Close()
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(codeLifetime)); err != nil {
		return err
	}
	exchangeOf(r.Context()).sent = true
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("ETag", `"`+string(d)+`"`)
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(b, 0, b.Size()))
	return nil
}
