// Command extension is an external extension, written against the public API, that does what the variable MODE says.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Getenv("MODE")); err != nil {
		fmt.Println("extension:", err)
		os.Exit(1)
	}
}

func run(mode string) error {
	if mode == "crash-before-register" {
		os.Exit(2)
	}
	id, said, err := register()
	if err != nil {
		return err
	}
	fmt.Println("registered", said, variables())
	switch mode {
	case "crash-in-init":
		os.Exit(3)
	case "leave-in-init":
		return nil
	case "init-error":
		if err := report(id, "init/error"); err != nil {
			return err
		}
		os.Exit(5)
	case "telemetry":
		if err := subscribe(id); err != nil {
			return err
		}
	}
	return serve(mode, id)
}

// variables are those of a runtime's that an extension has.
func variables() string {
	var names []string
	for _, name := range []string{"AWS_LAMBDA_FUNCTION_NAME", "AWS_REGION", "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV"} {
		if os.Getenv(name) != "" {
			names = append(names, name)
		}
	}
	return fmt.Sprint(names, os.Getuid())
}

func serve(mode, id string) error {
	for {
		_, event, err := request("GET", "/2020-01-01/extension/event/next", "", "Lambda-Extension-Identifier", id)
		if err != nil {
			return err
		}
		fmt.Println("event", event)
		if strings.Contains(event, `"SHUTDOWN"`) {
			if mode == "deaf" {
				time.Sleep(time.Hour)
			}
			return nil
		}
		switch mode {
		case "crash-in-invoke":
			os.Exit(4)
		case "exit-error":
			if err := report(id, "exit/error"); err != nil {
				return err
			}
			os.Exit(6)
		case "slow":
			time.Sleep(time.Second)
			if err := os.WriteFile("/tmp/slow", []byte("done"), 0o644); err != nil {
				return err
			}
		case "stuck":
			time.Sleep(time.Hour)
		}
	}
}

func register() (id, said string, err error) {
	h, said, err := request("POST", "/2020-01-01/extension/register", `{"events":["INVOKE","SHUTDOWN"]}`,
		"Lambda-Extension-Name", filepath.Base(os.Args[0]), "Lambda-Extension-Accept-Feature", "accountId")
	return h.Get("Lambda-Extension-Identifier"), said, err
}

func report(id, path string) error {
	_, _, err := request("POST", "/2020-01-01/extension/"+path, `{}`, "Lambda-Extension-Identifier", id,
		"Lambda-Extension-Function-Error-Type", "Extension.Mine")
	return err
}

// subscribe prints the telemetry that comes, without that of extensions.
func subscribe(id string) error {
	go func() {
		err := http.ListenAndServe("sandbox.localdomain:4243", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var events []json.RawMessage
			if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
				fmt.Println("extension:", err)
			}
			for _, e := range events {
				fmt.Printf("telemetry %s\n", e)
			}
		}))
		fmt.Println("extension:", err)
	}()
	_, said, err := request("PUT", "/2022-07-01/telemetry",
		`{"schemaVersion":"2022-12-13","types":["platform","function"],"buffering":{"maxItems":1000,"maxBytes":262144,"timeoutMs":25},`+
			`"destination":{"protocol":"HTTP","URI":"http://sandbox.localdomain:4243"}}`, "Lambda-Extension-Identifier", id)
	fmt.Println("subscribed", said)
	return err
}

func request(method, path, body string, fields ...string) (http.Header, string, error) {
	r, err := http.NewRequest(method, "http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, "", err
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, b)
	}
	return res.Header, string(b), err
}
