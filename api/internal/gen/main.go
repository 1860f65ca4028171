// Gen writes the Go types, operations, enums and exceptions of package api from the source of the AWS SDK for Go.
//
// It reads the version of github.com/aws/aws-sdk-go-v2/service/lambda that go.mod pins: the Smithy schemas for shapes and
// bindings, in the order of the source, and the client's own structs for what the schemas leave out (which members are
// required, the values of enums). Run it with go generate in package api.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const sdkModule = "github.com/aws/aws-sdk-go-v2/service/lambda"

func main() {
	out := flag.String("out", ".", "folder to write the generated files to")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	dir, err := sdkDir()
	if err != nil {
		return err
	}
	files, err := generate(dir)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(out, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sdkDir returns the folder of the pinned SDK module's source.
func sdkDir() (string, error) {
	b, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", sdkModule).Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w", sdkModule, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// generate returns the generated files' content by name, made from the SDK source in dir.
func generate(dir string) (map[string][]byte, error) {
	m, err := readModel(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, emit := range map[string]func(*model) ([]byte, error){
		"shapes_gen.go":     emitShapes,
		"operations_gen.go": emitOperations,
		"enums_gen.go":      emitEnums,
		"exceptions_gen.go": emitExceptions,
	} {
		if files[name], err = emit(m); err != nil {
			return nil, fmt.Errorf("emit %s: %w", name, err)
		}
	}
	return files, nil
}
