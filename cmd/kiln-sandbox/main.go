// Command kiln-sandbox is what the processes of sandboxes run: the launcher that starts them and, executed by it under other names, the
// guest's kernel and what opens its files. Every sandbox pays for what is linked in here, three times in time and twice in memory.
package main

import (
	"fmt"
	"os"

	"kiln/worker/sandbox/gvisor"
)

func main() {
	if !gvisor.IsReexec(os.Args[0]) {
		fmt.Fprintln(os.Stderr, "kiln-sandbox: is started by kiln only")
		os.Exit(1)
	}
	os.Exit(gvisor.Main())
}
