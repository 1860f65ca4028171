package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/kilntest"
)

// wholeAreas are the recorded areas of AWS's answers in which every check must pass.
var wholeAreas = []string{"account-settings", "alias", "api", "code-signing", "function", "layer", "name-validation", "permission", "provisioned-concurrency", "recursion", "reserved-concurrency", "revision", "size-limit", "tag", "version"}

// leastWhole is how many checks these areas have at least.
const leastWhole = 355

// refusals are how kiln says that it has not what a request asks for, and the replayer that boto3 has not. In the other areas a
// case is held to AWS's answers up to the first of them: what follows builds on what did not happen.
var refusals = []string{"kiln does not implement the operation", "kiln does not support", "This machine has no runtime", "boto3 has no "}

// impossible are checks that no server can pass.
var impossible = []struct{ test, key, why string }{
	{"test_function_arns", "function_arn_other_account_exc", "the other account's number in the request was replaced by the caller's own when it was recorded"},
	{"test_layer_function_exceptions", "add_nonexistent_layer_exc", "the name in the request was replaced by that of a layer that exists when it was recorded"},
	{"test_layer_function_exceptions", "step12", "a server is of one region, as AWS's are, and the request is signed for another"},
	{"test_alias_routingconfig", "create_alias_response", "the version number in the request was replaced by that of the other version when it was recorded"},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "get_function_before_provisioned", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "create-result/CreateFunctionResponse", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "get-function-configuration", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "publish_version_1", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "get_function_configuration_version_1", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "get_function_after_provisioned", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "get_function_after_update", otherRuntime},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "publish_version_2", unrecorded},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "update_alias", unrecorded},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "get_provisioned_config_after_alias_move", unrecorded},
	{"test_lambda_provisioned_concurrency_moves_with_alias", "provisioned_concurrency_notfound", unrecorded},
	{"test_lambda_provisioned_concurrency_scheduling", "get_provisioned_postwait", unrecorded},
	{"test_provisioned_concurrency", "get_provisioned_postwait", unrecorded},
	{"test_invocation_type_event_error", "creation_response/CreateFunctionResponse", otherRuntime},
	{"test_lambda_with_context", "creation/CreateFunctionResponse", otherRuntime},
	{"test_stream_handler", "invoke_result", "the request to create the function was recorded without its deployment package"},
}

// unrecorded is why a check passes or not, as it comes.
const unrecorded = "who recorded it waited before it, which the recording does not say"

const otherRuntime = "the answer was recorded with another runtime than the request names, before AWS's answers had a LoggingConfig"

// TestAnswersAreAWSs replays requests to the Lambda API that AWS itself answered and compares the answers. The recordings lie
// beside the tree; where they are not, the test is skipped. The figures of all areas are in its log.
func TestAnswersAreAWSs(t *testing.T) {
	checks := replay(t, kilntest.Start(t))
	refused := map[string]bool{}
	whole := 0
	for _, c := range checks {
		isWhole := slices.Contains(wholeAreas, c.Area)
		switch why := c.impossible(); {
		case c.OK == nil:
		case *c.OK && why != "" && why != unrecorded:
			t.Errorf("%s, %s passes, and must not be listed as impossible", c.ID, c.Key)
		case *c.OK && isWhole:
			whole++
		case *c.OK || why != "":
		case !isWhole && (refused[c.ID] || c.refused()):
			refused[c.ID] = true
		default:
			t.Errorf("%s, %s, %s: %s", c.ID, c.Op, c.Key, c.Why)
		}
	}
	if whole < leastWhole {
		t.Errorf("only %d checks passed in %v", whole, wholeAreas)
	}
}

// check is the comparison of one answer with AWS's.
type check struct {
	ID, Area, Op, Key, Why string
	OK                     *bool // nil if skipped
}

// impossible is the reason why no server can pass c, "" if one can.
func (c check) impossible() string {
	for _, i := range impossible {
		if strings.Contains(c.ID, i.test) && c.Key == i.key {
			return i.why
		}
	}
	return ""
}

func (c check) refused() bool {
	return slices.ContainsFunc(refusals, func(r string) bool { return strings.Contains(c.Why, r) })
}

// replay replays all recordings against n, several cases at a time.
func replay(t *testing.T, n *kilntest.Node) []check {
	t.Helper()
	dir := filepath.Join(kilntest.Root(t), "..", "shared", "conformance")
	recordings, err := filepath.Glob(filepath.Join(dir, "open", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(recordings) == 0 {
		t.Skipf("no recordings in %s", dir)
	}
	report := filepath.Join(t.TempDir(), "report.json")
	args := []string{filepath.Join(kilntest.Root(t), "test", "testdata", "replay.py"), filepath.Join(dir, "replay.py"), "--endpoint", n.Endpoint,
		"--ignore-file", filepath.Join(dir, "ignore.json"), "--no-settle", "--workers", "4", "--json", report}
	cmd := exec.CommandContext(t.Context(), boto3Python(t), append(args, recordings...)...)
	cmd.Env = n.Env()
	out, err := cmd.CombinedOutput()
	t.Logf("%v\n%s", err, out)
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var checks []check
	if err := json.Unmarshal(text, &checks); err != nil {
		t.Fatal(err)
	}
	return checks
}

// boto3Python is a Python that has boto3: the one on the path, which may have a newer one, or Debian's.
func boto3Python(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), python, "-c", "import boto3").Run() == nil {
			return python
		}
	}
	t.Skip("needs the Debian package python3-boto3")
	return ""
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
