// Package constraint words what breaks the constraints of AWS's API models, as AWS does.
package constraint

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Violations collects the members of one request that break a constraint. The zero value has none.
type Violations struct {
	found []string
}

// Message returns what AWS says of all violations together, "" if there is none.
func (v *Violations) Message() string {
	switch n := len(v.found); n {
	case 0:
		return ""
	case 1:
		return "1 validation error detected: " + v.found[0]
	default:
		return fmt.Sprintf("%d validation errors detected: %s", n, strings.Join(v.found, "; "))
	}
}

// maxShown is how many bytes of a value are repeated, so that an answer is not many times as long as its request.
const maxShown = 4 << 10

// Add adds a violation: rule is AWS's sentence, such as "Member must not be null". A value that is too long is cut.
func (v *Violations) Add(member, value, rule string) {
	if len(value) > maxShown {
		value = strings.ToValidUTF8(value[:maxShown], "") + "..."
	}
	v.found = append(v.found, fmt.Sprintf("Value '%s' at '%s' failed to satisfy constraint: %s", value, member, rule))
}

// AddSensitive adds a violation by a value that must not be shown.
func (v *Violations) AddSensitive(member, rule string) {
	v.found = append(v.found, fmt.Sprintf("Value at '%s' failed to satisfy constraint: %s", member, rule))
}

// AddList adds a violation by a list.
func (v *Violations) AddList(member string, list []string, rule string) {
	v.Add(member, "["+strings.Join(list, ", ")+"]", rule)
}

// Missing adds the violation that a required member is absent.
func (v *Violations) Missing(member string) {
	v.found = append(v.found, fmt.Sprintf("Value null at '%s' failed to satisfy constraint: Member must not be null", member))
}

// Length wants value to have min to max characters.
func (v *Violations) Length(member, value string, min, max int) {
	if rule := lengthRule(utf8.RuneCountInString(value), min, max); rule != "" {
		v.Add(member, value, rule)
	}
}

// Items wants list to have min to max elements.
func (v *Violations) Items(member string, list []string, min, max int) {
	if rule := lengthRule(len(list), min, max); rule != "" {
		v.AddList(member, list, rule)
	}
}

// lengthRule is the rule that a length of n breaks, "" if it is within min and max.
func lengthRule(n, min, max int) string {
	switch {
	case n > max:
		return fmt.Sprintf("Member must have length less than or equal to %d", max)
	case n < min:
		return fmt.Sprintf("Member must have length greater than or equal to %d", min)
	}
	return ""
}

// Range wants value to be min to max.
func (v *Violations) Range(member string, value, min, max int) {
	switch {
	case value > max:
		v.Add(member, fmt.Sprint(value), fmt.Sprintf("Member must have value less than or equal to %d", max))
	case value < min:
		v.Add(member, fmt.Sprint(value), fmt.Sprintf("Member must have value greater than or equal to %d", min))
	}
}

// Enum wants value to be one of allowed.
func (v *Violations) Enum(member, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	v.Add(member, value, EnumRule(allowed...))
}

// EnumRule is the sentence that a value must be one of allowed.
func EnumRule(allowed ...string) string {
	return "Member must satisfy enum value set: [" + strings.Join(allowed, ", ") + "]"
}

// Pattern wants the whole value to match p.
func (v *Violations) Pattern(member, value string, p Pattern) {
	if !p.Matches(value) {
		v.Add(member, value, p.Rule())
	}
}

// Pattern is a regular expression that a whole value must match.
type Pattern struct {
	text string
	re   *regexp.Regexp
}

// MustPattern returns the pattern that AWS's models write as text. It panics if text is no regular expression.
func MustPattern(text string) Pattern {
	return Pattern{text: text, re: regexp.MustCompile(`\A(?:` + text + `)\z`)}
}

// Matches reports whether all of value matches.
func (p Pattern) Matches(value string) bool { return p.re.MatchString(value) }

// Groups returns what the pattern's groups matched in value, the whole first, and nil if it does not match.
func (p Pattern) Groups(value string) []string { return p.re.FindStringSubmatch(value) }

// Rule is the sentence that a value must match p.
func (p Pattern) Rule() string { return "Member must satisfy regular expression pattern: " + p.text }
