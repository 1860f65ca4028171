package kiln

import "testing"

func TestAliasesChooseByWeight(t *testing.T) {
	for name, c := range map[string]struct {
		alias Alias
		draw  float64
		want  Qualifier
	}{
		"no weights":           {Alias{Version: "1"}, 0, "1"},
		"below the weight":     {Alias{Version: "1", Weights: map[Qualifier]float64{"2": 0.25}}, 0.2499, "2"},
		"at the weight":        {Alias{Version: "1", Weights: map[Qualifier]float64{"2": 0.25}}, 0.25, "1"},
		"nothing to the other": {Alias{Version: "1", Weights: map[Qualifier]float64{"2": 0}}, 0, "1"},
		"all to the other":     {Alias{Version: "1", Weights: map[Qualifier]float64{"2": 1}}, 0.9999, "2"},
	} {
		if got := c.alias.Choose(c.draw); got != c.want {
			t.Errorf("%s: chose %s, want %s", name, got, c.want)
		}
	}
}
