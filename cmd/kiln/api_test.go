package main

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"kiln/api"
	"kiln/control/deploy"
	"kiln/frontend"
)

var update = flag.Bool("update", false, "write docs/api.md anew")

// TestTheTableOfTheAPIIsTrue compares docs/api.md with what the handlers say of themselves.
func TestTheTableOfTheAPIIsTrue(t *testing.T) {
	const path = "../../docs/api.md"
	want := api.Table(append(deploy.New(deploy.Config{}).Handlers(), frontend.InvokeHandler("us-east-1", nil)))
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/api.md is not what the code does: run `go test ./cmd/kiln -update`")
	}
}
