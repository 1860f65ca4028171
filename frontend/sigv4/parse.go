package sigv4

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// claim is what a request says about its own signature.
type claim struct {
	accessKeyID string
	scope       scope
	// headers are the signed headers' names: lower case, ascending, each present exactly once.
	headers   []string
	signature string
	// time is in UTC and whole seconds.
	time  time.Time
	token string
	// payload is X-Amz-Content-Sha256, "" if the request does not have it.
	payload   string
	presigned bool
	// lifetime is X-Amz-Expires of a presigned request.
	lifetime time.Duration
	// query is the query string without the signature.
	query []param
}

type scope struct{ date, region, service, terminator string }

// param is one decoded parameter of a query string.
type param struct{ name, value string }

func parse(r *http.Request) (*claim, error) {
	params, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(r.RequestURI, "/") {
		return nil, refuse(IncompleteSignature, "The request line must name a path.")
	}
	if len(r.Header) > maxHeaders {
		return nil, refuse(IncompleteSignature, "Too many headers.")
	}
	inHeader := len(r.Header["Authorization"]) > 0
	inQuery := isPresigned(params)
	c := &claim{query: params, presigned: inQuery}
	switch {
	case inHeader && inQuery:
		err = refuse(IncompleteSignature, "Only one of the Authorization header and the X-Amz-Algorithm query-string parameter may be given.")
	case inHeader:
		err = c.readHeader(r.Header)
	case inQuery:
		err = c.readQuery()
	default:
		err = refuse(MissingAuthenticationToken, "Missing Authentication Token")
	}
	if err != nil {
		return nil, err
	}
	return c, c.checkHeaders(r)
}

// parseQuery splits a query string as net/url does, but keeps the order, bounds the count and refuses what net/url would drop.
func parseQuery(raw string) ([]param, error) {
	if strings.Count(raw, "&") >= maxParams {
		return nil, refuse(IncompleteSignature, "Too many query-string parameters.")
	}
	var params []param
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil || strings.Contains(part, ";") {
			return nil, refuse(IncompleteSignature, "Malformed query-string parameter.")
		}
		params = append(params, param{name, value})
	}
	return params, nil
}

func isPresigned(params []param) bool {
	for _, p := range params {
		switch p.name {
		case "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature":
			return true
		}
	}
	return false
}

func (c *claim) readHeader(h http.Header) error {
	fields, err := authorization(h)
	if err != nil {
		return err
	}
	var date string
	for name, p := range map[string]*string{"X-Amz-Date": &date, "X-Amz-Security-Token": &c.token, "X-Amz-Content-Sha256": &c.payload} {
		if len(h[name]) > 1 {
			return duplicate(name)
		}
		*p = h.Get(name)
	}
	if date == "" {
		date = h.Get("Date")
	}
	if msg := missing(fields, date); msg != "" {
		return refuse(IncompleteSignature, "%s", msg)
	}
	return c.set(fields["Credential"], fields["SignedHeaders"], fields["Signature"], date)
}

// authorization splits the Authorization header into its named parts.
func authorization(h http.Header) (map[string]string, error) {
	fields := make(map[string]string, 3)
	if len(h["Authorization"]) > 1 {
		return nil, duplicate("Authorization")
	}
	scheme, rest, _ := strings.Cut(h["Authorization"][0], " ")
	if scheme != algorithm {
		return fields, nil
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, refuse(IncompleteSignature, "'%s' not a valid key=value pair (missing equal-sign) in Authorization header.", strings.TrimSpace(part))
		}
		switch _, dup := fields[name]; {
		case dup:
			return nil, duplicate(name)
		case name != "Credential" && name != "SignedHeaders" && name != "Signature":
			return nil, refuse(IncompleteSignature, "'%s' is not a parameter of the Authorization header.", name)
		}
		fields[name] = value
	}
	return fields, nil
}

