package environment

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"kiln"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// inSpare has an environment start in a spare sandbox, in which a process waits for its function.
func inSpare(t *testing.T, adopt bool) func(*Config) {
	return func(c *Config) {
		s, err := Boot(t.Context(), SpareConfig{
			Engine: c.Engine, Sandbox: sandbox.Spec{ID: "spare", Slot: "/slot", Limits: sandbox.Limits{CPUs: 1, Weight: 25}},
			Process: &wire.Header{Args: []string{"interpreter", "wait"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Sandbox.ID, c.Sandbox.Limits.MemoryBytes = s.ID, 7<<20
		c.Process.Env, c.Process.Dir = []string{"A=b"}, "/task"
		c.Spare = s
		c.Handover = Handover{Mounts: []Mount{{Name: "code", Source: "/host/code", Target: "/task"}}, Adopt: adopt}
	}
}

func TestASpareSandboxBecomesAFunctions(t *testing.T) {
	f := start(t, (*guest).serve, inSpare(t, true))
	if res, reusable := f.invoke(t, `{"n":1}`); string(res.Payload) != `{"n":1}` || !reusable || res.Timing.Init == 0 || res.Timing.Start != kiln.Adopted {
		t.Errorf("got %s %+v, reusable %v", res.Payload, res.Timing, reusable)
	}
	b := f.engine.boxes[0]
	if len(f.engine.boxes) != 1 || b.memory != 7<<20 || b.cpus != 0.5 || !slices.Equal(b.weights, []int{25, initWeight, 0}) || !slices.Equal(b.mounts, []string{"code=/host/code"}) {
		t.Errorf("%d sandboxes; %d bytes, %v processors, mounts %v", len(f.engine.boxes), b.memory, b.cpus, b.mounts)
	}
	if s := b.guest.start; !slices.Equal(s.Binds, []wire.Bind{{Source: "/slot/code", Target: "/task"}}) || !s.Adopt {
		t.Errorf("the guest was told %+v", s)
	}
	if h := b.guest.begin; h.Type != wire.Begin || !slices.Equal(h.Env, []string{"A=b"}) || h.Dir != "/task" {
		t.Errorf("the process that waited was told %+v", h)
	}
}

func TestAProcessThatCannotBeAdoptedIsReplaced(t *testing.T) {
	f := start(t, (*guest).serve, inSpare(t, false))
	if res, _ := f.invoke(t, `1`); string(res.Payload) != `1` || res.Timing.Start != kiln.Restarted {
		t.Errorf("got %s %+v", res.Payload, res.Timing)
	}
	if g := f.engine.boxes[0].guest; g.start.Adopt || g.begin.Type != "" || len(f.engine.boxes) != 1 {
		t.Errorf("the guest was told %+v", g.start)
	}
}

func TestASpareThatHasEndedCostsATryAndNoMore(t *testing.T) {
	f := start(t, (*guest).serve, inSpare(t, true), func(c *Config) {
		if err := c.Spare.Destroy(); err != nil {
			t.Fatal(err)
		}
		<-c.Spare.Ended()
	})
	if res, _ := f.invoke(t, `1`); string(res.Payload) != `1` || res.Timing.Start != kiln.Booted {
		t.Errorf("got %s %+v", res.Payload, res.Timing)
	}
	if len(f.engine.boxes) != 2 || f.engine.boxes[1].guest.start.Adopt {
		t.Errorf("%d sandboxes", len(f.engine.boxes))
	}
}

// failInit is a runtime that does not find its function.
func (g *guest) failInit() {
	g.say(g.invocations, wire.Header{Type: wire.InitError, ErrorType: "Runtime.ImportModuleError"}, `{"errorType":"Runtime.ImportModuleError"}`)
}

func TestASpareThatIsTakenAwayDuringInitIsReplacedOnce(t *testing.T) {
	lost := errors.New("a process was killed")
	for name, c := range map[string]struct {
		first  func(*guest)
		starts int
		answer string
	}{
		"its files are gone":      {func(g *guest) { g.cripple(); g.failInit() }, 2, `1`},
		"it ends without a word":  {func(g *guest) { g.die(lost) }, 2, `1`},
		"the function fails":      {(*guest).failInit, 1, `{"errorType":"Runtime.ImportModuleError"}`},
		"the function ends":       {func(g *guest) { g.exit("exit status 3") }, 1, "exit status 3"},
		"the function is too big": {func(g *guest) { g.die(sandbox.ErrKilledByMemory) }, 1, "Runtime.OutOfMemory"},
	} {
		t.Run(name, func(t *testing.T) {
			begun := 0
			f := start(t, func(g *guest) {
				if begun++; begun == 1 {
					c.first(g)
					return
				}
				g.serve()
			}, inSpare(t, true))
			res, _ := f.invoke(t, `1`)
			if !strings.Contains(string(res.Payload), c.answer) || len(f.engine.boxes) != c.starts {
				t.Errorf("%s after %d sandboxes, want %s after %d", res.Payload, len(f.engine.boxes), c.answer, c.starts)
			}
		})
	}
}

func TestASandboxThatReplacesASpareIsNotReplaced(t *testing.T) {
	f := start(t, func(g *guest) { g.cripple(); g.failInit() }, inSpare(t, true))
	if res, reusable := f.invoke(t, `1`); !strings.Contains(string(res.Payload), "ImportModuleError") || reusable || len(f.engine.boxes) != 2 {
		t.Errorf("%s after %d sandboxes", res.Payload, len(f.engine.boxes))
	}
}

func TestTheEndOfAWaitingProcessIsSeen(t *testing.T) {
	engine := &fakeEngine{t: t, script: (*guest).serve}
	s, err := Boot(t.Context(), SpareConfig{Engine: engine, Sandbox: sandbox.Spec{ID: "spare"}, Process: &wire.Header{Args: []string{"interpreter"}}})
	if err != nil {
		t.Fatal(err)
	}
	engine.boxes[0].guest.exit("signal: killed")
	<-s.Ended()
	if err := s.Destroy(); err != nil {
		t.Error(err)
	}
}
