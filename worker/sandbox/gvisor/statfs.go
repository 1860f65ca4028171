package gvisor

import (
	"errors"

	"gvisor.dev/gvisor/pkg/abi"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// What a guest is told of the file systems that show the host's files: a size that is nobody's, and full.
const (
	shownBlockSize = 4 << 10
	shownBlocks    = 512 << 20 / shownBlockSize
	shownFiles     = 64 << 10
)

// hideDisk has the guest's kernel answer statfs and fstatfs without the size of the host's disk and what is free on it, which would
// tell a function that asks twice how fast its neighbours write. gVisor passes both on from the host, and has no option not to.
func hideDisk() error {
	table, ok := kernel.LookupSyscallTable(abi.Linux, arch.Host)
	if !ok {
		return errors.New("gvisor has no table of system calls")
	}
	own := map[string]kernel.SyscallFn{"statfs": statfs, "fstatfs": fstatfs}
	for number, call := range table.Table {
		if f := own[call.Name]; f != nil {
			call.Fn = f
			table.Table[number] = call
			delete(own, call.Name)
		}
	}
	if len(own) > 0 {
		return errors.New("gvisor's table of system calls lacks statfs")
	}
	table.Init() // it was made into what is looked up before
	return nil
}

// statfs is statfs(2).
func statfs(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	name, err := t.CopyInString(args[0].Pointer(), linux.PATH_MAX)
	if err != nil {
		return 0, nil, err
	}
	path := fspath.Parse(name)
	if !path.Absolute && !path.HasComponents() {
		return 0, nil, linuxerr.ENOENT
	}
	start := t.FSContext().WorkingDirectory()
	defer start.DecRef(t)
	return 0, nil, tellSize(t, start, path, args[1])
}

// fstatfs is fstatfs(2).
func fstatfs(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	file := t.GetFile(args[0].Int())
	if file == nil {
		return 0, nil, linuxerr.EBADF
	}
	defer file.DecRef(t)
	return 0, nil, tellSize(t, file.VirtualDentry(), fspath.Path{}, args[1])
}

// tellSize writes what the guest is told of the file system at path, which leads on from start unless it is absolute.
func tellSize(t *kernel.Task, start vfs.VirtualDentry, path fspath.Path, to arch.SyscallArgument) error {
	root := t.FSContext().RootDirectory()
	defer root.DecRef(t)
	if path.Absolute {
		start = root
	}
	size, err := t.Kernel().VFS().StatFSAt(t, t.Credentials(), &vfs.PathOperation{Root: root, Start: start, Path: path, FollowFinalSymlink: true})
	if err != nil {
		return err
	}
	if size.Type == linux.V9FS_MAGIC { // as gVisor names what is the host's
		size.BlockSize, size.FragmentSize = shownBlockSize, shownBlockSize
		size.Blocks, size.BlocksFree, size.BlocksAvailable = shownBlocks, 0, 0
		size.Files, size.FilesFree = shownFiles, 0
	}
	_, err = size.CopyOut(t, to.Pointer())
	return err
}
