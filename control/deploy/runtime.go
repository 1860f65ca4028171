package deploy

import (
	"slices"
	"strings"

	"kiln"
	"kiln/api"
)

// listedRuntimes are the runtimes that AWS lists in its message about an unknown one, in its order.
const listedRuntimes = "nodejs20.x, python3.14, provided.al2023, python3.12, python3.13, nodejs24.x, nodejs22.x, java25, python3.10, " +
	"python3.11, java21, ruby3.3, ruby3.4, ruby3.2, python3.8, python3.9, java17, nodejs16.x, dotnet10, dotnet8, java11, dotnet6, " +
	"nodejs18.x, provided.al2, java8.al2"

// laterRuntimes are those that AWS has added since its message was recorded.
const laterRuntimes = "ruby4.0, nodejs26.x, python3.15, java8.al2023, java11.al2023, java17.al2023"

// layerRuntimes are the runtimes that AWS lists in its message about an unknown one by which layers are asked for, in its order.
const layerRuntimes = "ruby2.6, dotnetcore1.0, python3.7, nodejs8.10, nasa, ruby2.7, python2.7-greengrass, dotnetcore2.0, python3.8, " +
	"java21, dotnet6, dotnetcore2.1, python3.9, java11, nodejs6.10, provided, dotnetcore3.1, dotnet8, java25, java17, nodejs, nodejs4.3, " +
	"java8.al2, go1.x, dotnet10, nodejs20.x, go1.9, byol, nodejs10.x, provided.al2023, nodejs22.x, python3.10, java8, nodejs12.x, " +
	"python3.11, nodejs24.x, nodejs8.x, python3.12, nodejs14.x, nodejs8.9, python3.13, python3.14, nodejs16.x, provided.al2, " +
	"nodejs18.x, ruby3.2, ruby3.3, ruby3.4"

// isRuntime reports whether AWS knows a runtime, accepted for new functions or not.
func isRuntime(name string) bool {
	return slices.Contains(api.Enum("Runtime"), name) || slices.Contains(strings.Split(layerRuntimes, ", "), name)
}

// checkRuntime returns AWS's error about a runtime that it does not accept for a new or changed function. Whether a worker has
// the runtime is asked when the function is invoked.
func (s settings) checkRuntime() error {
	switch {
	case s.runtime == nil || accepted(*s.runtime):
		return nil
	case slices.Contains(api.Enum("Runtime"), *s.runtime):
		return kiln.Errorf(kiln.InvalidParameterValue, "The runtime parameter of %s is no longer supported for creating or updating AWS Lambda functions. "+
			"We recommend you use a supported runtime while creating or updating functions.", *s.runtime)
	}
	return kiln.Errorf(kiln.InvalidParameterValue, "Value %s at 'runtime' failed to satisfy constraint: "+
		"Member must satisfy enum value set: [%s] or be a valid ARN", *s.runtime, listedRuntimes)
}

// hasSnapStart reports whether AWS has SnapStart for a runtime that it accepts
// (https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-runtimes).
func hasSnapStart(runtime string) bool {
	switch runtime {
	case "python3.8", "python3.9", "python3.10", "python3.11", "dotnet6":
		return false
	}
	return !slices.ContainsFunc([]string{"nodejs", "ruby", "provided", "java8"}, func(p string) bool { return strings.HasPrefix(runtime, p) })
}

func accepted(runtime string) bool {
	return slices.Contains(strings.Split(listedRuntimes+", "+laterRuntimes, ", "), runtime)
}
