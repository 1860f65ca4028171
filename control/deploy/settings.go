package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"kiln"
	"kiln/api"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

var (
	rolePattern     = constraint.MustPattern(`arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`)
	handlerPattern  = constraint.MustPattern(`[^\s]+`)
	variablePattern = constraint.MustPattern(`[a-zA-Z]([a-zA-Z0-9_])+`)
	logGroupPattern = constraint.MustPattern(`[\.\-_/#A-Za-z0-9]+`)
	groupPattern    = constraint.MustPattern(`sg-[0-9a-zA-Z]*`)
	subnetPattern   = constraint.MustPattern(`subnet-[0-9a-z]*`)
	targetPattern   = constraint.MustPattern(`(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()`)
)

// Bounds of AWS's model, and of what kiln allows within them.
const (
	maxDescription  = 256
	maxHandler      = 128
	maxLogGroup     = 512
	maxGroups       = 5
	maxSubnets      = 16
	modelMaxTimeout = 5400
	modelMaxMemory  = 32768
	maxTimeout      = int(kiln.MaxTimeout / time.Second)
)

// settings are the members by which CreateFunction and UpdateFunctionConfiguration set a function's configuration. Nil members are
// not given.
type settings struct {
	role, handler, description, runtime *string
	timeout, memory                     *int32
	environment                         *api.Environment
	storage                             *api.EphemeralStorage
	tracing                             *api.TracingConfig
	snapStart                           *api.SnapStart
	logging                             *api.LoggingConfig
	vpc                                 *api.VpcConfig
	kmsKey                              *string
	deadLetter                          *api.DeadLetterConfig
	// layers are references, and resolved are the layers that they name.
	layers   []string
	resolved []kiln.Layer
}

// settingsEnforces is what is honoured of settings.
func settingsEnforces() []api.Enforced {
	return append(members("Role", "Handler", "Description", "Runtime", "Timeout", "MemorySize", "Environment.*", "EphemeralStorage.*", "LoggingConfig.LogGroup", "Layers"),
		api.Enforced{Path: "LoggingConfig.LogFormat", Note: "Text only"},
		api.Enforced{Path: "TracingConfig.*", Note: "PassThrough only"},
		api.Enforced{Path: "SnapStart.*", Note: "None only"},
		api.Enforced{Path: "VpcConfig.*", Note: "empty only"},
		api.Enforced{Path: "KMSKeyArn", Note: "empty only"},
		api.Enforced{Path: "DeadLetterConfig.*", Note: "empty only"},
	)
}

// check adds to v what AWS's model finds wrong.
func (s settings) check(v *constraint.Violations) {
	if s.role != nil {
		v.Pattern("role", *s.role, rolePattern)
	}
	if s.handler != nil {
		v.Length("handler", *s.handler, 0, maxHandler)
		v.Pattern("handler", *s.handler, handlerPattern)
	}
	if s.description != nil {
		v.Length("description", *s.description, 0, maxDescription)
	}
	if s.timeout != nil {
		v.Range("timeout", int(*s.timeout), 1, modelMaxTimeout)
	}
	if s.memory != nil {
		v.Range("memorySize", int(*s.memory), kiln.MinMemoryMB, modelMaxMemory)
	}
	s.checkEnvironment(v)
	s.checkStructures(v)
	s.checkVPC(v)
	ref.CheckLayerVersions(v, s.layers)
	if s.kmsKey != nil {
		v.Pattern("kMSKeyArn", *s.kmsKey, targetPattern)
	}
	if s.deadLetter != nil && s.deadLetter.TargetArn != nil {
		v.Pattern("deadLetterConfig.targetArn", *s.deadLetter.TargetArn, targetPattern)
	}
}

func (s settings) checkEnvironment(v *constraint.Violations) {
	if s.environment == nil {
		return
	}
	for name := range s.environment.Variables {
		if !variablePattern.Matches(name) {
			v.AddSensitive("environment.variables", "Map keys must satisfy constraint: ["+variablePattern.Rule()+"]")
			return
		}
	}
}