// missing says, as AWS does, all that an Authorization header lacks.
func missing(fields map[string]string, date string) string {
	var msgs []string
	for _, name := range []string{"Credential", "Signature", "SignedHeaders"} {
		if fields[name] == "" {
			msgs = append(msgs, "Authorization header requires '"+name+"' parameter.")
		}
	}
	if date == "" {
		msgs = append(msgs, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
	}
	return strings.Join(msgs, " ")
}

func (c *claim) readQuery() error {
	auth, err := c.takeAuth()
	if err != nil {
		return err
	}
	for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date"} {
		if auth[name] == "" {
			return refuse(IncompleteSignature, "AWS query-string parameters must include 'X-Amz-Algorithm', 'X-Amz-Credential', "+
				"'X-Amz-Signature', 'X-Amz-SignedHeaders' and 'X-Amz-Date'. Re-examine the query-string parameters.")
		}
	}
	if auth["X-Amz-Algorithm"] != algorithm {
		return refuse(IncompleteSignature, "Unsupported AWS 'algorithm': '%s'.", auth["X-Amz-Algorithm"])
	}
	seconds, err := strconv.ParseUint(auth["X-Amz-Expires"], 10, 32)
	if err != nil || seconds < 1 || seconds > uint64(maxLifetime/time.Second) {
		return refuse(IncompleteSignature, "X-Amz-Expires must be a number of seconds between 1 and %d.", maxLifetime/time.Second)
	}
	c.lifetime = time.Duration(seconds) * time.Second
	c.token, c.payload = auth["X-Amz-Security-Token"], auth["X-Amz-Content-Sha256"]
	return c.set(auth["X-Amz-Credential"], auth["X-Amz-SignedHeaders"], auth["X-Amz-Signature"], auth["X-Amz-Date"])
}

// takeAuth returns the parameters that begin with X-Amz- and takes the signature out of the query. An unknown one is refused:
// it may be a header that a client moved into the URL, where no operation would see it.
func (c *claim) takeAuth() (map[string]string, error) {
	auth := make(map[string]string, 8)
	rest := c.query[:0]
	for _, p := range c.query {
		if p.name != "X-Amz-Signature" {
			rest = append(rest, p)
		}
		if !strings.HasPrefix(strings.ToLower(p.name), "x-amz-") {
			continue
		}
		if !isAuthParam(p.name) {
			return nil, refuse(IncompleteSignature, "'%s' is not supported as a query-string parameter.", p.name)
		}
		if _, dup := auth[p.name]; dup {
			return nil, duplicate(p.name)
		}
		auth[p.name] = p.value
	}
	c.query = rest
	return auth, nil
}

func isAuthParam(name string) bool {
	switch name {
	case "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
		"X-Amz-Security-Token", "X-Amz-Content-Sha256", "X-Amz-User-Agent":
		return true
	}
	return false
}

// set fills c from the four parts that both places of a signature have.
func (c *claim) set(credential, signedHeaders, signature, date string) error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || parts[0] == "" {
		return refuse(IncompleteSignature, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'", credential)
	}
	t, err := parseTime(date)
	if err != nil {
		return refuse(IncompleteSignature, "Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", date)
	}
	c.accessKeyID = parts[0]
	c.scope = scope{parts[1], parts[2], parts[3], parts[4]}
	c.headers = strings.Split(signedHeaders, ";")
	c.signature = signature
	c.time = t.UTC()
	return nil
}

// parseTime reads ISO 8601's basic format, and the forms of the Date header, which a client may sign in place of X-Amz-Date.
func parseTime(s string) (time.Time, error) {
	if t, err := time.Parse(timeFormat, s); err == nil {
		return t, nil
	}
	return http.ParseTime(s)
}

// checkHeaders makes sure that every header that must be signed is, and that no signed header can be read in two ways.
func (c *claim) checkHeaders(r *http.Request) error {
	signed := make(map[string]bool, len(c.headers))
	for i, name := range c.headers {
		if i > 0 && name <= c.headers[i-1] || name != strings.ToLower(name) {
			return refuse(IncompleteSignature, "SignedHeaders must be in lower case and ascending order.")
		}
		if n := len(r.Header[textproto.CanonicalMIMEHeaderKey(name)]); name != "host" && n != 1 {
			if n > 1 {
				return duplicate(name)
			}
			return mismatch()
		}
		signed[name] = true
	}
	if !signed["host"] {
		return unsigned("Host")
	}
	if !c.presigned && !signed["x-amz-date"] && !signed["date"] {
		return unsigned("X-Amz-Date")
	}
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !signed[lower] {
			return unsigned(name)
		}
	}
	return nil
}

func duplicate(name string) *Error {
	return refuse(IncompleteSignature, "'%s' must not occur more than once.", name)
}

func unsigned(name string) *Error {
	return refuse(InvalidSignature, "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
}
