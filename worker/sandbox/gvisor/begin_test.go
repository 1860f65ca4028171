package gvisor_test

import (
	"testing"

	"kiln/worker/sandbox"
)

func TestAStartSaysOnceWhenItsTurnHasCome(t *testing.T) {
	e, _ := engine(t, t.TempDir())
	turns := 0
	start(t, e, sandbox.Spec{ID: "turn", Root: root(t), Limits: limits(), Begin: func() { turns++ }})
	if turns != 1 {
		t.Errorf("it said so %d times", turns)
	}
}
