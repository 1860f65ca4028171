package frontend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"kiln/frontend/sigv4"
)

// token is of a role's temporary key, roleKey.
const (
	roleKey = "ASIAEXAMPLE"
	token   = "token"
)

// withRole lets a role in too.
func withRole(c *Config) {
	c.Verifier.Secrets = func(_ context.Context, id string) (sigv4.Credential, bool) {
		if id == roleKey {
			return sigv4.Credential{Account: account, Secret: secret, SessionToken: token, Role: "arn:aws:iam::123456789012:role/path/r"}, true
		}
		return sigv4.Credential{Account: account, Secret: secret}, id == keyID
	}
}

// askSTS sends a form signed for a service, and returns the status and the body of the answer.
func (r *running) askSTS(t *testing.T, c aws.Credentials, service, form string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if c.AccessKeyID != "" {
		sum := sha256.Sum256([]byte(form))
		if err := v4.NewSigner().SignHTTP(t.Context(), c, req, hex.EncodeToString(sum[:]), service, string(region), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Content-Type"); got != "text/xml" {
		t.Errorf("the answer is %s", got)
	}
	return res.StatusCode, body.String()
}

const getCallerIdentity = "Action=GetCallerIdentity&Version=2011-06-15"

func TestCallersAreToldWhoTheyAre(t *testing.T) {
	r := start(t, withRole)
	for name, c := range map[string]struct {
		credentials aws.Credentials
		want        []string
	}{
		"account": {aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret},
			[]string{"<Arn>arn:aws:iam::123456789012:root</Arn>", "<UserId>123456789012</UserId>", "<Account>123456789012</Account>"}},
		"role": {aws.Credentials{AccessKeyID: roleKey, SecretAccessKey: secret, SessionToken: token},
			[]string{"<Arn>arn:aws:sts::123456789012:assumed-role/r/ASIAEXAMPLE</Arn>", "<UserId>AROA", ":ASIAEXAMPLE</UserId>", "<Account>123456789012</Account>"}},
	} {
		status, body := r.askSTS(t, c.credentials, "sts", getCallerIdentity)
		for _, want := range append(c.want, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`, "<RequestId>") {
			if status != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: %d %s, want %s", name, status, body, want)
			}
		}
	}
	// Whoever is let in without a signature is the account that the server has.
	if status, body := start(t, open).askSTS(t, aws.Credentials{}, "", getCallerIdentity); status != 200 || !strings.Contains(body, "<Account>123456789012</Account>") {
		t.Errorf("without authentication: %d %s", status, body)
	}
}

func TestOtherRequestsToSTSAreRefused(t *testing.T) {
	r := start(t, withRole)
	good := aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}
	for name, c := range map[string]struct {
		credentials   aws.Credentials
		service, form string
		status        int
		code          string
	}{
		"nobody":           {aws.Credentials{}, "sts", getCallerIdentity, 403, "MissingAuthenticationToken"},
		"a stranger":       {aws.Credentials{AccessKeyID: "AKIAOTHER", SecretAccessKey: secret}, "sts", getCallerIdentity, 403, "InvalidClientTokenId"},
		"a wrong secret":   {aws.Credentials{AccessKeyID: keyID, SecretAccessKey: "wrong"}, "sts", getCallerIdentity, 403, "SignatureDoesNotMatch"},
		"a wrong service":  {good, "lambda", getCallerIdentity, 403, "SignatureDoesNotMatch"},
		"another action":   {good, "sts", "Action=AssumeRole&Version=2011-06-15", 400, "InvalidAction"},
		"another version":  {good, "sts", "Action=GetCallerIdentity&Version=1", 400, "InvalidAction"},
		"no form":          {good, "sts", "%zz", 400, "MalformedQueryString"},
		"too large a form": {good, "sts", getCallerIdentity + strings.Repeat("&a=b", maxQuery), 413, "RequestEntityTooLarge"},
	} {
		status, body := r.askSTS(t, c.credentials, c.service, c.form)
		if status != c.status || !strings.Contains(body, "<Code>"+c.code+"</Code>") || !strings.Contains(body, "<Type>Sender</Type>") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}
