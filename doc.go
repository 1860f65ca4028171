// Package kiln defines the nouns of the platform: accounts, functions, versions, invocations, results, limits, errors.
//
// It does nothing by itself and imports the standard library only. Every other package speaks in these types; the words are
// AWS Lambda's own (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-concepts.html).
package kiln
