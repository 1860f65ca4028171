package deploy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
	"kiln/internal/safezip"
)

func TestCreateFunctionRefusesWhatAWSRefuses(t *testing.T) {
	const one = "1 validation error detected: "
	const unable = "Lambda was unable to configure your environment variables because the environment variables you have provided "
	long := strings.Repeat("a", 65)
	for _, tt := range []struct {
		name string
		edit func(*api.CreateFunctionRequest)
		kind kiln.Kind
		want string
	}{
		{"role", func(in *api.CreateFunctionRequest) { in.Role = new("r1") }, kiln.Validation,
			one + `Value 'r1' at 'role' failed to satisfy constraint: Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`},
		{"no role", func(in *api.CreateFunctionRequest) { in.Role = nil }, kiln.Validation,
			one + "Value null at 'role' failed to satisfy constraint: Member must not be null"},
		{"no code", func(in *api.CreateFunctionRequest) { in.Code = nil }, kiln.Validation,
			one + "Value null at 'code' failed to satisfy constraint: Member must not be null"},
		{"role and timeout", func(in *api.CreateFunctionRequest) { in.Role = nil; in.Timeout = new(int32(0)) }, kiln.Validation,
			"2 validation errors detected: Value null at 'role' failed to satisfy constraint: Member must not be null; " +
				"Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"a long name", func(in *api.CreateFunctionRequest) { in.FunctionName = &long }, kiln.InvalidParameterValue,
			one + "Value '" + long + "' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"},
		{"a name with a version", func(in *api.CreateFunctionRequest) { in.FunctionName = new("f:1") }, kiln.InvalidParameterValue,
			"This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please specify either a function name or an unqualified function ARN."},
		{"an unknown runtime", func(in *api.CreateFunctionRequest) { in.Runtime = new("PYTHON3.9") }, kiln.InvalidParameterValue,
			"Value PYTHON3.9 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [nodejs20.x, python3.14, provided.al2023, python3.12, python3.13, " +
				"nodejs24.x, nodejs22.x, java25, python3.10, python3.11, java21, ruby3.3, ruby3.4, ruby3.2, python3.8, python3.9, java17, nodejs16.x, dotnet10, dotnet8, java11, " +
				"dotnet6, nodejs18.x, provided.al2, java8.al2] or be a valid ARN"},
		{"a retired runtime", func(in *api.CreateFunctionRequest) { in.Runtime = new("go1.x") }, kiln.InvalidParameterValue,
			"The runtime parameter of go1.x is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions."},
		{"no runtime", func(in *api.CreateFunctionRequest) { in.Runtime = nil }, kiln.InvalidParameterValue,
			"Runtime and Handler are mandatory parameters for functions created with deployment packages."},
		{"two architectures", func(in *api.CreateFunctionRequest) { in.Architectures = []string{"x86_64", "arm64"} }, kiln.Validation,
			one + "Value '[x86_64, arm64]' at 'architectures' failed to satisfy constraint: Member must have length less than or equal to 1"},
		{"an unknown architecture", func(in *api.CreateFunctionRequest) { in.Architectures = []string{"X86_64"} }, kiln.Validation,
			one + "Value '[X86_64]' at 'architectures' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"},
		{"arm64", func(in *api.CreateFunctionRequest) { in.Architectures = []string{"arm64"} }, kiln.InvalidParameterValue,
			"kiln does not support the architecture arm64: it runs on x86_64 only"},
		{"an image", func(in *api.CreateFunctionRequest) { in.PackageType = new("Image") }, kiln.InvalidParameterValue,
			"kiln does not support PackageType Image: give it a zip file"},
		{"little memory", func(in *api.CreateFunctionRequest) { in.MemorySize = new(int32(127)) }, kiln.Validation,
			one + "Value '127' at 'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128"},
		{"much memory", func(in *api.CreateFunctionRequest) { in.MemorySize = new(int32(10241)) }, kiln.InvalidParameterValue,
			"'MemorySize' value failed to satisfy constraint: Member must have value less than or equal to 10240"},
		{"a long timeout", func(in *api.CreateFunctionRequest) { in.Timeout = new(int32(901)) }, kiln.InvalidParameterValue,
			"'Timeout' value failed to satisfy constraint: Member must have value less than or equal to 900"},
		{"a small disk", func(in *api.CreateFunctionRequest) {
			in.EphemeralStorage = &api.EphemeralStorage{Size: new(int32(511))}
		}, kiln.Validation,
			one + "Value '511' at 'ephemeralStorage.size' failed to satisfy constraint: Member must have value greater than or equal to 512"},
		{"a disk without size", func(in *api.CreateFunctionRequest) { in.EphemeralStorage = &api.EphemeralStorage{} }, kiln.Validation,
			one + "Value null at 'ephemeralStorage.size' failed to satisfy constraint: Member must not be null"},
		{"a long description", func(in *api.CreateFunctionRequest) { in.Description = new(strings.Repeat("d", 257)) }, kiln.Validation,
			one + "Value '" + strings.Repeat("d", 257) + "' at 'description' failed to satisfy constraint: Member must have length less than or equal to 256"},
		{"a handler with a space", func(in *api.CreateFunctionRequest) { in.Handler = new("a b") }, kiln.Validation,
			one + `Value 'a b' at 'handler' failed to satisfy constraint: Member must satisfy regular expression pattern: [^\s]+`},
		{"a variable's name", withVariables(map[string]string{"A=B": "secret"}), kiln.Validation,
			one + `Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+]`},
		{"reserved variables", withVariables(map[string]string{"LAMBDA_TASK_ROOT": "", "AWS_REGION": "x", "FINE": ""}), kiln.InvalidParameterValue,
			unable + "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION, LAMBDA_TASK_ROOT"},
		{"a large environment", withVariables(map[string]string{"LARGE_VAR": strings.Repeat("x", 4081)}), kiln.InvalidParameterValue,
			unable + `exceeded the 4KB limit. String measured: {"LARGE_VAR":"` + strings.Repeat("x", 4081) + `"}`},
		{"SnapStart's enum", func(in *api.CreateFunctionRequest) { in.SnapStart = &api.SnapStart{ApplyOn: new("x")} }, kiln.Validation,
			one + "Value 'x' at 'snapStart.applyOn' failed to satisfy constraint: Member must satisfy enum value set: [PublishedVersions, None]"},
		{"SnapStart", func(in *api.CreateFunctionRequest) { in.SnapStart = &api.SnapStart{ApplyOn: new("PublishedVersions")} }, kiln.InvalidParameterValue,
			"kiln does not support SnapStart.ApplyOn other than None"},
		{"SnapStart where AWS has none", func(in *api.CreateFunctionRequest) {
			in.Runtime, in.SnapStart = new("nodejs22.x"), &api.SnapStart{ApplyOn: new("PublishedVersions")}
		}, kiln.InvalidParameterValue, "nodejs22.x is not supported for SnapStart enabled functions."},
		{"tracing", func(in *api.CreateFunctionRequest) { in.TracingConfig = &api.TracingConfig{Mode: new("Active")} }, kiln.InvalidParameterValue,
			"kiln does not support TracingConfig.Mode other than PassThrough"},
		{"JSON logs", func(in *api.CreateFunctionRequest) { in.LoggingConfig = &api.LoggingConfig{LogFormat: new("JSON")} }, kiln.InvalidParameterValue,
			"kiln does not support LoggingConfig.LogFormat other than Text"},
		{"a log level", func(in *api.CreateFunctionRequest) {
			in.LoggingConfig = &api.LoggingConfig{ApplicationLogLevel: new("INFO")}
		}, kiln.InvalidParameterValue, "kiln does not support CreateFunction member LoggingConfig.ApplicationLogLevel"},
		{"a security group", func(in *api.CreateFunctionRequest) { in.VpcConfig = &api.VpcConfig{SecurityGroupIds: []string{"sg-1"}} }, kiln.InvalidParameterValue,
			"Error occurred while DescribeSecurityGroups. EC2 Error Code: InvalidGroup.NotFound. EC2 Error Message: The security group 'sg-1' does not exist"},
		{"no security group's name", func(in *api.CreateFunctionRequest) {
			in.VpcConfig = &api.VpcConfig{SecurityGroupIds: []string{"bad"}}
		}, kiln.Validation,
			one + "Value '[bad]' at 'vpcConfig.securityGroupIds' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 1024, " +
				"Member must have length greater than or equal to 0, Member must satisfy regular expression pattern: sg-[0-9a-zA-Z]*]"},
		{"a subnet", func(in *api.CreateFunctionRequest) { in.VpcConfig = &api.VpcConfig{SubnetIds: []string{"subnet-1"}} }, kiln.InvalidParameterValue,
			"kiln does not support VpcConfig"},
		{"six security groups", func(in *api.CreateFunctionRequest) {
			in.VpcConfig = &api.VpcConfig{SecurityGroupIds: []string{"sg-1", "sg-2", "sg-3", "sg-4", "sg-5", "sg-6"}}
		}, kiln.Validation,
			one + "Value '[sg-1, sg-2, sg-3, sg-4, sg-5, sg-6]' at 'vpcConfig.securityGroupIds' failed to satisfy constraint: Member must have length less than or equal to 5"},
		{"no architecture", func(in *api.CreateFunctionRequest) { in.Architectures = []string{} }, kiln.Validation,
			one + "Value '[]' at 'architectures' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"no key's ARN", func(in *api.CreateFunctionRequest) { in.KMSKeyArn = new("alias/x") }, kiln.Validation,
			one + "Value 'alias/x' at 'kMSKeyArn' failed to satisfy constraint: Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()"},
		{"no queue's ARN", func(in *api.CreateFunctionRequest) { in.DeadLetterConfig = &api.DeadLetterConfig{TargetArn: new("q")} }, kiln.Validation,
			one + "Value 'q' at 'deadLetterConfig.targetArn' failed to satisfy constraint: Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()"},
		{"a key", func(in *api.CreateFunctionRequest) { in.KMSKeyArn = new("arn:aws:kms:x") }, kiln.InvalidParameterValue, "kiln does not support KMSKeyArn"},
		{"a dead-letter queue", func(in *api.CreateFunctionRequest) {
			in.DeadLetterConfig = &api.DeadLetterConfig{TargetArn: new("arn:aws:sqs:x")}
		}, kiln.InvalidParameterValue, "kiln does not support DeadLetterConfig.TargetArn"},
		{"too many tags", func(in *api.CreateFunctionRequest) {
			in.Tags = map[string]string{}
			for i := range 51 {
				in.Tags[strings.Repeat("k", i+1)] = ""
			}
		}, kiln.InvalidParameterValue, "Number of tags exceeds resource tag limit."},
		{"no source", func(in *api.CreateFunctionRequest) { in.Code.ZipFile = nil }, kiln.InvalidParameterValue, "Please provide a source for function code."},
		{"an empty source", func(in *api.CreateFunctionRequest) { in.Code.ZipFile = []byte{} }, kiln.InvalidParameterValue, "Uploaded file must be a non-empty zip"},
		{"no zip file", func(in *api.CreateFunctionRequest) { in.Code.ZipFile = []byte("this is not a zipfile") }, kiln.InvalidParameterValue,
			"Could not unzip uploaded file. Please check your file, then try to upload again."},
		{"a large zip file", func(in *api.CreateFunctionRequest) { in.Code.ZipFile = make([]byte, kiln.MaxZip+1) }, kiln.RequestEntityTooLarge,
			"Zipped size must be smaller than 52428800 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				_, err := n.create("f", tt.edit)
				n.wantError(err, tt.kind, tt.want)
				if n.blobs.len() != 0 {
					t.Error("its code is stored")
				}
			})
		})
	}
}

