package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kiln/worker/network"
	"kiln/worker/runtime"
	"kiln/worker/runtime/guest"
	"kiln/worker/sandbox/gvisor"
	"kiln/worker/sandbox/gvisor/program"
)

func doctorCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "doctor", Short: "Say what this machine can do, and what to do about the rest", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return doctor(cmd.Context(), data) },
	}
	c.Flags().StringVar(&data, "data", "/var/lib/kiln", "directory of everything that is kept; it is not changed")
	return c
}

// doctor prints a line for each finding. The error is that kiln cannot run here.
func doctor(ctx context.Context, data string) error {
	findings := gvisor.Check(ctx, gvisor.Config{Dir: data, Program: program.Open})
	findings = append(findings, findEgress(gvisor.Warning), findRuntimes(ctx), findGuest())
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Severity, f.Name, f.Text)
	}
	return errors.Join(w.Flush(), fatal(findings))
}

func findRuntimes(ctx context.Context) gvisor.Finding {
	set, err := runtime.Find(ctx, runtime.Options{Path: filepath.SplitList(os.Getenv("PATH"))})
	if err != nil {
		return gvisor.Finding{Name: "runtimes", Severity: gvisor.Warning, Text: err.Error()}
	}
	return gvisor.Finding{Name: "runtimes", Text: strings.Join(set.IDs(), " ")}
}

func findGuest() gvisor.Finding {
	if _, err := guest.Program(); err != nil {
		return gvisor.Finding{Name: "guest", Severity: gvisor.Fatal, Text: err.Error()}
	}
	return gvisor.Finding{Name: "guest", Text: "built in"}
}

// findEgress says whether functions can reach the internet. severity is how much it matters if they cannot.
func findEgress(severity gvisor.Severity) gvisor.Finding {
	text, err := network.Check()
	switch {
	case err != nil:
		return gvisor.Finding{Name: "egress", Severity: severity, Text: strings.ReplaceAll(err.Error(), "\n", "; ") + "; or run with --egress none"}
	case text != "":
		return gvisor.Finding{Name: "egress", Severity: gvisor.Warning, Text: text}
	}
	return gvisor.Finding{Name: "egress", Text: "the machine can filter and translate what functions send"}
}

// refuseUnfit returns in plain words why sandboxes cannot run on this machine as o says, if so.
func refuseUnfit(o options) error {
	findings := append(gvisor.Requirements(gvisor.Config{Dir: o.data}), findGuest())
	if o.egress == egressInternet {
		findings = append(findings, findEgress(gvisor.Fatal))
	}
	return fatal(findings)
}

func fatal(findings []gvisor.Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Severity == gvisor.Fatal {
			errs = append(errs, fmt.Errorf("this machine cannot run kiln: %s: %s", f.Name, f.Text))
		}
	}
	return errors.Join(errs...)
}
