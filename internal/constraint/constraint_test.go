package constraint

import (
	"strings"
	"testing"
)

func TestViolationsAreWordedAsAWSDoes(t *testing.T) {
	lower := MustPattern("[a-z]+")
	for _, tt := range []struct {
		name  string
		check func(*Violations)
		want  string
	}{
		{"none", func(v *Violations) {
			v.Length("a", "xx", 1, 2)
			v.Range("a", 3, 1, 3)
			v.Enum("a", "x", "x", "y")
			v.Pattern("a", "abc", lower)
		}, ""},
		{"missing", func(v *Violations) { v.Missing("role") },
			"1 validation error detected: Value null at 'role' failed to satisfy constraint: Member must not be null"},
		{"too long", func(v *Violations) { v.Length("d", "abc", 0, 2) },
			"1 validation error detected: Value 'abc' at 'd' failed to satisfy constraint: Member must have length less than or equal to 2"},
		{"characters are counted, not bytes", func(v *Violations) { v.Length("d", "äöü", 0, 3) }, ""},
		{"too small", func(v *Violations) { v.Range("timeout", 0, 1, 900) },
			"1 validation error detected: Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"the whole value must match", func(v *Violations) { v.Pattern("n", "abc\n", lower) },
			"1 validation error detected: Value 'abc\n' at 'n' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-z]+"},
		{"too many", func(v *Violations) { v.Items("l", []string{"a", "b"}, 0, 1) },
			"1 validation error detected: Value '[a, b]' at 'l' failed to satisfy constraint: Member must have length less than or equal to 1"},
		{"too few", func(v *Violations) { v.Items("l", nil, 1, 1) },
			"1 validation error detected: Value '[]' at 'l' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"sensitive", func(v *Violations) { v.AddSensitive("e", "R") },
			"1 validation error detected: Value at 'e' failed to satisfy constraint: R"},
		{"two", func(v *Violations) { v.Length("a", "xyz", 1, 2); v.Enum("b", "q", "x", "y") },
			"2 validation errors detected: Value 'xyz' at 'a' failed to satisfy constraint: Member must have length less than or equal to 2; " +
				"Value 'q' at 'b' failed to satisfy constraint: Member must satisfy enum value set: [x, y]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v Violations
			tt.check(&v)
			if got := v.Message(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestAlternativesOfAPatternAreAnchoredTogether(t *testing.T) {
	if p := MustPattern("a|b"); p.Matches("ax") || p.Matches("xb") || !p.Matches("b") {
		t.Error("pattern a|b must match exactly a and b")
	}
	if !strings.HasSuffix(MustPattern("a|b").Rule(), ": a|b") {
		t.Error("a rule shows the pattern as AWS writes it")
	}
}