func withVariables(v map[string]string) func(*api.CreateFunctionRequest) {
	return func(in *api.CreateFunctionRequest) { in.Environment = &api.Environment{Variables: v} }
}

func TestCreateFunctionAcceptsWhatAWSAccepts(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*api.CreateFunctionRequest)
	}{
		{"the bounds", func(in *api.CreateFunctionRequest) {
			in.MemorySize, in.Timeout = new(int32(10240)), new(int32(900))
			in.EphemeralStorage = &api.EphemeralStorage{Size: new(int32(10240))}
			in.Description = new(strings.Repeat("ü", 256))
			in.Environment = &api.Environment{Variables: map[string]string{"LARGE_VAR": strings.Repeat("x", 4080)}}
		}},
		{"the defaults, said", func(in *api.CreateFunctionRequest) {
			in.PackageType, in.Architectures = new("Zip"), []string{"x86_64"}
			in.SnapStart, in.TracingConfig = &api.SnapStart{ApplyOn: new("None")}, &api.TracingConfig{Mode: new("PassThrough")}
			in.LoggingConfig = &api.LoggingConfig{LogFormat: new("Text"), LogGroup: new("/my/group")}
			in.VpcConfig = &api.VpcConfig{SubnetIds: []string{}, SecurityGroupIds: []string{}}
			in.KMSKeyArn, in.DeadLetterConfig = new(""), &api.DeadLetterConfig{TargetArn: new("")}
		}},
		{"an ARN", func(in *api.CreateFunctionRequest) { in.FunctionName = new(fnARN + "f") }},
		{"a partial ARN", func(in *api.CreateFunctionRequest) { in.FunctionName = new("123456789012:function:f") }},
		{"a new runtime", func(in *api.CreateFunctionRequest) { in.Runtime = new("python3.15") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				c, err := n.create("f", tt.edit)
				if err != nil {
					t.Fatal(err)
				}
				if *c.FunctionName != "f" || *c.FunctionArn != fnARN+"f" || *c.Version != "$LATEST" {
					t.Errorf("created %s, %s, %s", *c.FunctionName, *c.FunctionArn, *c.Version)
				}
			})
		})
	}
}

