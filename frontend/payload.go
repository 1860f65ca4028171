package frontend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"kiln"
)

// source is how AWS's JSON parser says where a fault lies, up to the position.
const source = "\n at [Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); "

// checkPayload refuses an event that is not JSON text, in the words of the parser that AWS uses, which has read the
// offending byte when it says where it is.
func checkPayload(p []byte) error {
	fault, offset := "", 0
	if offset = invalidUTF8(p); offset < len(p) {
		fault = fmt.Sprintf("Invalid UTF-8 start byte %#x", p[offset])
		if continuation := utf8.RuneStart(p[offset]) && p[offset] >= 0xc2 && p[offset] < 0xf5 && offset+1 < len(p); continuation {
			offset++
			fault = fmt.Sprintf("Invalid UTF-8 middle byte %#x", p[offset])
		}
		offset++
	} else if !json.Valid(p) {
		fault, offset = syntaxFault(p)
	} else {
		return nil
	}
	line, column := position(p, offset)
	return kiln.Errorf(kiln.InvalidRequestContent, "Could not parse request body into json: Could not parse payload into json: %s%sline: %d, column: %d]",
		fault, source, line, column)
}

// invalidUTF8 returns the offset of the first byte of p that is not UTF-8, or len(p).
func invalidUTF8(p []byte) int {
	for i := 0; i < len(p); {
		_, n := utf8.DecodeRune(p[i:])
		if n == 1 && p[i] >= utf8.RuneSelf {
			return i
		}
		i += n
	}
	return len(p)
}

// syntaxFault says what is wrong with p, which is not JSON, and how many bytes one must read to see it.
func syntaxFault(p []byte) (string, int) {
	var discard json.RawMessage
	err, _ := errors.AsType[*json.SyntaxError](json.Unmarshal(p, &discard))
	if err == nil || err.Offset < 1 || int(err.Offset) > len(p) || err.Error() == "unexpected end of JSON input" {
		return "Unexpected end-of-input", len(p)
	}
	at := int(err.Offset) - 1
	if start, ok := wordStart(p, at, err); ok {
		return wrongToken(p, start)
	}
	r, _ := utf8.DecodeRune(p[at:])
	switch text := err.Error(); {
	case strings.HasSuffix(text, "in string literal"):
		return fmt.Sprintf("Illegal unquoted character ((CTRL-CHAR, code %d)): has to be escaped using backslash to be included in string value", r), at + 1
	case strings.HasSuffix(text, "in string escape code"):
		return fmt.Sprintf("Unrecognized character escape '%c' (code %d)", r, r), at + 1
	}
	return fmt.Sprintf("Unexpected character ('%c' (code %d))%s", r, r, expected(r, err)), at + 1
}

const values = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"

// expected is what the parser wants in place of r, by where the fault is.
func expected(r rune, err error) string {
	for _, c := range []struct{ context, want string }{
		{"looking for beginning of object key string", ": was expecting double-quote to start field name"},
		{"after object key:value pair", ": was expecting comma to separate Object entries"},
		{"after object key", ": was expecting a colon to separate field name and value"},
		{"after array element", ": was expecting comma to separate Array entries"},
	} {
		if strings.HasSuffix(err.Error(), c.context) {
			return c.want
		}
	}
	switch {
	case !strings.HasSuffix(err.Error(), "looking for beginning of value"):
		return ""
	case strings.ContainsRune("]},", r):
		return ": expected a value"
	}
	return ": expected a valid value " + values
}

// wordStart returns where the word begins that p[at] is part of or ends, and false if there is none in place of a value.
func wordStart(p []byte, at int, err error) (int, bool) {
	start := at
	for start > 0 && isWord(p[start-1]) {
		start--
	}
	text := err.Error()
	value := strings.HasSuffix(text, "looking for beginning of value") || strings.Contains(text, " in literal ") ||
		strings.Contains(text, " after ") && start < at
	return start, value && isWord(p[start]) && (p[start] < '0' || p[start] > '9')
}

// isWord reports whether c may be part of a word such as true.
func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$'
}

// wrongToken says that the word at start is none of JSON's. The parser has read the byte after it.
func wrongToken(p []byte, start int) (string, int) {
	const maxToken = 256
	end := start
	for end < len(p) && isWord(p[end]) && end-start < maxToken {
		end++
	}
	token := p[start:end]
	if end-start == maxToken {
		token = append(bytes.Clone(token), "..."...)
	}
	return fmt.Sprintf("Unrecognized token '%s': was expecting %s", token, values), min(end+1, len(p))
}

// position turns an offset into a line and a column, both from 1.
func position(p []byte, offset int) (line, column int) {
	line, column = 1, 1
	for _, c := range p[:offset] {
		column++
		if c == '\n' {
			line, column = line+1, 1
		}
	}
	return line, column
}
