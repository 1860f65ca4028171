package kiln

import (
	"maps"
	"testing"
)

func TestProvisionedPlacesFollowTheWeights(t *testing.T) {
	aliases := map[AliasName]Alias{
		"live":   {Version: "1"},
		"canary": {Version: "1", Weights: map[Qualifier]float64{"2": 0.25}},
		"moving": {Version: "1", Weights: map[Qualifier]float64{"2": 1}},
		"2nd":    {Version: "2"},
	}
	for name, c := range map[string]struct {
		q      Qualifier
		places int
		want   map[Qualifier]int
	}{
		"a version":               {"7", 3, map[Qualifier]int{"7": 3}},
		"an alias":                {"live", 3, map[Qualifier]int{"1": 3}},
		"two versions":            {"canary", 8, map[Qualifier]int{"1": 6, "2": 2}},
		"one place":               {"canary", 1, map[Qualifier]int{"1": 1}},
		"all to the other":        {"moving", 5, map[Qualifier]int{"2": 5}},
		"a name with a digit":     {"2nd", 1, map[Qualifier]int{"2": 1}},
		"an alias that is absent": {"gone", 1, nil},
	} {
		p := Provisioned{Places: c.places}
		if got := p.Shares(c.q, aliases); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