func TestDefaultsAreAWSs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		c := must(n.create("f"))
		if *c.Timeout != 3 || *c.MemorySize != 128 || *c.EphemeralStorage.Size != 512 || *c.Description != "" || *c.LoggingConfig.LogGroup != "/aws/lambda/f" ||
			*c.LoggingConfig.LogFormat != "Text" || c.Architectures[0] != "x86_64" || *c.PackageType != "Zip" || c.Environment != nil ||
			*c.SnapStart.ApplyOn != "None" || *c.SnapStart.OptimizationStatus != "Off" || *c.TracingConfig.Mode != "PassThrough" {
			t.Errorf("got %+v", c)
		}
		if want := int64(len(zipOf("index.py", "f"))); *c.CodeSize != want || *c.CodeSha256 != kiln.DigestOf(zipOf("index.py", "f")).Base64() {
			t.Errorf("code is %d bytes, %s", *c.CodeSize, *c.CodeSha256)
		}
	})
}

func TestAnEmptyEnvironmentIsShownOnlyWhereOneIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withVariables(map[string]string{})))
		n.settleDown()
		if e := n.configuration("f", "").Environment; e == nil || e.Variables == nil {
			t.Errorf("got %+v, want an empty one", e)
		}
	})
}

func TestEveryRuntimeOfTheModelIsAcceptedOrRetired(t *testing.T) {
	for _, r := range api.Enum("Runtime") {
		err := settings{runtime: &r}.checkRuntime()
		if err != nil && !strings.Contains(err.Error(), "no longer supported") {
			t.Errorf("%s: %v", r, err)
		}
	}
	for _, r := range strings.Split(listedRuntimes+", "+laterRuntimes, ", ") {
		if !accepted(r) {
			t.Errorf("%s is listed and not accepted", r)
		}
	}
}

