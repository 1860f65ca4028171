package runtimeapi

import "testing"

func TestTheDialogueIsAWSs(t *testing.T) {
	type move struct {
		call call
		id   string
		want string // the refusal's type and message, "" if allowed
	}
	const (
		unknown  = "InvalidRequestID: Invalid request ID"
		notFrom  = "InvalidStateTransition: State transition from "
		because  = " failed for runtime. Error: State transition is not allowed"
		startedN = "Started"
	)
	rows := map[string][]move{
		"two invocations": {
			{next, "", ""}, {deliver, "a", ""}, {respond, "a", ""},
			{next, "", ""}, {deliver, "b", ""}, {respondError, "b", ""}, {next, "", ""},
		},
		"next again gives the same invocation": {{next, "", ""}, {deliver, "a", ""}, {next, "", ""}, {respond, "a", ""}},
		"two next at once":                     {{next, "", ""}, {next, "", notFrom + "Ready to Ready" + because}, {deliver, "a", ""}},
		"response before next":                 {{respond, "a", unknown}, {respond, "", unknown}, {next, "", ""}},
		"response to another invocation":       {{next, "", ""}, {deliver, "a", ""}, {respond, "b", unknown}, {respondError, "b", unknown}, {respond, "a", ""}},
		"response to the invocation before":    {{next, "", ""}, {deliver, "a", ""}, {respond, "a", ""}, {next, "", ""}, {deliver, "b", ""}, {respond, "a", unknown}},
		"two responses": {
			{next, "", ""}, {deliver, "a", ""}, {respond, "a", ""},
			{respond, "a", notFrom + "RuntimeResponseSentState to InvocationResponse" + because},
			{respondError, "a", notFrom + "RuntimeResponseSentState to InvocationErrorResponse" + because},
		},
		"response while waiting": {
			{next, "", ""}, {deliver, "a", ""}, {respond, "a", ""}, {next, "", ""},
			{respond, "a", notFrom + "Ready to InvocationResponse" + because},
		},
		"init error": {
			{initError, "", ""}, {initError, "", notFrom + "InitError to InitError" + because},
			{next, "", notFrom + "InitError to Ready" + because},
		},
		"init error after init": {
			{next, "", ""}, {initError, "", notFrom + "Ready to InitError" + because}, {deliver, "a", ""},
			{initError, "", notFrom + "Running to InitError" + because},
		},
		"delivery that nobody waits for": {{deliver, "a", notFrom + startedN + " to Running" + because}},
	}
	for name, moves := range rows {
		t.Run(name, func(t *testing.T) {
			var s state
			for i, m := range moves {
				after, refused := step(s, m.call, m.id)
				got := ""
				if refused != nil {
					got = refused.Type + ": " + refused.Message
				}
				if got != m.want {
					t.Fatalf("move %d: got %q, want %q", i, got, m.want)
				}
				if refused != nil && after != s {
					t.Fatalf("move %d: refused, but %v became %v", i, s, after)
				}
				s = after
			}
		})
	}
}
