package extensionapi

import (
	"slices"
	"testing"
)

func TestExtensionsAreHeldToTheirStates(t *testing.T) {
	type step struct {
		do   string
		want string // the type of the refusal
	}
	for name, steps := range map[string][]step{
		"a life":                      {{"register", ""}, {"next", ""}, {"release", ""}, {"next", ""}, {"exit", ""}, {"exit", ""}},
		"two next":                    {{"register", ""}, {"next", ""}, {"next", "Extension.InvalidExtensionState"}},
		"registered twice":            {{"register", ""}, {"register", "Extension.InvalidExtensionState"}},
		"init error":                  {{"register", ""}, {"init", ""}, {"init", ""}, {"next", "Extension.InvalidExtensionState"}},
		"init error after next":       {{"register", ""}, {"next", ""}, {"init", "Extension.InvalidExtensionState"}},
		"next after exit error":       {{"register", ""}, {"exit", ""}, {"next", "Extension.InvalidExtensionState"}},
		"exit error before any event": {{"register", ""}, {"exit", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var r roster
			e := r.launch("ours", "1")
			for i, s := range steps {
				var refused *refusal
				switch s.do {
				case "register":
					_, refused = r.register("ours", "2", []string{invokeEvent})
				case "next":
					refused = r.next(e)
				case "init":
					refused = r.initError(e, "Extension.Mine")
				case "exit":
					refused = r.exitError(e, "Extension.Mine")
				case "release":
					r.release()
				}
				got := ""
				if refused != nil {
					got = refused.Type
				}
				if got != s.want {
					t.Fatalf("step %d, %s: %q, want %q", i, s.do, got, s.want)
				}
			}
		})
	}
}

func TestRefusalsHaveAWSsWords(t *testing.T) {
	var r roster
	r.launch("ours", "1")
	r.register("ours", "", nil)
	_, refused := r.register("ours", "", nil)
	if want := "State transition from Registered to Registered failed for extension ours. Error: State transition is not allowed"; refused.Message != want {
		t.Errorf("%q, want %q", refused.Message, want)
	}
}

func TestTheRosterIsBounded(t *testing.T) {
	var r roster
	for i := range maxExtensions {
		if _, refused := r.register(string(rune('a'+i)), string(rune('a'+i)), nil); refused != nil {
			t.Fatal(refused)
		}
	}
	_, refused := r.register("one more", "", nil)
	if refused == nil || refused.Type != "Extension.TooManyExtensions" || refused.Message != "Extension limit (10) reached" {
		t.Errorf("%+v", refused)
	}
}

func TestAnInvocationSettlesWhenThoseThatHaveItAreReady(t *testing.T) {
	var r roster
	ids := []string{"both", "invoke", "none"}
	for _, id := range ids {
		events := map[string][]string{"invoke": {invokeEvent}, "both": {invokeEvent, shutdownEvent}}[id]
		r.launch(id, id)
		if _, refused := r.register(id, "", events); refused != nil {
			t.Fatal(refused)
		}
	}
	if !r.complete() || r.settle() {
		t.Fatal("it settles before anything is awaited")
	}
	r.initialized()
	for i, id := range ids {
		if r.settle() {
			t.Fatalf("INIT settles before %s is ready", id)
		}
		r.next(r.find(id))
		if got := r.settle(); got != (i == len(ids)-1) {
			t.Fatalf("settled is %v when %s is ready", got, id)
		}
	}
	var to []string
	for _, e := range r.release() {
		to = append(to, e.name)
	}
	if !slices.Equal(to, []string{"both", "invoke"}) || r.settle() {
		t.Fatalf("the invocation went to %v, or has settled", to)
	}
	r.next(r.find("invoke"))
	if r.settle() {
		t.Error("it settles before both are ready")
	}
	r.next(r.find("both"))
	if !r.settle() || r.settle() {
		t.Error("it does not settle, once")
	}
}
