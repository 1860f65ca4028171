// Command guest is the first process of the sandboxes of the engine's tests. It takes a JSON array of words per line on descriptor 3,
// does what the first says, and answers with a line.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "wait":
		syscall.Pause()
	case len(os.Args) > 1 && os.Args[1] == "bomb":
		fmt.Print(bomb())
		return
	}
	line := os.NewFile(3, "line")
	in := bufio.NewScanner(line)
	for in.Scan() {
		var words []string
		out, err := "", json.Unmarshal(in.Bytes(), &words)
		if err == nil {
			out, err = do(words[0], words[1:])
		}
		if err != nil {
			out = "error: " + err.Error()
		}
		fmt.Fprintf(line, "%q\n", out)
	}
}

func do(what string, args []string) (string, error) {
	switch what {
	case "echo":
		return args[0], nil
	case "read":
		text, err := os.ReadFile(args[0])
		return string(text), err
	case "write":
		return "", os.WriteFile(args[0], []byte(args[1]), 0o644)
	case "list":
		return list(args[0])
	case "spin":
		return "", spin()
	case "alloc":
		return alloc(args[0])
	case "processes":
		return processes()
	case "statfs":
		return statfs(args[0])
	case "fill":
		return fill(args[0])
	case "files":
		return files(args[0])
	case "walk":
		return walk(args[0], args[1])
	case "machine":
		return machine()
	case "descriptors":
		return descriptors()
	case "bind":
		return "", syscall.Mount(args[0], args[1], "", syscall.MS_BIND, "")
	case "addresses":
		addrs, err := net.InterfaceAddrs()
		return fmt.Sprint(addrs), err
	case "exit":
		os.Exit(7)
	}
	return "", errors.New("what is " + what + "?")
}

func list(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " "), err
}

// spin keeps every processor busy from now on.
func spin() error {
	for range runtime.NumCPU() {
		go func() {
			for n := 0; ; n++ {
				_ = n
			}
		}()
	}
	return nil
}

// alloc touches that many megabytes, or never ends.
func alloc(megabytes string) (string, error) {
	n, err := strconv.Atoi(megabytes)
	var kept [][]byte
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
	return strconv.Itoa(len(kept)), err
}

// processes has somebody without privileges start processes until they cannot.
func processes() (string, error) {
	cmd := exec.Command("/proc/self/exe", "bomb")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.Output()
	return string(out), err
}

func bomb() string {
	for n := 0; ; n++ {
		cmd := exec.Command("/proc/self/exe", "wait")
		if err := cmd.Start(); err != nil {
			return fmt.Sprintf("%d: %v", n, err)
		}
		if err := cmd.Process.Release(); err != nil { // closes the descriptor that Go keeps of it
			return err.Error()
		}
	}
}

// fill writes to a file until it cannot, and tells how many bytes went in.
func fill(name string) (string, error) {
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	for n := 0; ; {
		m, err := f.Write(block)
		n += m
		if err != nil {
			return fmt.Sprintf("%d: %v", n, err), nil
		}
	}
}

// files makes empty files until it cannot.
func files(dir string) (string, error) {
	for n := 0; ; n++ {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(n)))
		if err != nil {
			return fmt.Sprintf("%d: %v", n, err), nil
		}
		f.Close()
	}
}

// walk opens and reads up to that many files below dir and tells how many and how long it took.
func walk(dir, limit string) (string, error) {
	most, err := strconv.Atoi(limit)
	if err != nil {
		return "", err
	}
	begun, n := time.Now(), 0
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if f, err := os.Open(path); err == nil {
				f.Read(make([]byte, 4096))
				f.Close()
				n++
			}
		}
		if n >= most {
			return filepath.SkipAll
		}
		return nil
	})
	return fmt.Sprintf("%d %v", n, time.Since(begun)), err
}

func machine() (string, error) {
	text, err := os.ReadFile("/proc/meminfo")
	first, _, _ := strings.Cut(string(text), "\n")
	name, _ := os.ReadFile("/sys/devices/virtual/dmi/id/product_name")
	return fmt.Sprintf("%s; %d processors; %s", strings.Join(strings.Fields(first), " "), runtime.NumCPU(), strings.TrimSpace(string(name))), err
}

func descriptors() (string, error) {
	var out []string
	for i := range 10 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", i)); err == nil {
			out = append(out, fmt.Sprintf("%d=%s", i, to))
		}
	}
	return strings.Join(out, " "), nil
}

// statfs tells the size of the file system at a path, in bytes, and what is free of it, asked by path and by descriptor.
func statfs(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var byPath, byFile syscall.Statfs_t
	if err := errors.Join(syscall.Statfs(path, &byPath), syscall.Fstatfs(int(f.Fd()), &byFile)); err != nil {
		return "", err
	}
	if byPath != byFile {
		return "", fmt.Errorf("%+v by path, %+v by descriptor", byPath, byFile)
	}
	return fmt.Sprintln(byPath.Blocks*uint64(byPath.Bsize), byPath.Bfree, byPath.Bavail, byPath.Ffree), nil
}
