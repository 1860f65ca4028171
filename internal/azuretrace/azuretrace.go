// Package azuretrace reads the Azure Functions trace of 2019
// (https://github.com/Azure/AzurePublicDataset/blob/master/AzureFunctionsDataset2019.md), or a part of it.
package azuretrace

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Function is what the trace tells of one function.
type Function struct {
	// Calls are by minute.
	Calls []int
	// Duration is the mean of what a call takes, 0 if the trace does not tell.
	Duration time.Duration
	// MemoryMB is the mean of what its application has allocated, 0 if the trace does not tell.
	MemoryMB int
}

// Files are the three parts of the trace. Only Invocations is required.
type Files struct{ Invocations, Durations, Memory string }

const (
	// maxFunctions is more than the whole trace has, and maxMinutes a week.
	maxFunctions = 1_000_000
	maxMinutes   = 7 * 24 * 60
)

// Read reads a trace.
func Read(f Files) ([]Function, error) {
	durations, err := values(f.Durations, "HashFunction", "Average")
	if err != nil {
		return nil, err
	}
	// The whole trace has the memory of applications, samples of it have that of functions.
	memory, err := values(f.Memory, "HashFunction", "AverageAllocatedMb")
	if errors.Is(err, errNoColumn) {
		memory, err = values(f.Memory, "HashApp", "AverageAllocatedMb")
	}
	if err != nil {
		return nil, err
	}
	var all []Function
	err = rows(f.Invocations, func(header, row []string) error {
		function, err := column(header, "HashFunction")
		if err != nil {
			return err
		}
		app, err := column(header, "HashApp")
		if err != nil {
			return err
		}
		if len(all) == maxFunctions {
			return fmt.Errorf("more than %d functions", maxFunctions)
		}
		fn := Function{Duration: time.Duration(durations[row[function]] * float64(time.Millisecond)), MemoryMB: int(memory[row[function]])}
		if fn.MemoryMB == 0 {
			fn.MemoryMB = int(memory[row[app]])
		}
		for i, name := range header {
			if _, err := strconv.Atoi(name); err != nil {
				continue // not a minute
			}
			n, err := strconv.Atoi(row[i])
			if err != nil || n < 0 || len(fn.Calls) == maxMinutes {
				return fmt.Errorf("minute %s of a function: %q", name, row[i])
			}
			fn.Calls = append(fn.Calls, n)
		}
		all = append(all, fn)
		return nil
	})
	return all, err
}

var errNoColumn = errors.New("no such column")

func column(header []string, name string) (int, error) {
	i := slices.Index(header, name)
	if i < 0 {
		return 0, fmt.Errorf("column %s: %w", name, errNoColumn)
	}
	return i, nil
}

// values reads a column of numbers by another. There are none in a file "".
func values(path, key, value string) (map[string]float64, error) {
	m := make(map[string]float64)
	if path == "" {
		return m, nil
	}
	err := rows(path, func(header, row []string) error {
		k, err := column(header, key)
		if err != nil {
			return err
		}
		v, err := column(header, value)
		if err != nil {
			return err
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(row[v]), 64)
		if err != nil || !(n >= 0) || n > math.MaxInt32 {
			return fmt.Errorf("%s %q", value, row[v])
		}
		m[row[k]] = n
		return nil
	})
	return m, err
}

// rows calls f with the header and each other line of a file.
func rows(path string, f func(header, row []string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open trace: %w", err)
	}
	defer file.Close()
	r := csv.NewReader(file)
	header, err := r.Read()
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(header, row)
		}
		if err != nil {
			line, _ := r.FieldPos(0)
			return fmt.Errorf("read %s, line %d: %w", path, line, err)
		}
	}
}