func (s settings) checkStructures(v *constraint.Violations) {
	if s.storage != nil {
		if s.storage.Size == nil {
			v.Missing("ephemeralStorage.size")
		} else {
			v.Range("ephemeralStorage.size", int(*s.storage.Size), kiln.MinEphemeralMB, kiln.MaxEphemeralMB)
		}
	}
	if s.tracing != nil && s.tracing.Mode != nil {
		v.Enum("tracingConfig.mode", *s.tracing.Mode, "Active", "PassThrough")
	}
	if s.snapStart != nil && s.snapStart.ApplyOn != nil {
		v.Enum("snapStart.applyOn", *s.snapStart.ApplyOn, "PublishedVersions", "None")
	}
	if s.logging != nil && s.logging.LogFormat != nil {
		v.Enum("loggingConfig.logFormat", *s.logging.LogFormat, "JSON", "Text")
	}
	if s.logging != nil && s.logging.LogGroup != nil {
		v.Length("loggingConfig.logGroup", *s.logging.LogGroup, 1, maxLogGroup)
		v.Pattern("loggingConfig.logGroup", *s.logging.LogGroup, logGroupPattern)
	}
}

func (s settings) checkVPC(v *constraint.Violations) {
	if s.vpc == nil {
		return
	}
	v.Items("vpcConfig.securityGroupIds", s.vpc.SecurityGroupIds, 0, maxGroups)
	checkIDs(v, "vpcConfig.securityGroupIds", s.vpc.SecurityGroupIds, groupPattern)
	v.Items("vpcConfig.subnetIds", s.vpc.SubnetIds, 0, maxSubnets)
	checkIDs(v, "vpcConfig.subnetIds", s.vpc.SubnetIds, subnetPattern)
}

func checkIDs(v *constraint.Violations, member string, ids []string, p constraint.Pattern) {
	const maxID = 1024
	if slices.ContainsFunc(ids, func(id string) bool { return len(id) > maxID || !p.Matches(id) }) {
		v.AddList(member, ids, "Member must satisfy constraint: [Member must have length less than or equal to 1024, "+
			"Member must have length greater than or equal to 0, "+p.Rule()+"]")
	}
}

// apply sets in c what is given. It returns AWS's error, or kiln's, if that cannot be honoured.
func (s settings) apply(c *kiln.Config) error {
	for _, check := range []func() error{s.checkRuntime, s.checkSizes, s.checkVariables, s.checkUnsupported} {
		if err := check(); err != nil {
			return err
		}
	}
	if err := s.checkSnapStart(c.Runtime); err != nil {
		return err
	}
	set(&c.Role, s.role)
	set(&c.Handler, s.handler)
	set(&c.Description, s.description)
	set(&c.Runtime, s.runtime)
	if s.timeout != nil {
		c.Timeout = time.Duration(*s.timeout) * time.Second
	}
	if s.memory != nil {
		c.MemoryMB = int(*s.memory)
	}
	if s.storage != nil {
		c.EphemeralMB = int(*s.storage.Size)
	}
	if s.environment != nil {
		c.Environment = s.environment.Variables
	}
	if s.logging != nil {
		set(&c.LogGroup, s.logging.LogGroup)
	}
	if s.layers != nil {
		c.Layers = s.resolved
	}
	return nil
}

func set(field *string, value *string) {
	if value != nil {
		*field = *value
	}
}

func (s settings) checkSizes() error {
	if s.memory != nil && int(*s.memory) > kiln.MaxMemoryMB {
		return kiln.Errorf(kiln.InvalidParameterValue,
			"'MemorySize' value failed to satisfy constraint: Member must have value less than or equal to %d", kiln.MaxMemoryMB)
	}
	if s.timeout != nil && int(*s.timeout) > maxTimeout {
		return kiln.Errorf(kiln.InvalidParameterValue,
			"'Timeout' value failed to satisfy constraint: Member must have value less than or equal to %d", maxTimeout)
	}
	return nil
}

// checkVariables bounds the environment as AWS does, by the length of its JSON text.
func (s settings) checkVariables() error {
	if s.environment == nil {
		return nil
	}
	const unable = "Lambda was unable to configure your environment variables because the environment variables you have provided "
	var reserved []string
	for name := range s.environment.Variables {
		if isReserved(name) {
			reserved = append(reserved, name)
		}
	}
	if len(reserved) > 0 {
		slices.Sort(reserved)
		return kiln.Errorf(kiln.InvalidParameterValue, unable+"contains reserved keys that are currently not supported for modification. "+
			"Reserved keys used in this request: %s", strings.Join(reserved, ", "))
	}
	if text := variablesText(s.environment.Variables); len(text) > kiln.MaxEnvironment {
		return kiln.Errorf(kiln.InvalidParameterValue, unable+"exceeded the 4KB limit. String measured: %s", text)
	}
	return nil
}