func TestZipFilesAreRefusedForAReason(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("entry x: %w", safezip.ErrTooLarge), "Unzipped size must be smaller than 262144000 bytes"},
		{fmt.Errorf("entry x: %w", safezip.ErrFormat), "Could not unzip uploaded file. Please check your file, then try to upload again."},
	} {
		if err := zipError(tt.err); kiln.KindOf(err) != kiln.InvalidParameterValue || err.Error() != tt.want {
			t.Errorf("%v is answered with %v", tt.err, err)
		}
	}
	if _, err := readArchive(zipOf("../x", ""), functionCode); err == nil || !strings.HasPrefix(err.Error(), "Could not unzip uploaded file: unsafe zip file") {
		t.Errorf("a zip file that reaches outside is answered with %v", err)
	}
}

func TestSnapStartIsForTheRuntimeThatTheFunctionWillHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", func(in *api.CreateFunctionRequest) { in.Runtime = new("ruby3.4") }))
		n.settleDown()
		start := &api.SnapStart{ApplyOn: new("PublishedVersions")}
		_, err := n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), SnapStart: start})
		n.wantError(err, kiln.InvalidParameterValue, "ruby3.4 is not supported for SnapStart enabled functions.")
		_, err = n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), SnapStart: start, Runtime: new("java21")})
		n.wantError(err, kiln.InvalidParameterValue, "kiln does not support SnapStart.ApplyOn other than None")
	})
}
