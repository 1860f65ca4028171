package kiln

import (
	"strings"
	"testing"
)

func TestAPolicyAllowsWhatAStatementNames(t *testing.T) {
	const (
		invoke = "lambda:InvokeFunction"
		role   = "arn:aws:iam::222222222222:role/r"
		bucket = "arn:aws:s3:::bucket"
	)
	other := Access{Action: invoke, Account: "222222222222"}
	asRole := Access{Action: invoke, Account: "222222222222", Role: role}
	storage := Access{Action: invoke, Service: "s3.amazonaws.com", SourceARN: bucket, SourceAccount: "333333333333"}
	for name, c := range map[string]struct {
		permission Permission
		access     Access
		want       bool
	}{
		"account":                 {Permission{Action: invoke, Principal: "222222222222"}, other, true},
		"another account":         {Permission{Action: invoke, Principal: "333333333333"}, other, false},
		"root":                    {Permission{Action: invoke, Principal: "arn:aws:iam::222222222222:root"}, other, true},
		"the account's role":      {Permission{Action: invoke, Principal: "222222222222"}, asRole, true},
		"role":                    {Permission{Action: invoke, Principal: role}, asRole, true},
		"only the role":           {Permission{Action: invoke, Principal: role}, other, false},
		"another account's role":  {Permission{Action: invoke, Principal: role}, Access{Action: invoke, Account: "333333333333", Role: role}, false},
		"no role":                 {Permission{Action: invoke, Principal: ""}, other, false},
		"everybody":               {Permission{Action: invoke, Principal: Everybody}, other, true},
		"another action":          {Permission{Action: "lambda:GetFunction", Principal: Everybody}, other, false},
		"every action":            {Permission{Action: "lambda:*", Principal: Everybody}, other, true},
		"organization":            {Permission{Action: invoke, Principal: Everybody, Organization: "o-1234567890"}, other, false},
		"token":                   {Permission{Action: invoke, Principal: Everybody, EventSourceToken: "t"}, other, false},
		"URL":                     {Permission{Action: invoke, Principal: Everybody, ViaURL: true}, other, false},
		"kind of URL":             {Permission{Action: invoke, Principal: Everybody, URLAuthType: "NONE"}, other, false},
		"service":                 {Permission{Action: invoke, Principal: "s3.amazonaws.com"}, storage, true},
		"another service":         {Permission{Action: invoke, Principal: "sns.amazonaws.com"}, storage, false},
		"a service's source":      {Permission{Action: invoke, Principal: "s3.amazonaws.com", SourceARN: "arn:aws:s3:::b*"}, storage, true},
		"another source":          {Permission{Action: invoke, Principal: "s3.amazonaws.com", SourceARN: "arn:aws:s3:::c*"}, storage, false},
		"its account":             {Permission{Action: invoke, Principal: "s3.amazonaws.com", SourceAccount: "333333333333"}, storage, true},
		"another of its accounts": {Permission{Action: invoke, Principal: "s3.amazonaws.com", SourceAccount: "222222222222"}, storage, false},
		"source of nobody":        {Permission{Action: invoke, Principal: Everybody, SourceARN: bucket}, other, false},
		"service for an account":  {Permission{Action: invoke, Principal: ""}, storage, false},
	} {
		p := Policy{Permissions: []Permission{{Action: "lambda:Nothing", Principal: "1"}, c.permission}}
		if got := p.Allows(c.access); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (&Policy{}).Allows(other) {
		t.Error("no policy allows something")
	}
}

func TestARNsAreMatchedPartByPart(t *testing.T) {
	for _, c := range []struct {
		pattern, arn string
		want         bool
	}{
		{"arn:aws:s3:::a", "arn:aws:s3:::a", true},
		{"arn:aws:s3:::a", "arn:aws:s3:::ab", false},
		{"arn:aws:s3:::a?c", "arn:aws:s3:::abc", true},
		{"arn:aws:s3:::*b*d", "arn:aws:s3:::abcbd", true},
		{"arn:aws:s3:::*b*d", "arn:aws:s3:::abcbe", false},
		{"arn:*:s3:::a", "arn:aws:s3:::a", true},
		{"arn:*", "arn:aws:s3:::a", false},
		{"arn:*:a", "arn:aws:s3:::a", false},
		{"arn:aws:events:*:1:rule/*", "arn:aws:events:us-east-1:1:rule/a:b", true},
		{"arn:aws:events:*:1:rule/*", "arn:aws:events:us-east-1:2:rule/a", false},
		{"arn:aws:s3:::**", "arn:aws:s3:::", true},
		{"arn:aws:s3:::" + strings.Repeat("*a", 500), "arn:aws:s3:::" + strings.Repeat("a", 2000) + "b", false},
	} {
		if got := MatchARN(c.pattern, c.arn); got != c.want {
			t.Errorf("%.40s, %.40s: %v", c.pattern, c.arn, got)
		}
	}
}
