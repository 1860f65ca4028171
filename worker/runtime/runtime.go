// Package runtime says what a function's runtime identifier means on this machine: which interpreter runs it, what its sandbox
// shows of the host, which environment variables it sees.
package runtime

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"kiln"
	"kiln/fleet"
	"kiln/worker/identity"
	"kiln/worker/sandbox"
	"kiln/worker/wire"
)

// The user and group that a function's processes have, as on AWS.
const (
	functionUID = 993
	functionGID = 990
)

// Bounds of a function's processes
// (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html).
const (
	maxProcesses = 1024
	maxFiles     = 1024
)

// The places inside a sandbox, as on AWS.
const (
	taskDir    = "/var/task"
	runtimeDir = "/var/runtime"
	layerDir   = "/opt"
	slotDir    = "/mnt/slot"
	guestPath  = "/kiln-guest"
	apiAddress = "127.0.0.1:9001"
	// awsURL is where functions find AWS's API.
	awsURL = "http://127.0.0.1:9002"
)

// Runtime is what functions with one runtime identifier run on.
type Runtime struct {
	// ID is the identifier, such as "python3.13".
	ID string
	// interpreter is empty for a custom runtime, which brings its own bootstrap.
	interpreter string
	prefix      string
	// rank orders the runtimes of a family.
	rank int
}

// Launch is what a runtime process is told that is not its version's.
type Launch struct {
	Region kiln.Region
	// Stream is the name of its log stream.
	Stream string
	// Credentials are those of its role.
	Credentials    identity.Credentials
	Initialization fleet.Initialization
}

// Process is how the guest starts the runtime process of v.
func (r *Runtime) Process(v *kiln.Version, l Launch) wire.Header {
	h := wire.Header{
		API: true, Args: r.args(v), Env: r.environ(v, l), Dir: taskDir, UID: functionUID, GID: functionGID,
		Direct: r.interpreter != "", MaxProcesses: maxProcesses, MaxFiles: maxFiles, MaxResponse: kiln.MaxResponse,
		Account: string(v.Account),
	}
	if r.interpreter == "" {
		h.Fallback = layerDir + "/bootstrap"
	}
	return h
}

// ExtensionDir is where external extensions are, below the directory that appears as /opt.
const ExtensionDir = "extensions"

// WithExtensions has the guest start the external extensions of layers before the runtime process.
func WithExtensions(h wire.Header) wire.Header {
	h.Extensions = layerDir + "/" + ExtensionDir
	return h
}

func (r *Runtime) args(v *kiln.Version) []string {
	if r.interpreter == "" {
		return []string{taskDir + "/bootstrap"}
	}
	args := r.interpret(v.MemoryMB)
	// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
	if wrapper := v.Environment["AWS_LAMBDA_EXEC_WRAPPER"]; wrapper != "" {
		args = append([]string{wrapper}, args...)
	}
	return args
}

// interpret is the command line of our bootstrap in a sandbox with that much memory.
func (r *Runtime) interpret(memoryMB int) []string {
	if r.isNode() {
		// Node.js does not look at the sandbox's memory: without a bound its heap grows until the sandbox is killed.
		heap := fmt.Sprintf("--max-old-space-size=%d", memoryMB*9/10)
		return []string{r.interpreter, heap, runtimeDir + "/bootstrap.mjs"}
	}
	return []string{r.interpreter, runtimeDir + "/bootstrap.py"}
}

func (r *Runtime) isNode() bool { return family(r.ID) == "nodejs" }

// environ returns the variables that AWS defines
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html), with the function's own over those that it may set.
// Those that it may not set are refused when it is created.
func (r *Runtime) environ(v *kiln.Version, l Launch) []string {
	env := r.defaults()
	maps.Copy(env, map[string]string{
		"AWS_REGION":                      string(l.Region),
		"AWS_DEFAULT_REGION":              string(l.Region),
		"AWS_LAMBDA_FUNCTION_NAME":        string(v.Function),
		"AWS_LAMBDA_FUNCTION_VERSION":     string(v.Qualifier),
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.Itoa(v.MemoryMB),
		"AWS_LAMBDA_LOG_GROUP_NAME":       v.LogGroup,
		"AWS_LAMBDA_LOG_STREAM_NAME":      l.Stream,
		"AWS_LAMBDA_INITIALIZATION_TYPE":  l.Initialization.String(),
		"AWS_LAMBDA_RUNTIME_API":          apiAddress,
		"AWS_ENDPOINT_URL":                awsURL,
		"AWS_ACCESS_KEY_ID":               l.Credentials.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY":           l.Credentials.Secret,
		"AWS_SESSION_TOKEN":               l.Credentials.SessionToken,
		"_HANDLER":                        v.Handler,
	})
	maps.Copy(env, v.Environment)
	return list(env)
}

// list is env in the form in which a process is given it.
func list(env map[string]string) []string {
	variables := make([]string, 0, len(env))
	for name, value := range env {
		variables = append(variables, name+"="+value)
	}
	slices.Sort(variables)
	return variables
}

// defaults are the variables that are the same for every function.
func (r *Runtime) defaults() map[string]string {
	env := map[string]string{
		"PATH":               "/usr/local/bin:/usr/bin:/bin:" + layerDir + "/bin",
		"LD_LIBRARY_PATH":    taskDir + ":" + taskDir + "/lib:" + layerDir + "/lib",
		"LANG":               "C.UTF-8",
		"TZ":                 ":UTC",
		"LAMBDA_TASK_ROOT":   taskDir,
		"LAMBDA_RUNTIME_DIR": runtimeDir,
	}
	if r.interpreter != "" {
		env["AWS_EXECUTION_ENV"] = "AWS_Lambda_" + r.ID
		env["PATH"] = r.prefix + "/bin:" + env["PATH"]
	}
	switch {
	case r.isNode():
		env["NODE_PATH"] = fmt.Sprintf("%s/nodejs/node%d/node_modules:", layerDir, r.rank) + layerDir + "/nodejs/node_modules:" + runtimeDir + "/node_modules:" + runtimeDir + ":" + taskDir
	case r.interpreter != "":
		env["PYTHONPATH"] = runtimeDir
	}
	return env
}

// BelowLayers reports whether the interpreter is where layers appear, so that a sandbox cannot show both.
func (r *Runtime) BelowLayers() bool {
	return r.prefix == layerDir || strings.HasPrefix(r.prefix, layerDir+"/")
}

// Sandbox describes the sandbox of a function of this runtime: code is the directory that appears as /var/task, and opt the one
// that appears as /opt. One that is "" does not appear. The caller adds ID and Limits.
func (r *Runtime) Sandbox(root *Root, code, opt string) sandbox.Spec {
	mounts := slices.Clone(root.shared)
	if code != "" {
		mounts = append(mounts, sandbox.Mount{Source: code, Target: taskDir})
	}
	if opt != "" {
		mounts = append(mounts, sandbox.Mount{Source: opt, Target: layerDir})
	}
	if r.prefix != "" && !root.shows(r.prefix) {
		mounts = append(mounts, sandbox.Mount{Source: r.prefix, Target: r.prefix})
	}
	return sandbox.Spec{
		Root: root.dir, Mounts: mounts, Args: []string{guestPath}, Env: []string{"PATH=/usr/bin:/bin"},
	}
}
