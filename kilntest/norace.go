//go:build !race

package kilntest

// raceFlags are what programs are built with that tests run: without the race detector, as the tests themselves.
func raceFlags() []string { return nil }
