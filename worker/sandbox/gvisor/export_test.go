package gvisor

// TreeName and FiltersVersion are for the tests.
func TreeName(dir string) string { return treeName(dir) }

const FiltersVersion = filtersVersion
