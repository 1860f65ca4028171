// Command kiln is AWS Lambda on your own machines: `kiln serve` runs a node, `kiln doctor` says what the machine can do, `kiln sim`
// replays a trace, `kiln account` manages accounts.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	if err := run(newGVisor); err != nil {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		os.Exit(1)
	}
}

// run does what the command line says, with sandboxes of the engine.
func run(sandboxes newEngine) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "kiln", Short: "AWS Lambda on your own machines", SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(serveCommand(sandboxes), doctorCommand(), simCommand(), accountCommand())
	return root.ExecuteContext(ctx)
}