func variablesText(variables map[string]string) string {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(variables); err != nil {
		panic(fmt.Sprintf("encode a map of strings: %v", err))
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// isReserved reports whether a variable is the platform's own
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html).
func isReserved(name string) bool {
	switch name {
	case "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
		"AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME",
		"AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_LAMBDA_RUNTIME_API",
		"AWS_LAMBDA_MAX_CONCURRENCY", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR":
		return true
	}
	return false
}

func (s settings) checkUnsupported() error {
	switch {
	case s.tracing != nil && given(s.tracing.Mode, "PassThrough"):
		return unsupported("TracingConfig.Mode other than PassThrough")
	case s.logging != nil && given(s.logging.LogFormat, "Text"):
		return unsupported("LoggingConfig.LogFormat other than Text")
	case given(s.kmsKey, ""):
		return unsupported("KMSKeyArn")
	case s.deadLetter != nil && given(s.deadLetter.TargetArn, ""):
		return unsupported("DeadLetterConfig.TargetArn")
	case s.vpc != nil && len(s.vpc.SecurityGroupIds) > 0:
		// kiln has no security groups, so that AWS's answer about one that is not there is true of all.
		return kiln.Errorf(kiln.InvalidParameterValue, "Error occurred while DescribeSecurityGroups. EC2 Error Code: InvalidGroup.NotFound. "+
			"EC2 Error Message: The security group '%s' does not exist", s.vpc.SecurityGroupIds[0])
	case s.vpc != nil && (len(s.vpc.SubnetIds) > 0 || s.vpc.Ipv6AllowedForDualStack != nil && *s.vpc.Ipv6AllowedForDualStack):
		return unsupported("VpcConfig")
	}
	return nil
}

// checkSnapStart returns AWS's error if it has no SnapStart for the runtime, which is current unless a new one is given, and kiln's
// otherwise.
func (s settings) checkSnapStart(current string) error {
	if s.snapStart == nil || !given(s.snapStart.ApplyOn, "None") {
		return nil
	}
	set(&current, s.runtime)
	if !hasSnapStart(current) {
		return kiln.Errorf(kiln.InvalidParameterValue, "%s is not supported for SnapStart enabled functions.", current)
	}
	return unsupported("SnapStart.ApplyOn other than None")
}

// given reports whether a member has a value other than the one that kiln knows.
func given(member *string, known string) bool { return member != nil && *member != known }

func unsupported(what string) error {
	return kiln.Errorf(kiln.InvalidParameterValue, "kiln does not support %s", what)
}

// checkArchitectures adds to v what AWS's model finds wrong with a list of architectures.
func checkArchitectures(v *constraint.Violations, a []string) {
	if a == nil {
		return
	}
	v.Items("architectures", a, 1, 1)
	checkArchitectureNames(v, "architectures", a, ", Member must not be null")
}

// checkArchitectureNames adds to v that a list has something else than architectures. more is what AWS says beside that.
func checkArchitectureNames(v *constraint.Violations, member string, a []string, more string) {
	known := architectures()
	if slices.ContainsFunc(a, func(name string) bool { return !slices.Contains(known, name) }) {
		v.AddList(member, a, "Member must satisfy constraint: ["+constraint.EnumRule(known...)+more+"]")
	}
}

func architectures() []string { return []string{"x86_64", "arm64"} }

// architecture is what kiln runs on.
const architecture = "x86_64"

// applyArchitectures sets the architecture if one is given.
func applyArchitectures(c *kiln.Config, a []string) error {
	if len(a) == 0 {
		return nil
	}
	if a[0] != architecture {
		return unsupported("the architecture " + a[0] + ": it runs on " + architecture + " only")
	}
	c.Architecture = a[0]
	return nil
}

// validation returns AWS's error about v, nil if v has no violation.
func validation(v *constraint.Violations) error {
	if m := v.Message(); m != "" {
		return kiln.Errorf(kiln.Validation, "%s", m)
	}
	return nil
}
