package kiln

// Concurrency says how many invocations of an account may run at a time. The zero Concurrency says DefaultConcurrency of each.
type Concurrency struct {
	// Default is for accounts without a number of their own; 0 means DefaultConcurrency.
	Default  int
	Accounts map[AccountID]int
}

// Of returns how many invocations of a may run at a time.
func (c Concurrency) Of(a AccountID) int {
	if n, ok := c.Accounts[a]; ok {
		return n
	}
	if c.Default == 0 {
		return DefaultConcurrency
	}
	return c.Default
}
