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
