package sigv4

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"kiln"
)

const (
	keyID   = "AKIDEXAMPLE"
	secret  = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	tempID  = "ASIATEMPORARY"
	endedID = "ASIAENDED"
	role    = "arn:aws:iam::123456789012:role/r"
	token   = "FwoGZXIvYXdzEXAMPLE=="
	account = kiln.AccountID("123456789012")
)

var epoch = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

func newVerifier() *Verifier {
	return &Verifier{
		Region:  "us-east-1",
		Service: "lambda",
		Now:     func() time.Time { return epoch },
		Secrets: func(_ context.Context, id string) (Credential, bool) {
			switch id {
			case keyID:
				return Credential{Account: account, Secret: secret}, true
			case tempID:
				return Credential{Account: account, Secret: secret, SessionToken: token, Role: role}, true
			case endedID:
				return Credential{Secret: secret, SessionToken: token, Expired: true}, true
			}
			return Credential{}, false
		},
	}
}

// call is a request as a client means it, before it is signed.
type call struct {
	method, path, query, body string
	header                    map[string]string
}

var calls = map[string]call{
	"get":           {method: "GET", path: "/2015-03-31/functions/"},
	"escaped path":  {method: "GET", path: "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Af%3A%24LATEST"},
	"path with dot": {method: "GET", path: "/2015-03-31/functions/../x//y"},
	"query":         {method: "GET", path: "/2015-03-31/functions/", query: "Marker=a%2Fb%20c&MaxItems=10"},
	"repeated":      {method: "DELETE", path: "/2017-03-31/tags/a", query: "tagKeys=b&tagKeys=a&tagKeys-x=1&tagKeys="},
	"body": {method: "POST", path: "/2015-03-31/functions/f/invocations", body: `{"a": "ü"}`,
		header: map[string]string{"Content-Type": "application/json", "X-Amz-Invocation-Type": "RequestResponse", "X-Amz-Client-Context": "a  b   c"}},
}

func (c call) request(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequest(c.method, "http://127.0.0.1:9600"+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.RawQuery = c.query
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	return r
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

var credentials = aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}

// signed returns the bytes on the wire of c as the SDK signs it.
func (c call) signed(t testing.TB, creds aws.Credentials, at time.Time) []byte {
	t.Helper()
	r := c.request(t)
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, r, hash(c.body), "lambda", "us-east-1", at); err != nil {
		t.Fatal(err)
	}
	return wire(t, r)
}

// presigned is signed with the signature in the URL, valid for the given number of seconds.
func (c call) presigned(t testing.TB, at time.Time, seconds int) []byte {
	t.Helper()
	r := c.request(t)
	q := r.URL.Query()
	q.Set("X-Amz-Expires", strconv.Itoa(seconds))
	r.URL.RawQuery = q.Encode()
	keep := func(o *v4.SignerOptions) { o.DisableHeaderHoisting = true }
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), credentials, r, hash(c.body), "lambda", "us-east-1", at, keep)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		t.Fatal(err)
	}
	return wire(t, r)
}

func wire(t testing.TB, r *http.Request) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var errNotHTTP = errors.New("not an HTTP request")

// verify gives v a request as it came over the wire.
func verify(v *Verifier, raw []byte) (Identity, *http.Request, []byte, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return Identity{}, nil, nil, errNotHTTP
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return Identity{}, nil, nil, errNotHTTP
	}
	id, err := check(v, r, body)
	return id, r, body, err
}

func TestWhatTheSDKSignsIsAccepted(t *testing.T) {
	want := Identity{Account: account, AccessKeyID: keyID}
	for name, c := range calls {
		for form, raw := range map[string][]byte{"header": c.signed(t, credentials, epoch), "presigned": c.presigned(t, epoch, 60)} {
			t.Run(name+"/"+form, func(t *testing.T) {
				if id, _, _, err := verify(newVerifier(), raw); err != nil || id != want {
					t.Fatalf("got %v, %v\n%s", id, err, raw)
				}
			})
		}
	}
}

