package gvisor

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"

	"kiln/worker/sandbox"
)

const (
	// containerID is gVisor's name for every sandbox. They are told apart by their directories.
	containerID = "s"
	// runDir holds the state of every engine. It is short because a sandbox's socket lies below it, and the address of one holds
	// 107 bytes, however long the name of the engine's own directory is.
	runDir = "/run/kiln"
	// inodeBytes is how much of /tmp there is to one file, as in ext4, which AWS uses.
	inodeBytes = 16 << 10
	// inodeCost is what an empty file costs the guest's kernel in memory that is charged to the sandbox: measured at 0.8 KB.
	inodeCost = 1 << 10
	// maxOpenFiles and maxProcesses are AWS's limits of an execution environment.
	maxOpenFiles = 1024
	maxProcesses = 1024
)

// capabilities are what the guest's first process has over the guest's own kernel; it gives them up before the function's code
// runs. They are no power over the host.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN",
}

// layout are the places on the host that a sandbox needs.
type layout struct {
	// state holds the bundle and what gVisor keeps about the sandbox.
	state string
	// slot is shown in the sandbox, with what is mounted below it later.
	slot string
	// tmp holds the file behind the guest's /tmp until the guest's kernel has it open; it must be on a disk.
	tmp string
	// shared is where gVisor keeps what all sandboxes use: an empty network namespace.
	shared string
}

func layoutOf(dir, id string) layout {
	return layout{
		state:  filepath.Join(stateDir(dir), id),
		slot:   filepath.Join(stateDir(dir), id, "slot"),
		tmp:    filepath.Join(dir, "tmp", id),
		shared: filepath.Join(stateDir(dir), ".shared"),
	}
}

// stateDir is where the launcher mounts a file system in memory.
func stateDir(dir string) string { return filepath.Join(runDir, treeName(dir)) }

// configuration is how gVisor is to run the sandbox, with a network or with loopback only. Whatever is not said here is its default, which for all that could let a guest
// reach out (host sockets, raw sockets, devices) is no.
func configuration(l layout, network bool) (*config.Config, error) {
	mode := "none"
	if network {
		mode = "sandbox"
	}
	flags := flag.NewFlagSet("gvisor", flag.ContinueOnError)
	config.RegisterFlags(flags)
	err := flags.Parse([]string{
		"--root=" + l.state,
		"--shared-root=" + l.shared,
		"--platform=systrap",
		"--network=" + mode,
		"--overlay2=none",
		// The engine puts the processes into their control group itself.
		"--ignore-cgroups",
		// Nobody changes what is mounted, save where a mount is annotated otherwise.
		"--file-access-mounts=exclusive",
		"--directfs=true",
		"--watchdog-action=panic",
		// A page of 2 MB would be charged whole for the first byte.
		"--app-huge-pages=false",
		"--host-settings=ignore",
	})
	if err != nil {
		return nil, fmt.Errorf("configure gvisor: %w", err)
	}
	return config.NewFromFlags(flags)
}

// specification describes the sandbox in the words of the Open Container Initiative. network is the path of its network namespace, or
// empty.
func specification(l layout, o *order, network string) *specs.Spec {
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: "sandbox",
		Root:     &specs.Root{Path: o.Root, Readonly: true},
		Process: &specs.Process{
			Args: o.Args, Env: o.Env, Cwd: "/",
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: maxOpenFiles, Hard: maxOpenFiles},
				{Type: "RLIMIT_NPROC", Soft: maxProcesses, Hard: maxProcesses},
			},
		},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "nodev", "noexec"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev"},
		},
		Annotations: make(map[string]string),
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: network}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
		}},
	}
	addTmp(s, l, o)
	for i, m := range o.Mounts {
		addMount(s, fmt.Sprintf("m%d", i), m)
	}
	if o.Slot != "" {
		addSlot(s, l.slot, o.Slot)
	}
	return s
}

// addTmp mounts a file system at /tmp whose contents are in a file on the host's disk. The pages of that file can be written back and
// dropped, so that what a function keeps in /tmp does not count against its memory for good.
func addTmp(s *specs.Spec, l layout, o *order) {
	// Files are bounded by their size and by the memory that their names cost: a quarter of the guest's at most.
	inodes := min(o.Limits.TmpBytes/inodeBytes, o.Limits.MemoryBytes/4/inodeCost)
	options := fmt.Sprintf("rw,nosuid,nodev,mode=1777,size=%d,nr_inodes=%d", o.Limits.TmpBytes, inodes)
	annotate(s, "tmp", map[string]string{"source": l.tmp, "type": "tmpfs", "share": "container", "options": options})
	s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: l.tmp, Destination: "/tmp", Options: []string{"rw", "nosuid", "nodev"}})
}

func addMount(s *specs.Spec, name string, m sandbox.Mount) {
	options := []string{"rbind", "rprivate", "nosuid", "nodev"}
	if !m.Writable {
		options = append(options, "ro")
	} else {
		// The host changes it as well, so the guest's kernel must look again at each use.
		annotate(s, name, map[string]string{"source": m.Source, "type": "bind", "share": "shared"})
	}
	s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: m.Source, Destination: m.Target, Options: options})
}

// addSlot shows a directory whose later mounts appear in the sandbox. The guest's kernel must look again at each use for that.
func addSlot(s *specs.Spec, dir, target string) {
	annotate(s, "slot", map[string]string{"source": dir, "type": "bind", "share": "shared"})
	s.Mounts = append(s.Mounts, specs.Mount{
		Type: "bind", Source: dir, Destination: target, Options: []string{"rbind", "rslave", "nosuid", "nodev", "ro"},
	})
}

func annotate(s *specs.Spec, name string, hints map[string]string) {
	for key, value := range hints {
		s.Annotations[boot.MountPrefix+name+"."+key] = value
	}
}

// flagLines are the flags of the guest's kernel that gVisor would take from a control group that it manages itself, and a name and a
// memory of the machine in place of the host's own: file systems in memory without a size of their own are half as large as that.
func flagLines(o *order, hostCPUs int) []string {
	cpus := hostCPUs
	if o.Limits.CPUs > 0 {
		// Less than two make programs leave out locks, with errors that nobody can find.
		cpus = min(hostCPUs, max(2, int(math.Ceil(o.Limits.CPUs))))
	}
	return []string{
		fmt.Sprintf("--total-memory=%d", o.Limits.MemoryBytes),
		fmt.Sprintf("--total-host-memory=%d", o.Limits.MemoryBytes),
		fmt.Sprintf("--cpu-num=%d", cpus),
		"--product-name=kiln",
	}
}

// writeBundle makes the sandbox's directories and writes what its processes read.
func writeBundle(l layout, s *specs.Spec, flags []string) error {
	for _, dir := range []string{l.state, l.tmp, l.shared} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make bundle: %w", err)
		}
	}
	// The guest's processes pass through it on their way to what is mounted below.
	if err := os.Mkdir(l.slot, 0o755); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode specification: %w", err)
	}
	if err := os.WriteFile(filepath.Join(l.state, "config.json"), text, 0o600); err != nil {
		return fmt.Errorf("write specification: %w", err)
	}
	if err := os.WriteFile(filepath.Join(l.state, flagsFile), []byte(strings.Join(flags, "\n")), 0o600); err != nil {
		return fmt.Errorf("write flags: %w", err)
	}
	return nil
}
