package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln"
	"kiln/internal/constraint"
	"kiln/invoke/admission"
)

// maxConcurrency bounds what an account may run at a time: more than a machine can, and no sum of it overflows.
const maxConcurrency = 1_000_000

var accountPattern = constraint.MustPattern(`\d{12}`)

func (o *options) concurrencyFlags(c *cobra.Command) {
	f := c.Flags()
	f.IntVar(&o.concurrency, "concurrency", kiln.DefaultConcurrency, "how many invocations of an account may run at a time")
	f.StringArrayVar(&o.accounts, "account-concurrency", nil, "how many those of one account may be: `ACCOUNT=N`; may be repeated")
	f.IntVar(&o.starts, "scale-starts", admission.DefaultStarts, "how many execution environments of a function may be started within --scale-period")
	f.DurationVar(&o.startsPer, "scale-period", admission.DefaultStartsPer, "the time of --scale-starts")
}

func (o *options) validateConcurrency() []error {
	var faults []error
	if o.concurrency < 1 || o.concurrency > maxConcurrency {
		faults = append(faults, fmt.Errorf("--concurrency %d: want 1 to %d", o.concurrency, maxConcurrency))
	}
	if o.starts < 1 || o.starts > maxConcurrency {
		faults = append(faults, fmt.Errorf("--scale-starts %d: want 1 to %d", o.starts, maxConcurrency))
	}
	if o.startsPer < time.Second {
		faults = append(faults, fmt.Errorf("--scale-period %v: want %v or more", o.startsPer, time.Second))
	}
	for _, a := range o.accounts {
		if _, n, ok := accountConcurrency(a); !ok || n < 1 || n > maxConcurrency {
			faults = append(faults, fmt.Errorf("--account-concurrency %s: want ACCOUNT=N, a number of twelve digits and one of 1 to %d", a, maxConcurrency))
		}
	}
	return faults
}

// accountConcurrency reads ACCOUNT=N.
func accountConcurrency(s string) (kiln.AccountID, int, bool) {
	id, text, _ := strings.Cut(s, "=")
	n, err := strconv.Atoi(text)
	return kiln.AccountID(id), n, err == nil && accountPattern.Matches(id)
}

// limits are the concurrency of every account.
func (o *options) limits() kiln.Concurrency {
	c := kiln.Concurrency{Default: o.concurrency, Accounts: make(map[kiln.AccountID]int)}
	for _, a := range o.accounts {
		id, n, _ := accountConcurrency(a) // validated
		c.Accounts[id] = n
	}
	return c
}
