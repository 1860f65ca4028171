package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"kiln/kilntest"
)

// publishLayer publishes a layer and returns the version's ARN.
func publishLayer(t testing.TB, n *kilntest.Node, name string, zip []byte) string {
	t.Helper()
	out, err := n.Client().PublishLayerVersion(t.Context(), &lambda.PublishLayerVersionInput{
		LayerName: &name, Content: &types.LayerVersionContentInput{ZipFile: zip},
	})
	if err != nil {
		t.Fatalf("publish layer %s: %v", name, err)
	}
	return *out.LayerVersionArn
}

func TestFunctionsFindTheirLayers(t *testing.T) {
	n := kilntest.Start(t)
	python3, nodejs := n.Runtime("python3"), n.Runtime("nodejs")
	first := publishLayer(t, n, "first", kilntest.Zip(t, map[string]string{
		"python/where.py": "NAME = 'first'", "python/lib/" + python3 + "/site-packages/site_package.py": "NAME = 'of this version'",
		"nodejs/node_modules/where/index.js": "exports.name = 'first';", "only-first": "1", "bin/tool": "#!/bin/sh\necho a tool\n",
	}))
	second := publishLayer(t, n, "second", kilntest.Zip(t, map[string]string{
		"python/where.py": "NAME = 'second'", "nodejs/node_modules/where/index.js": "exports.name = 'second';", "only-second": "2",
	}))
	inPython := python(t, `
import os, subprocess, where
try: import site_package; version = site_package.NAME
except ImportError: version = None
def tampered(path):
    try: open(path, 'a').close(); return True
    except OSError: return False
def handler(event, context):
    tool = subprocess.run(['tool'], capture_output=True, text=True).stdout.strip() if os.path.exists('/opt/bin/tool') else None
    return [where.NAME, version, sorted(os.listdir('/opt')), tool, tampered('/opt/python/where.py') or tampered('/opt/new')]
`)
	inNode := kilntest.Zip(t, map[string]string{"index.js": "const where = require('where'); exports.handler = async () => where.name;"})
	for _, c := range []struct {
		name, runtime string
		zip           []byte
		layers        []string
		want          string
	}{
		{"python-one", python3, inPython, []string{first}, `["first","of this version",["bin","nodejs","only-first","python"],"a tool",false]`},
		{"python-two", python3, inPython, []string{first, second}, `["second","of this version",["bin","nodejs","only-first","only-second","python"],"a tool",false]`},
		{"python-other-order", python3, inPython, []string{second, first}, `["first","of this version",["bin","nodejs","only-first","only-second","python"],"a tool",false]`},
		{"python-other", python3, inPython, []string{second}, `["second",null,["nodejs","only-second","python"],null,false]`},
		{"node-one", nodejs, inNode, []string{first}, `"first"`},
		{"node-two", nodejs, inNode, []string{first, second}, `"second"`},
		{"bootstrap", "provided.al2023", python(t, echo), []string{first, publishLayer(t, n, "runtime", kilntest.GoZip(t, "bench/echo"))}, `{"a":1}`},
		{"own-bootstrap", "provided.al2023", kilntest.GoZip(t, "bench/echo"), []string{publishLayer(t, n, "broken", kilntest.Zip(t, map[string]string{"bootstrap": "#!/bin/false\n"}))}, `{"a":1}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Deploy(t.Context(), kilntest.Function{Name: c.name, Runtime: c.runtime, Zip: c.zip, Layers: c.layers})
			out := call(t, n, c.name, `{"a":1}`)
			if got := strings.ReplaceAll(string(out.Payload), " ", ""); out.FunctionError != nil || got != strings.ReplaceAll(c.want, " ", "") {
				t.Errorf("answered %s, want %s\n%s", out.Payload, c.want, logOf(t, out))
			}
		})
	}
}

func TestAFunctionOutlivesItsLayerVersion(t *testing.T) {
	n := kilntest.Start(t)
	layer := publishLayer(t, n, "l", kilntest.Zip(t, map[string]string{"python/m.py": "V = 1"}))
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Layers: []string{layer}, Zip: python(t, "import m\ndef handler(event, context):\n    return m.V\n")})
	if got := value[int](t, n, "f", `{}`); got != 1 {
		t.Errorf("answered %d", got)
	}
	c := n.Client()
	if _, err := c.DeleteLayerVersion(t.Context(), &lambda.DeleteLayerVersionInput{LayerName: aws.String("l"), VersionNumber: aws.Int64(1)}); err != nil {
		t.Fatal(err)
	}
	n.Stop()
	n.Restart() // with no environment and nothing unpacked left
	if got := value[int](t, n, "f", `{}`); got != 1 {
		t.Errorf("after the deletion: %d", got)
	}
	n.Deploy(t.Context(), kilntest.Function{Name: "g", Zip: python(t, echo)})
	_, err := n.Client().UpdateFunctionConfiguration(t.Context(), &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("g"), Layers: []string{layer}})
	wantCode(t, err, "InvalidParameterValueException")
	if again := publishLayer(t, n, "l", kilntest.Zip(t, map[string]string{"python/m.py": "V = 2"})); !strings.HasSuffix(again, ":2") {
		t.Errorf("the number of a deleted version is used again: %s", again)
	}
}

func TestEnvironmentsShareTheFilesOfALayer(t *testing.T) {
	n := kilntest.Start(t)
	shared := publishLayer(t, n, "shared", kilntest.Zip(t, map[string]string{"big": strings.Repeat("x", 1<<20)}))
	own := publishLayer(t, n, "own", kilntest.Zip(t, map[string]string{"other": "y"}))
	code := python(t, "f = open('/opt/big', 'rb')\ndef handler(event, context):\n    return len(f.read())\n")
	processes := 0
	for _, f := range []kilntest.Function{{Name: "one", Zip: code, Layers: []string{shared}}, {Name: "two", Zip: code, Layers: []string{own, shared}}} {
		n.Deploy(t.Context(), f)
		if got := value[int](t, n, f.Name, `{}`); got != 1<<20 {
			t.Errorf("%s reads %d bytes", f.Name, got)
		}
		inodes, holders := opened(t, n, "big")
		if len(inodes) != 1 || len(holders) <= processes {
			t.Errorf("after %s, the processes %v have open the inodes %v", f.Name, holders, inodes)
		}
		processes = len(holders)
	}
}

// opened returns which files of a name the sandboxes of n have open, and the processes that do, by what the kernel says.
func opened(t testing.TB, n *kilntest.Node, name string) (inodes map[uint64]bool, processes map[int]bool) {
	t.Helper()
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	inodes, processes = map[uint64]bool{}, map[int]bool{}
	for _, fd := range descriptors {
		path, err := os.Readlink(fd)
		var st syscall.Stat_t
		if err != nil || filepath.Base(path) != name || syscall.Stat(fd, &st) != nil {
			continue // another's, or of a process that has just ended
		}
		if pid, err := strconv.Atoi(strings.Split(fd, "/")[2]); err == nil && n.IsAncestor(pid) {
			inodes[st.Ino], processes[pid] = true, true
		}
	}
	return inodes, processes
}

func TestTheAWSCommandLinePublishesAndDeletesLayers(t *testing.T) {
	need(t, "/usr/bin/aws", "awscli")
	n := kilntest.Start(t)
	dir := t.TempDir()
	content := kilntest.Zip(t, map[string]string{"python/m.py": "V = 1"})
	zip := filepath.Join(dir, "layer.zip")
	if err := os.WriteFile(zip, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	aws := func(args ...string) string {
		t.Helper()
		out, err := n.AWS(ctx, append([]string{"lambda"}, args...)...)
		if err != nil {
			t.Fatalf("aws lambda %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	arn := fmt.Sprintf("arn:aws:lambda:%s:%s:layer:l", kilntest.Region, kilntest.Account)
	contains(t, aws("publish-layer-version", "--layer-name", "l", "--zip-file", "fileb://"+zip, "--compatible-runtimes", "python3.12", "--license-info", "MIT"),
		`"LayerVersionArn": "`+arn+`:1"`)
	contains(t, aws("list-layers", "--compatible-runtime", "python3.12"), `"LayerName": "l"`)
	contains(t, aws("list-layer-versions", "--layer-name", "l"), `"Version": 1`)
	contains(t, aws("get-layer-version-by-arn", "--arn", arn+":1"), `"LicenseInfo": "MIT"`)
	var got struct{ Content struct{ Location string } }
	if err := json.Unmarshal([]byte(aws("get-layer-version", "--layer-name", "l", "--version-number", "1")), &got); err != nil {
		t.Fatal(err)
	}
	if b := download(t, got.Content.Location); string(b) != string(content) {
		t.Errorf("the downloaded layer has %d bytes and differs from what was uploaded", len(b))
	}
	aws("add-layer-version-permission", "--layer-name", "l", "--version-number", "1", "--statement-id", "all", "--action", "lambda:GetLayerVersion", "--principal", "*")
	contains(t, aws("get-layer-version-policy", "--layer-name", "l", "--version-number", "1"), `\"Sid\":\"all\"`)
	aws("remove-layer-version-permission", "--layer-name", "l", "--version-number", "1", "--statement-id", "all")
	aws("delete-layer-version", "--layer-name", "l", "--version-number", "1")
	if out, err := n.AWS(ctx, "lambda", "get-layer-version", "--layer-name", "l", "--version-number", "1"); err == nil || !strings.Contains(out, "ResourceNotFoundException") {
		t.Errorf("after the deletion: %s", out)
	}
}