// vectors are of AWS's own SigV4 test suite: what stands between the first line and the signature, and the signature.
var vectors = []struct{ name, request, signedHeaders, signature string }{
	{"get-vanilla", "GET / HTTP/1.1\r\n", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"get-vanilla-query-order-key-case", "GET /?Param2=value2&Param1=value1 HTTP/1.1\r\n", "host;x-amz-date",
		"b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
	{"get-unreserved", "GET /-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz HTTP/1.1\r\n", "host;x-amz-date",
		"07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
	{"get-utf8", "GET /\u1234 HTTP/1.1\r\n", "host;x-amz-date", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
	{"get-header-value-trim", "GET / HTTP/1.1\r\nMy-Header1: value1\r\nMy-Header2: \"a   b   c\"\r\n", "host;my-header1;my-header2;x-amz-date",
		"acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
	{"post-vanilla", "POST / HTTP/1.1\r\n", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
}

func TestVectorsOfAWSAreAccepted(t *testing.T) {
	v := newVerifier()
	v.Service = "service"
	v.Now = func() time.Time { return time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC) }
	for _, vec := range vectors {
		t.Run(vec.name, func(t *testing.T) {
			raw := vec.request + "Host: example.amazonaws.com\r\nX-Amz-Date: 20150830T123600Z\r\n" +
				"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=" +
				vec.signedHeaders + ", Signature=" + vec.signature + "\r\n\r\n"
			if _, _, _, err := verify(v, []byte(raw)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// edit changes one thing of a signed request's text.
type edit struct{ old, new string }

func TestRefusals(t *testing.T) {
	at := func(d time.Duration) []byte { return calls["body"].signed(t, credentials, epoch.Add(d)) }
	presigned := func(d time.Duration, seconds int) []byte { return calls["query"].presigned(t, epoch.Add(d), seconds) }
	good := at(0)
	other := func(c aws.Credentials) []byte { return calls["get"].signed(t, c, epoch) }
	tests := []struct {
		name    string
		raw     []byte
		edit    edit
		code    Code
		message string
	}{
		{"no signature", []byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), edit{}, MissingAuthenticationToken, "Missing Authentication Token"},
		{"other scheme", good, edit{"AWS4-HMAC-SHA256 ", "Bearer "}, IncompleteSignature,
			"Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter."},
		{"no signature part", good, edit{", Signature=", ", X"}, IncompleteSignature, "not a valid key=value pair"},
		{"no signed headers", good, edit{"SignedHeaders=", "Headers="}, IncompleteSignature, "'Headers' is not a parameter"},
		{"empty credential", good, edit{"Credential=AKIDEXAMPLE", "Credential="}, IncompleteSignature, "Credential must have exactly 5 slash-delimited elements"},
		{"short credential", good, edit{"/lambda/aws4_request", "/aws4_request"}, IncompleteSignature, "Credential must have exactly 5 slash-delimited elements"},
		{"duplicate part", good, edit{"Credential=", "Signature=a, Credential="}, IncompleteSignature, "'Signature' must not occur more than once."},
		{"second authorization", good, edit{"X-Amz-Date:", "Authorization: AWS4-HMAC-SHA256 a=b\r\nX-Amz-Date:"}, IncompleteSignature, "'Authorization' must not"},
		{"second date", good, edit{"X-Amz-Date:", "X-Amz-Date: 20260314T150926Z\r\nX-Amz-Date:"}, IncompleteSignature, "'X-Amz-Date' must not"},
		{"second signed header", good, edit{"Content-Type:", "Content-Type: a\r\nContent-Type:"}, IncompleteSignature, "'content-type' must not"},
		{"no date", good, edit{"X-Amz-Date:", "X-Other:"}, IncompleteSignature, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."},
		{"garbled date", good, edit{"X-Amz-Date: 2026", "X-Amz-Date: x026"}, IncompleteSignature, "Date must be in ISO-8601 'basic format'. Got 'x0260314T150926Z'."},
		{"header and query", good, edit{" HTTP/1.1", "?X-Amz-Algorithm=AWS4-HMAC-SHA256 HTTP/1.1"}, IncompleteSignature, "Only one of"},
		{"host unsigned", good, edit{";host;", ";"}, InvalidSignature, "'Host' must be a 'SignedHeader' in the AWS Authorization."},
		{"date unsigned", good, edit{";x-amz-date;", ";"}, InvalidSignature, "'X-Amz-Date' must be a 'SignedHeader' in the AWS Authorization."},
		{"amz header unsigned", good, edit{"X-Amz-Date:", "X-Amz-Log-Type: Tail\r\nX-Amz-Date:"}, InvalidSignature, "'X-Amz-Log-Type' must be a 'SignedHeader'"},
		{"signed header absent", good, edit{"Content-Type:", "Content-Typo:"}, InvalidSignature, "The request signature we calculated does not match"},
		{"signed headers unsorted", good, edit{"content-length;content-type;", "content-type;content-length;"}, IncompleteSignature, "SignedHeaders must be"},
		{"other region", good, edit{"/us-east-1/", "/eu-west-1/"}, InvalidSignature, "Credential should be scoped to a valid region, not 'eu-west-1'."},
		{"other service", good, edit{"/lambda/aws4", "/s3/aws4"}, InvalidSignature, "Credential should be scoped to correct service: 'lambda'."},
		{"other terminator", good, edit{"/aws4_request", "/aws5_request"}, InvalidSignature, "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'."},
		{"other day", good, edit{"/20260314/", "/20260313/"}, InvalidSignature,
			"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20260313' != '20260314', from '20260314T150926Z'."},
		{"expired", at(-maxSkew - time.Second), edit{}, InvalidSignature,
			"Signature expired: 20260314T150425Z is now earlier than 20260314T150426Z (20260314T150926Z - 5 min.)"},
		{"early", at(maxSkew + time.Second), edit{}, InvalidSignature,
			"Signature not yet current: 20260314T151427Z is still later than 20260314T151426Z (20260314T150926Z + 5 min.)"},
		{"unknown key", other(aws.Credentials{AccessKeyID: "AKIDOTHER", SecretAccessKey: secret}), edit{}, UnrecognizedClient,
			"The security token included in the request is invalid."},
		{"wrong secret", other(aws.Credentials{AccessKeyID: keyID, SecretAccessKey: "x"}), edit{}, InvalidSignature,
			"The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."},
		{"token of another", other(aws.Credentials{AccessKeyID: tempID, SecretAccessKey: secret, SessionToken: "x"}), edit{}, UnrecognizedClient, "The security token"},
		{"token for a long-term key", other(aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret, SessionToken: token}), edit{}, UnrecognizedClient, "The security token"},
		{"temporary key without token", other(aws.Credentials{AccessKeyID: tempID, SecretAccessKey: secret}), edit{}, UnrecognizedClient, "The security token"},
		{"key that has ended", other(aws.Credentials{AccessKeyID: endedID, SecretAccessKey: secret, SessionToken: token}), edit{}, ExpiredToken,
			"The security token included in the request is expired"},
		{"key that has ended with another's token", other(aws.Credentials{AccessKeyID: endedID, SecretAccessKey: secret, SessionToken: "x"}), edit{},
			UnrecognizedClient, "The security token included in the request is invalid."},
		{"absolute form", good, edit{"POST /", "POST http://127.0.0.1:9600/"}, IncompleteSignature, "The request line must name a path."},
		{"malformed query", good, edit{" HTTP/1.1", "?a=%zz HTTP/1.1"}, IncompleteSignature, "Malformed query-string parameter."},
		{"semicolon in query", good, edit{" HTTP/1.1", "?a=1;b=2 HTTP/1.1"}, IncompleteSignature, "Malformed query-string parameter."},
		{"query too long", good, edit{" HTTP/1.1", "?" + strings.Repeat("a&", maxParams) + " HTTP/1.1"}, IncompleteSignature, "Too many query-string parameters."},
		{"too many headers", good, edit{"X-Amz-Date:", manyHeaders() + "X-Amz-Date:"}, IncompleteSignature, "Too many headers."},

		{"presigned expired", presigned(-61*time.Second, 60), edit{}, InvalidSignature,
			"Signature expired: 20260314T150825Z is now earlier than 20260314T150826Z (20260314T150926Z - 1m0s)"},
		{"presigned early", presigned(maxSkew+time.Second, 60), edit{}, InvalidSignature, "Signature not yet current"},
		{"presigned for ever", presigned(0, 604801), edit{}, IncompleteSignature, "X-Amz-Expires must be a number of seconds between 1 and 604800."},
		{"presigned for nothing", presigned(0, 0), edit{}, IncompleteSignature, "X-Amz-Expires must be"},
		{"presigned without end", presigned(0, 60), edit{"X-Amz-Expires=60&", ""}, IncompleteSignature, "X-Amz-Expires must be"},
		{"presigned for longer", presigned(0, 60), edit{"X-Amz-Expires=60&", "X-Amz-Expires=61&"}, InvalidSignature, "The request signature we calculated"},
		{"presigned without date", presigned(0, 60), edit{"X-Amz-Date", "Date"}, IncompleteSignature, "AWS query-string parameters must include"},
		{"presigned otherwise", presigned(0, 60), edit{"AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"}, IncompleteSignature, "Unsupported AWS 'algorithm'"},
		{"presigned twice", presigned(0, 60), edit{"X-Amz-Expires=60&", "X-Amz-Expires=60&X-Amz-Expires=60&"}, IncompleteSignature, "must not occur more than once"},
		{"presigned header in query", presigned(0, 60), edit{"X-Amz-Expires=60&", "X-Amz-Expires=60&X-Amz-Log-Type=Tail&"}, IncompleteSignature,
			"'X-Amz-Log-Type' is not supported as a query-string parameter."},
		{"presigned in other case", presigned(0, 60), edit{"X-Amz-Signature", "x-amz-signature"}, IncompleteSignature, "'x-amz-signature' is not supported"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !bytes.Contains(tt.raw, []byte(tt.edit.old)) {
				t.Fatalf("%q does not occur in\n%s", tt.edit.old, tt.raw)
			}
			_, _, _, err := verify(newVerifier(), bytes.Replace(tt.raw, []byte(tt.edit.old), []byte(tt.edit.new), 1))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != tt.code || !strings.Contains(e.Message, tt.message) {
				t.Fatalf("got %#v, want %s: %s", err, tt.code, tt.message)
			}
		})
	}
}

func manyHeaders() string {
	var b strings.Builder
	for i := range maxHeaders {
		fmt.Fprintf(&b, "X-%d: a\r\n", i)
	}
	return b.String()
}

func TestEdgesOfTimeAreAccepted(t *testing.T) {
	temporary := aws.Credentials{AccessKeyID: tempID, SecretAccessKey: secret, SessionToken: token}
	for name, raw := range map[string][]byte{
		"five minutes old":     calls["get"].signed(t, credentials, epoch.Add(-maxSkew)),
		"five minutes early":   calls["get"].signed(t, credentials, epoch.Add(maxSkew)),
		"last second of a URL": calls["get"].presigned(t, epoch.Add(-time.Hour), 3600),
		"week":                 calls["get"].presigned(t, epoch.Add(-maxLifetime), 604800),
		"session token":        calls["get"].signed(t, temporary, epoch),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, _, err := verify(newVerifier(), raw); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestATemporaryKeyIsItsRoles(t *testing.T) {
	temporary := aws.Credentials{AccessKeyID: tempID, SecretAccessKey: secret, SessionToken: token}
	r := calls["query"].request(t)
	q := r.URL.Query()
	q.Set("X-Amz-Expires", "60")
	r.URL.RawQuery = q.Encode()
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), temporary, r, hash(""), "lambda", "us-east-1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		t.Fatal(err)
	}
	want := Identity{Account: account, AccessKeyID: tempID, Role: role}
	presigned := wire(t, r)
	for form, raw := range map[string][]byte{"header": calls["get"].signed(t, temporary, epoch), "presigned": presigned} {
		if id, _, _, err := verify(newVerifier(), raw); err != nil || id != want {
			t.Errorf("%s: got %v, %v", form, id, err)
		}
	}
	other := bytes.Replace(presigned, []byte("X-Amz-Security-Token=F"), []byte("X-Amz-Security-Token=G"), 1)
	if _, _, _, err := verify(newVerifier(), other); err == nil || bytes.Equal(other, presigned) {
		t.Errorf("another token is accepted: %v", err)
	}
}

func TestPayloadHashMustBeTheBodys(t *testing.T) {
	c := calls["body"]
	for value, ok := range map[string]bool{hash(c.body): true, hash(""): false, "UNSIGNED-PAYLOAD": false, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": false} {
		t.Run(value, func(t *testing.T) {
			r := c.request(t)
			r.Header.Set("X-Amz-Content-Sha256", value)
			if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, value, "lambda", "us-east-1", epoch); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := verify(newVerifier(), wire(t, r)); (err == nil) != ok {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// meaning is what handlers read of a request, for comparing two that are both accepted.
func meaning(r *http.Request, body []byte) string {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	params, err := url.ParseQuery(query)
	parts := []string{r.Method, path, fmt.Sprint(params, err), r.Host, string(body)}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name == "Content-Type" || name == "Content-Length" || strings.HasPrefix(name, "X-Amz-") {
			parts = append(parts, name, strings.Join(strings.Fields(strings.Join(r.Header[name], ",")), " "))
		}
	}
	return strings.Join(parts, "\n")
}

func TestNoByteCanBeChanged(t *testing.T) {
	v := newVerifier()
	for name, c := range calls {
		for form, raw := range map[string][]byte{"header": c.signed(t, credentials, epoch), "presigned": c.presigned(t, epoch, 60)} {
			t.Run(name+"/"+form, func(t *testing.T) {
				_, r, body, err := verify(v, raw)
				if err != nil {
					t.Fatal(err)
				}
				want, refused := meaning(r, body), 0
				for i := range raw {
					for _, flip := range []byte{0x01, 0x02, 0x10, 0x20, 0x80} {
						changed := bytes.Clone(raw)
						changed[i] ^= flip
						_, r, body, err := verify(v, changed)
						if err != nil {
							refused++
						} else if got := meaning(r, body); got != want {
							t.Fatalf("byte %d changed to %q is accepted as\n%s\nnot\n%s", i, changed[i], got, want)
						}
					}
				}
				if refused == 0 {
					t.Fatal("nothing was refused")
				}
			})
		}
	}
}

func FuzzVerify(f *testing.F) {
	for _, c := range calls {
		f.Add(c.signed(f, credentials, epoch))
		f.Add(c.presigned(f, epoch, 60))
	}
	v := newVerifier()
	known := map[string]bool{}
	for _, c := range calls {
		for _, raw := range [][]byte{c.signed(f, credentials, epoch), c.presigned(f, epoch, 60)} {
			_, r, body, err := verify(v, raw)
			if err != nil {
				f.Fatal(err)
			}
			known[meaning(r, body)] = true
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, r, body, err := verify(v, raw)
		if err == nil && (id.AccessKeyID != keyID || !known[meaning(r, body)]) {
			t.Fatalf("accepted as %v:\n%s", id, raw)
		}
		if _, ok := errors.AsType[*Error](err); err != nil && !ok && err != errNotHTTP {
			t.Fatalf("untyped error %v", err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	c := calls["body"]
	c.body = `"` + strings.Repeat("x", 1022) + `"`
	raw := c.signed(b, credentials, epoch)
	v := newVerifier()
	_, r, body, err := verify(v, raw)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := check(v, r, body); err != nil {
			b.Fatal(err)
		}
	}
}

// check is what a server does with a request.
func check(v *Verifier, r *http.Request, body []byte) (Identity, error) {
	s, err := v.Read(r)
	if err != nil {
		return Identity{}, err
	}
	return s.Verify(body)
}
