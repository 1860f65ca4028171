package restjson_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"kiln/api"
	"kiln/api/apitest"
	"kiln/frontend/restjson"

	_ "github.com/aws/aws-sdk-go-v2/service/lambda/schemas" // see apitest.SDKDir
)

// streaming is the operation that answers with an event stream. The SDK has no snapshots of it.
const streaming = "InvokeWithResponseStream"

// snapshot is a file of the SDK: a first line, headers, a blank line, a body. Requests have another blank line after the first.
type snapshot struct {
	first  string
	header http.Header
	body   []byte
}

// readSnapshot skips the test if it is about the one operation that the SDK has no snapshots of.
func readSnapshot(t *testing.T, op, path string) snapshot {
	t.Helper()
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && op == streaming {
		t.Skip("event streams are not part of the SDK's snapshots")
	}
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := bytes.Cut(raw, []byte("\n"))
	if strings.Contains(path, ".request.") {
		rest = bytes.TrimPrefix(rest, []byte("\n"))
	}
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(rest)))
	header, err := r.ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.R)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot{first: string(first), header: http.Header(header), body: body}
}

func TestEveryRequestSnapshotIsDecodedWhole(t *testing.T) {
	router, codec := restjson.NewRouter(api.Operations()), restjson.NewCodec(api.Operations())
	dir := filepath.Join(apitest.SDKDir(t), "request_snapshot")
	checkCount(t, dir, "*.request.snap", 87)
	for _, op := range api.Operations() {
		t.Run(op.Name, func(t *testing.T) {
			snap := readSnapshot(t, op.Name, filepath.Join(dir, op.Name+".request.snap"))
			method, uri, _ := strings.Cut(snap.first, " ")
			req := newRequest(t, method, uri)
			m, err := router.Route(req)
			if err != nil {
				t.Fatalf("route %s: %v", snap.first, err)
			}
			if m.Operation != op {
				t.Fatalf("%s is routed to %s", snap.first, m.Operation.Name)
			}
			got, err := codec.Decode(m, snap.header, snap.body)
			if err != nil {
				t.Fatal(err)
			}
			want := apitest.Filled(op.Input)
			if in, ok := want.(*api.InvokeAsyncRequest); ok {
				in.InvokeArgs = []byte("__InvokeArgs__") // a stream, which the SDK fills as a string
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("decoded\n%s\nwant\n%s", show(t, got), show(t, want))
			}
		})
	}
}

func TestEveryResponseSnapshotIsEncoded(t *testing.T) {
	codec := restjson.NewCodec(api.Operations())
	dir := filepath.Join(apitest.SDKDir(t), "response_snapshot")
	checkCount(t, dir, "*.response.snap", 87)
	for _, op := range api.Operations() {
		t.Run(op.Name, func(t *testing.T) {
			snap := readSnapshot(t, op.Name, filepath.Join(dir, op.Name+".response.snap"))
			out := reflect.ValueOf(&api.Unit{})
			if op.Output != reflect.TypeFor[api.Unit]() {
				out = reflect.ValueOf(apitest.Filled(op.Output))
			}
			resp, err := codec.Encode(op, out.Interface())
			if err != nil {
				t.Fatal(err)
			}
			checkStatus(t, op, resp.Status, snap.first)
			body := withoutStatus(t, op, snap.body)
			if body == nil {
				snap.header.Del("Content-Type")
			}
			checkSame(t, resp, snap.header, body)
		})
	}
}

// checkStatus knows that the SDK's snapshots say 200 for every operation, whatever its model says, because a client takes any 2xx.
func checkStatus(t *testing.T, op *api.Operation, got int, snapshot string) {
	t.Helper()
	want := op.Status
	for f := range op.Output.Fields() {
		if f.Tag.Get("status") != "" {
			want, _ = strconv.Atoi(snapshot)
		}
	}
	if got != want {
		t.Errorf("status %d, want %d", got, want)
	}
}

// withoutStatus drops the member that becomes the status from a snapshot's body, where the SDK puts it although the model binds
// it to the status; a body that holds nothing else is nil.
func withoutStatus(t *testing.T, op *api.Operation, body []byte) []byte {
	t.Helper()
	for f := range op.Output.Fields() {
		if f.Tag.Get("status") == "" || !json.Valid(body) {
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(body, &members); err != nil {
			t.Fatal(err)
		}
		delete(members, f.Name)
		if len(members) == 0 {
			return nil
		}
		t.Fatalf("snapshot has body members besides the status: %s", body)
	}
	return body
}

func TestEveryErrorSnapshotIsRendered(t *testing.T) {
	codec := restjson.NewCodec(api.Operations())
	dir := filepath.Join(apitest.SDKDir(t), "response_snapshot")
	checkCount(t, dir, "*.error.snap", len(api.Exceptions()))
	for _, e := range api.Exceptions() {
		t.Run(e.Code, func(t *testing.T) {
			snap := readSnapshot(t, e.Code, filepath.Join(dir, e.Code+".error.snap"))
			extra := map[string]string{"Type": "__Type__", "Reason": "ConcurrentInvocationLimitExceeded", "retryAfterSeconds": "__RetryAfterSeconds__", "EC2ErrorCode": "__EC2ErrorCode__"}
			resp := codec.Error(e.Code, e.Status, "__Message__", extra)
			if want, _ := strconv.Atoi(snap.first); resp.Status != want {
				t.Errorf("status %d, want %d", resp.Status, want)
			}
			// The snapshot names the error in the body, Lambda in a header; clients read either.
			snap.header.Set("X-Amzn-Errortype", e.Code)
			checkSame(t, resp, snap.header, bytes.Replace(snap.body, []byte(`"__type":"`+e.Code+`",`), nil, 1))
		})
	}
}

func checkSame(t *testing.T, resp restjson.Response, header http.Header, body []byte) {
	t.Helper()
	if !reflect.DeepEqual(resp.Header, header) {
		t.Errorf("header %v, want %v", resp.Header, header)
	}
	if !json.Valid(body) {
		if !bytes.Equal(resp.Body, body) {
			t.Errorf("body %q, want %q", resp.Body, body)
		}
		return
	}
	if got, want := decodeAny(t, resp.Body), decodeAny(t, body); !reflect.DeepEqual(got, want) {
		t.Errorf("body\n%s\nwant\n%s", resp.Body, body)
	}
}

// checkCount fails if the snapshots are not where they are looked for.
func checkCount(t *testing.T, dir, pattern string, atLeast int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) < atLeast {
		t.Fatalf("%s has %d files like %s, %v; want %d", dir, len(files), pattern, err, atLeast)
	}
}

func decodeAny(t *testing.T, b []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return v
}

func show(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}
