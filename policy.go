package kiln

import (
	"slices"
	"strings"
)

// Policy is the resource-based policy of a function, or of a version or an alias of it
// (https://docs.aws.amazon.com/lambda/latest/dg/access-control-resource-based.html). The zero Policy allows nothing.
type Policy struct {
	Permissions []Permission
	// RevisionID changes with every change of the policy; callers compare it.
	RevisionID string
}

// PolicyOf returns which policy of a function is about q of it: that of LatestVersion is the function's own.
func PolicyOf(policies map[Qualifier]Policy, q Qualifier) Policy {
	if q == LatestVersion {
		q = ""
	}
	return policies[q]
}

// Permission is one statement of a Policy. It allows what it names to whom it names, where everything holds that it asks for besides.
type Permission struct {
	StatementID string
	// Action is "lambda:" and the name of an action, or one of what stands for all.
	Action string
	// Principal is the number of an account, the ARN of an identity of one, the domain name of an AWS service, or Everybody.
	Principal string
	// SourceARN and SourceAccount are of the resource for which a service acts. The former may have wildcards.
	SourceARN     string    `json:",omitempty"`
	SourceAccount AccountID `json:",omitempty"`
	// EventSourceToken is one that an Alexa skill shows.
	EventSourceToken string `json:",omitempty"`
	// Organization is that of the caller's account in AWS Organizations.
	Organization string `json:",omitempty"`
	// URLAuthType is the AuthType of the function URL that is called.
	URLAuthType string `json:",omitempty"`
	// ViaURL says that only calls of a function URL are allowed.
	ViaURL bool `json:",omitempty"`
}

// Everybody is what a Permission may name instead of one principal.
const Everybody = "*"

// Access is what somebody wants to do, as policies are asked.
type Access struct {
	// Action is such as "lambda:InvokeFunction".
	Action string
	// Account is the caller's, and Role the ARN of the role that it acts in, "" if it is the account itself.
	Account AccountID
	Role    string
	// Service is the domain name of the AWS service that calls, "" if none does. It acts for the resource SourceARN of SourceAccount.
	Service       string
	SourceARN     string
	SourceAccount AccountID
}

// Allows reports whether a statement of p allows a.
func (p *Policy) Allows(a Access) bool {
	return slices.ContainsFunc(p.Permissions, func(s Permission) bool { return s.allows(a) })
}

func (s *Permission) allows(a Access) bool {
	isAny := s.Action == "*" || s.Action == "lambda:*"
	if !isAny && !strings.EqualFold(s.Action, a.Action) || !s.names(a) {
		return false
	}
	// What nobody shows here is shown by nobody: members of organizations, skills, callers of URLs.
	if s.Organization != "" || s.EventSourceToken != "" || s.URLAuthType != "" || s.ViaURL {
		return false
	}
	return (s.SourceARN == "" || MatchARN(s.SourceARN, a.SourceARN)) && (s.SourceAccount == "" || s.SourceAccount == a.SourceAccount)
}

// names reports whether s is about who wants a.
func (s *Permission) names(a Access) bool {
	if s.Principal == Everybody {
		return true
	}
	if a.Service != "" {
		return s.Principal == a.Service
	}
	if s.Principal == a.Role && strings.Contains(a.Role, "::"+string(a.Account)+":") {
		return true
	}
	return AccountID(s.Principal) == a.Account || s.Principal == "arn:aws:iam::"+string(a.Account)+":root"
}

// arnParts is how many parts an ARN has, of which the last may contain what separates them.
const arnParts = 6

// MatchARN reports whether an ARN is one that a pattern describes, as the condition operator ArnLike has it: in each part * stands for any
// characters, and ? for one (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html).
func MatchARN(pattern, arn string) bool {
	want, got := strings.SplitN(pattern, ":", arnParts), strings.SplitN(arn, ":", arnParts)
	return len(want) == len(got) && slices.EqualFunc(want, got, matches)
}

// matches reports whether text is what pattern describes. It takes time in proportion to the product of their lengths at most.
func matches(pattern, text string) bool {
	star, retry := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0: // the last star takes one more
			retry++
			p, t = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
