package sigv4

import (
	"cmp"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// canonicalRequest is the specification's canonical form of r, whose payload has the given SHA-256 in hexadecimal.
func (c *claim) canonicalRequest(r *http.Request, payload string) string {
	var b strings.Builder
	b.Grow(1 << 10)
	b.WriteString(r.Method)
	b.WriteByte('\n')
	path, _, _ := strings.Cut(r.RequestURI, "?")
	escape(&b, path, true)
	b.WriteByte('\n')
	writeQuery(&b, c.query)
	b.WriteByte('\n')
	for _, name := range c.headers {
		value := r.Host
		if name != "host" {
			value = r.Header[textproto.CanonicalMIMEHeaderKey(name)][0]
		}
		b.WriteString(name)
		b.WriteByte(':')
		writeTrimmed(&b, value)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(c.headers, ";"))
	b.WriteByte('\n')
	b.WriteString(payload)
	return b.String()
}

// writeQuery writes params escaped anew and sorted by name, then value, as they read when escaped.
func writeQuery(b *strings.Builder, params []param) {
	escaped := make([]param, len(params))
	for i, p := range params {
		escaped[i] = param{escapeString(p.name), escapeString(p.value)}
	}
	slices.SortFunc(escaped, func(x, y param) int {
		return cmp.Or(strings.Compare(x.name, y.name), strings.Compare(x.value, y.value))
	})
	for i, p := range escaped {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(p.value)
	}
}

func escapeString(s string) string {
	var b strings.Builder
	escape(&b, s, false)
	return b.String()
}

// escape percent-encodes all but RFC 3986's unreserved characters, and slashes if path is set.
func escape(b *strings.Builder, s string, path bool) {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch ch := s[i]; {
		case 'a' <= ch && ch <= 'z', 'A' <= ch && ch <= 'Z', '0' <= ch && ch <= '9',
			ch == '-', ch == '.', ch == '_', ch == '~', ch == '/' && path:
			b.WriteByte(ch)
		default:
			b.Write([]byte{'%', hex[ch>>4], hex[ch&15]})
		}
	}
}

// writeTrimmed writes s without spaces around it and with one for each run of spaces in it.
func writeTrimmed(b *strings.Builder, s string) {
	s = strings.Trim(s, " ")
	for i := range len(s) {
		if s[i] == ' ' && s[i-1] == ' ' {
			continue
		}
		b.WriteByte(s[i])
	}
}
