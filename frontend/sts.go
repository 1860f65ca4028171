package frontend

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/frontend/restjson"
	"kiln/frontend/sigv4"
)

const (
	// stsService is the signing name of AWS Security Token Service, whose requests come to the same endpoint in AWS's query protocol:
	// https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
	stsService   = "sts"
	stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"
	stsVersion   = "2011-06-15"
	// maxQuery bounds a request's body in bytes.
	maxQuery = 16 << 10
)

// isQuery reports whether r is a request in AWS's query protocol, which no operation of the Lambda API is.
func isQuery(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Path == "/" }

// callerIdentity is the answer of GetCallerIdentity.
type callerIdentity struct {
	XMLName xml.Name `xml:"GetCallerIdentityResponse"`
	XMLNS   string   `xml:"xmlns,attr"`
	Arn     string   `xml:"GetCallerIdentityResult>Arn"`
	UserID  string   `xml:"GetCallerIdentityResult>UserId"`
	Account string   `xml:"GetCallerIdentityResult>Account"`
	Request string   `xml:"ResponseMetadata>RequestId"`
}

// queryError is an answer that says what is wrong.
type queryError struct {
	XMLName xml.Name `xml:"ErrorResponse"`
	XMLNS   string   `xml:"xmlns,attr"`
	Type    string   `xml:"Error>Type"`
	Code    string   `xml:"Error>Code"`
	Message string   `xml:"Error>Message"`
	Request string   `xml:"RequestId"`

	status int
}

func (e *queryError) Error() string { return e.Code + ": " + e.Message }

// serveSTS answers a request to Security Token Service.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request) (restjson.Response, error) {
	id := exchangeOf(r.Context()).id
	out, err := s.callSTS(w, r)
	if bad, ok := errors.AsType[*queryError](err); ok {
		bad.XMLNS, bad.Type, bad.Request = stsNamespace, "Sender", string(id)
		return xmlResponse(bad.status, bad)
	}
	if err != nil {
		return restjson.Response{}, err
	}
	out.XMLNS, out.Request = stsNamespace, string(id)
	return xmlResponse(http.StatusOK, out)
}

func (s *Server) callSTS(w http.ResponseWriter, r *http.Request) (*callerIdentity, error) {
	identify, err := s.authenticate(r, s.sts)
	if err != nil {
		return nil, asQuery(err)
	}
	body, err := s.readBody(w, r, maxQuery)
	defer body.release()
	if errors.Is(err, errTooLarge) {
		return nil, &queryError{Code: "RequestEntityTooLarge", Message: "The request is too large.", status: http.StatusRequestEntityTooLarge}
	}
	if err != nil {
		return nil, err
	}
	caller, err := identify(body.bytes)
	if err != nil {
		return nil, asQuery(err)
	}
	form, err := url.ParseQuery(string(body.bytes))
	if err != nil {
		return nil, &queryError{Code: "MalformedQueryString", Message: "The query string contains a syntax error", status: http.StatusBadRequest}
	}
	if action, version := form.Get("Action"), form.Get("Version"); action != "GetCallerIdentity" || version != stsVersion {
		return nil, &queryError{Code: "InvalidAction", Message: "Could not find operation " + action + " for version " + version, status: http.StatusBadRequest}
	}
	arn, user := identityOf(caller)
	return &callerIdentity{Arn: arn, UserID: user, Account: string(caller.Account)}, nil
}

// asQuery turns what is wrong with a signature into the words of the query protocol.
func asQuery(err error) error {
	bad, ok := errors.AsType[*sigv4.Error](err)
	if !ok {
		if known, ok := errors.AsType[*kiln.Error](err); ok && known.Kind == kiln.AccessDenied {
			return &queryError{Code: "AccessDenied", Message: known.Message, status: http.StatusForbidden}
		}
		return err
	}
	code := map[sigv4.Code]string{
		sigv4.MissingAuthenticationToken: "MissingAuthenticationToken",
		sigv4.IncompleteSignature:        "IncompleteSignature",
		sigv4.UnrecognizedClient:         "InvalidClientTokenId",
		sigv4.ExpiredToken:               "ExpiredToken",
		sigv4.InvalidSignature:           "SignatureDoesNotMatch",
	}[bad.Code]
	return &queryError{Code: code, Message: bad.Message, status: http.StatusForbidden}
}

// identityOf returns the ARN and the unique identifier of who calls: an account itself, or a session of a role, which is named after its
// access key.
func identityOf(c api.Caller) (arn, user string) {
	if c.Role == "" {
		return "arn:aws:iam::" + string(c.Account) + ":root", string(c.Account)
	}
	const length = 16 // after the prefix, as AWS's
	sum := sha256.Sum256([]byte(c.Role))
	name := c.Role[strings.LastIndexByte(c.Role, '/')+1:]
	return "arn:aws:sts::" + string(c.Account) + ":assumed-role/" + name + "/" + c.AccessKeyID,
		"AROA" + base32.StdEncoding.EncodeToString(sum[:])[:length] + ":" + c.AccessKeyID
}

func xmlResponse(status int, answer any) (restjson.Response, error) {
	text, err := xml.Marshal(answer)
	return restjson.Response{Status: status, Header: http.Header{"Content-Type": {"text/xml"}}, Body: text}, err
}
