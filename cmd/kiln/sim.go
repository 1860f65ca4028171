package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/azuretrace"
	"kiln/invoke/forecast"
)

// assumedMB is the memory of a function whose trace does not tell.
const assumedMB = 128

func simCommand() *cobra.Command {
	var files azuretrace.Files
	var cold time.Duration
	c := &cobra.Command{
		Use: "sim", Short: "Replay a trace of invocations with each policy that decides how long idle environments are held", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if files.Invocations == "" {
				return errors.New("--trace is required")
			}
			if cold < 0 || cold > time.Hour {
				return fmt.Errorf("--cold-start %v: want 0 to 1h", cold)
			}
			return simulate(c.OutOrStdout(), files, cold)
		},
	}
	f := c.Flags()
	f.StringVar(&files.Invocations, "trace", "", "invocations per function and minute, a CSV `FILE` of the Azure Functions trace of 2019")
	f.StringVar(&files.Durations, "durations", "", "durations of the functions, another such `FILE` (default durations.csv beside the trace, if it is there)")
	f.StringVar(&files.Memory, "memory", "", "memory of the functions, another such `FILE` (default memory.csv beside the trace, if it is there)")
	f.DurationVar(&cold, "cold-start", 200*time.Millisecond, "what a cold start takes")
	return c
}

// simulate prints what each policy makes of a trace.
func simulate(out io.Writer, files azuretrace.Files, cold time.Duration) error {
	for _, f := range []struct {
		path *string
		name string
	}{{&files.Durations, "durations.csv"}, {&files.Memory, "memory.csv"}} {
		if err := beside(files.Invocations, f.path, f.name); err != nil {
			return err
		}
	}
	functions, err := azuretrace.Read(files)
	if err != nil {
		return err
	}
	trace := make([]forecast.Traced, len(functions))
	for i, fn := range functions {
		trace[i] = forecast.Traced{MemoryMB: fn.MemoryMB, Duration: fn.Duration, Calls: fn.Calls}
		if fn.MemoryMB == 0 {
			trace[i].MemoryMB = assumedMB
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "policy\tcalls\tcold starts\tshare %\tidle GB s\tP99 ms\t")
	for _, p := range []struct {
		name   string
		keeper forecast.Keeper
	}{
		{"fixed, 5 min", &forecast.Fixed{Keep: 5 * time.Minute}},
		{"fixed, 10 min", &forecast.Fixed{Keep: 10 * time.Minute}},
		{"fixed, 1 h", &forecast.Fixed{Keep: time.Hour}},
		{"forecast", forecast.NewLearning(forecast.DefaultPolicy())},
	} {
		o := forecast.Replay(trace, p.keeper, cold)
		fmt.Fprintf(w, "%s\t%d\t%d\t%.3f\t%.0f\t%.1f\t\n", p.name, o.Calls, o.Cold, 100*float64(o.Cold)/float64(max(o.Calls, 1)), o.Idle/1024,
			float64(o.P99)/float64(time.Millisecond))
	}
	return w.Flush()
}

// beside makes path name's in the trace's directory if it is "" and there is one.
func beside(trace string, path *string, name string) error {
	if *path != "" {
		return nil
	}
	found := filepath.Join(filepath.Dir(trace), name)
	_, err := os.Stat(found)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	*path = found
	return err
}
