package catalog

import "kiln"

// AccessKey lets its bearer act as an account. It is stored as JSON under AccessKeyKey.
type AccessKey struct {
	ID      string
	Secret  string
	Account kiln.AccountID
}
