package gvisor

// TreeName, FiltersVersion and MaxRestarts are for the tests.
func TreeName(dir string) string { return treeName(dir) }

const (
	FiltersVersion = filtersVersion
	MaxRestarts    = maxRestarts
)
