package frontend

import (
	"encoding/json"
	"errors"
	"fmt"
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
	r, _ := utf8.DecodeRune(p[err.Offset-1:])
	return fmt.Sprintf("Unexpected character (%q (code %d))", r, r), int(err.Offset)
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
