package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

//go:generate sh -c "CGO_ENABLED=0 go run ./internal/seccompgen > seccomp_amd64.go.new && mv seccomp_amd64.go.new seccomp_amd64.go"

// The names under which cmd/kiln-sandbox is executed. The first is ours, the next three are gVisor's: the process that is the guest's
// kernel, the one that opens its files, and a helper that unmounts /proc.
const (
	launcherName = "kiln-launcher"
	sentryName   = "runsc-sandbox"
	goferName    = "runsc-gofer"
	helperName   = "/proc/self/exe"
	// probeName is what the binary is called inside the sandbox that Check starts.
	probeName = "/kiln-probe"
)

// flagsFile, in a sandbox's bundle, holds what is added to the command line of its kernel, one flag per line.
const flagsFile = "flags"

// gVisor's own build fills this table; in a Go module it is empty, and every start compiles its filter for 10 to 60 ms.
//
//go:linkname precompiledPrograms gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var precompiledPrograms map[string]precompiledseccomp.Program

// These are the options of a tmpfs mount that gVisor takes from a specification. Its tmpfs also bounds the number of files, but
// the option is not among them.
//
//go:linkname tmpfsAllowedData gvisor.dev/gvisor/runsc/boot.tmpfsAllowedData
var tmpfsAllowedData []string

// IsReexec reports whether a process that was started with argv0 as its name is one of the engine's own, which Main must be given
// before anything else.
func IsReexec(argv0 string) bool {
	return slices.Contains([]string{launcherName, sentryName, goferName, helperName, probeName}, argv0)
}

// Main runs one of the engine's own processes and returns its exit status; gVisor's exit by themselves.
func Main() int {
	switch os.Args[0] {
	case launcherName:
		if err := launch(); err != nil {
			fmt.Fprintln(os.Stderr, "kiln-launcher:", err)
			return 1
		}
		return 0
	case probeName:
		return probe()
	case goferName:
		if err := closeStrays(os.Args); err != nil {
			return 1 // as below
		}
	case sentryName:
		if err := closeStrays(os.Args); err != nil {
			return 1 // as below
		}
		usePrecompiled()
		tmpfsAllowedData = append(tmpfsAllowedData, "nr_inodes")
		if err := errors.Join(makeFreezable(), hideDisk()); err != nil {
			return 1 // as below
		}
		args, err := sentryArgs(os.Args)
		if err != nil {
			return 1 // nobody reads the standard error of a sandbox; the launcher sees it end
		}
		os.Args = args
	}
	runGvisor()
	return 0
}

// runGvisor does what gVisor's own main function does, with the commands that its library executes and none of those that users do,
// which are half of that program.
func runGvisor() {
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot): "", new(cmd.Gofer): "", new(sentrycmd.Umount): "",
	}, nil)
}

// usePrecompiled gives gVisor its filters, unless they are another version's: those may lack what this one needs, or allow what it
// does not.
func usePrecompiled() {
	build, ok := debug.ReadBuildInfo()
	if !ok || !slices.ContainsFunc(build.Deps, func(m *debug.Module) bool {
		return m.Path == "gvisor.dev/gvisor" && m.Version == filtersVersion && m.Replace == nil
	}) {
		return
	}
	filter.ListPrecompiled() // makes an empty table, once
	precompiledPrograms = filters()
}

// givenFile is an argument that names a descriptor which the process was given.
var givenFile = regexp.MustCompile(`^--[a-z-]*fds?=(\d+)(:\d+)?$`)

// closeStrays closes, in a process that gVisor has started, the files that it was not given. gVisor opens its own without the flag that
// keeps them from others, so that a sandbox whose start overlaps another's would inherit the line by which that is controlled; and one
// that is inherited with the number 253 to 255, which gVisor wants for the guest's standard files, makes the start fail. What a process
// is given has the lowest numbers; what it has opened by itself by now bears the flag.
func closeStrays(args []string) error {
	last := 2
	for _, a := range args {
		if m := givenFile.FindStringSubmatch(a); m != nil {
			n, _ := strconv.Atoi(m[1]) // digits
			last = max(last, n)
		}
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, o := range open {
		fd, _ := strconv.Atoi(o.Name()) // digits
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || fd <= last || flags&unix.FD_CLOEXEC != 0 {
			continue // what listed the directory is gone
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// sentryArgs adds the bundle's flags to those of the first execution of a sandbox process. When it executes itself once more, in
// an empty root, it has them already.
func sentryArgs(args []string) ([]string, error) {
	if !slices.Contains(args, "--setup-root") {
		return args, nil
	}
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "--bundle=") })
	if i < 0 {
		return nil, errors.New("no bundle given")
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimPrefix(args[i], "--bundle="), flagsFile))
	if err != nil {
		return nil, fmt.Errorf("read flags: %w", err)
	}
	// The last argument is the sandbox's name.
	return slices.Insert(slices.Clone(args), len(args)-1, strings.Fields(string(text))...), nil
}
