package runtimeapi

import (
	"bufio"
	"encoding/json"
	"strconv"
	"strings"
)

func statusText(status int) string {
	switch status {
	case 200:
		return "OK"
	case 202:
		return "Accepted"
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	default:
		return "Content Too Large"
	}
}

// writeInvocation answers "next".
func writeInvocation(w *bufio.Writer, inv *invocation) error {
	h := inv.header
	writeHead(w, 200, "application/json", len(inv.event))
	writeField(w, "Lambda-Runtime-Aws-Request-Id", h.RequestID)
	writeField(w, "Lambda-Runtime-Deadline-Ms", strconv.FormatInt(h.DeadlineMs, 10))
	writeField(w, "Lambda-Runtime-Invoked-Function-Arn", h.FunctionARN)
	writeField(w, "Lambda-Runtime-Trace-Id", h.TraceID)
	writeField(w, "Lambda-Runtime-Client-Context", h.ClientContext)
	writeField(w, "Lambda-Runtime-Cognito-Identity", h.Identity)
	return endHead(w, inv.event)
}

func writeRefusal(w *bufio.Writer, r *refusal) error {
	b, err := json.Marshal(struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}{r.Message, r.Type})
	if err != nil {
		return err
	}
	return writeStatus(w, r.Status, "application/json", append(b, '\n'))
}

func writeStatus(w *bufio.Writer, status int, contentType string, body []byte) error {
	writeHead(w, status, contentType, len(body))
	return endHead(w, body)
}

// The errors of a bufio.Writer stay, so that endHead returns those of the writes before it.

func writeHead(w *bufio.Writer, status int, contentType string, length int) {
	w.WriteString("HTTP/1.1 ")
	w.WriteString(strconv.Itoa(status))
	w.WriteString(" ")
	w.WriteString(statusText(status))
	w.WriteString("\r\n")
	writeField(w, "Content-Type", contentType)
	writeField(w, "Content-Length", strconv.Itoa(length))
}

// writeField writes a header field, if it has a value.
func writeField(w *bufio.Writer, name, value string) {
	if value == "" {
		return
	}
	w.WriteString(name)
	w.WriteString(": ")
	w.WriteString(oneLine(value))
	w.WriteString("\r\n")
}

func endHead(w *bufio.Writer, body []byte) error {
	w.WriteString("\r\n")
	_, err := w.Write(body)
	return err
}

// oneLine keeps a value that a caller chose, such as the client context, from becoming fields of its own.
func oneLine(value string) string {
	return strings.Map(func(c rune) rune {
		if isControl(c) {
			return ' '
		}
		return c
	}, value)
}
