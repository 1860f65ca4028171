package deploy

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/api"
	"kiln/blob"
	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

const (
	account kiln.AccountID = "123456789012"
	role    string         = "arn:aws:iam::123456789012:role/lambda-role"
	fnARN   string         = "arn:aws:lambda:us-east-1:123456789012:function:"
)

// node is a Service with a store of its own, and the callers of its operations.
type node struct {
	*testing.T
	store   catalog.Store
	blobs   *memoryBlobs
	service *Service
	stop    func()
}

// newNode makes a node that runs in a synctest bubble.
func newNode(t *testing.T) *node {
	n := &node{T: t, store: catalogtest.NewMemory(), blobs: newMemoryBlobs()}
	n.start()
	return n
}

// start runs a new Service, as a new process does.
func (n *node) start() {
	n.service = newService(n.store, n.blobs)
	ctx, cancel := context.WithCancel(n.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.service.Run(ctx); !errors.Is(err, context.Canceled) {
			n.Errorf("Run ended with %v", err)
		}
	})
	n.stop = func() { cancel(); running.Wait() }
	n.Cleanup(n.stop)
	synctest.Wait()
}

func newService(store catalog.Store, blobs blob.Store) *Service {
	return New(Config{Store: store, Blobs: blobs, Region: "us-east-1",
		CodeURL: func(a kiln.AccountID, d kiln.Digest) string { return "http://kiln/" + string(a) + "/" + string(d) }})
}

// call calls an operation as account does, through its handler.
func call[In, Out any](n *node, op *api.Operation, in In) (*Out, error) {
	n.Helper()
	return callAs[In, Out](n, account, op, in)
}

// callAs calls an operation as an account does, through its handler.
func callAs[In, Out any](n *node, a kiln.AccountID, op *api.Operation, in In) (*Out, error) {
	n.Helper()
	for _, h := range n.service.Handlers() {
		if h.Operation == op {
			out, err := h.Call(n.Context(), api.Caller{Account: a}, &in)
			if err != nil {
				return nil, err
			}
			return out.(*Out), nil
		}
	}
	n.Fatalf("%s is not served", op.Name)
	return nil, nil
}

func must[T any](out T, err error) T {
	if err != nil {
		panic(err)
	}
	return out
}

func (n *node) create(name string, edit ...func(*api.CreateFunctionRequest)) (*api.FunctionConfiguration, error) {
	n.Helper()
	return call[api.CreateFunctionRequest, api.FunctionConfiguration](n, api.CreateFunction, createRequest(name, edit...))
}

func createRequest(name string, edit ...func(*api.CreateFunctionRequest)) api.CreateFunctionRequest {
	in := api.CreateFunctionRequest{FunctionName: new(name), Runtime: new("python3.13"), Role: new(role), Handler: new("index.handler"),
		Code: &api.FunctionCode{ZipFile: zipOf("index.py", name)}}
	for _, e := range edit {
		e(&in)
	}
	return in
}

func withPublish(in *api.CreateFunctionRequest) { in.Publish = new(true) }

func (n *node) get(name, qualifier string) (*api.GetFunctionResponse, error) {
	n.Helper()
	return call[api.GetFunctionRequest, api.GetFunctionResponse](n, api.GetFunction, api.GetFunctionRequest{FunctionName: &name, Qualifier: optional(qualifier)})
}

func (n *node) configuration(name, qualifier string) *api.FunctionConfiguration {
	n.Helper()
	out, err := n.get(name, qualifier)
	if err != nil {
		n.Fatalf("get %s:%s: %v", name, qualifier, err)
	}
	return out.Configuration
}

func (n *node) configure(in api.UpdateFunctionConfigurationRequest) (*api.FunctionConfiguration, error) {
	n.Helper()
	return call[api.UpdateFunctionConfigurationRequest, api.FunctionConfiguration](n, api.UpdateFunctionConfiguration, in)
}

func (n *node) updateCode(in api.UpdateFunctionCodeRequest) (*api.FunctionConfiguration, error) {
	n.Helper()
	return call[api.UpdateFunctionCodeRequest, api.FunctionConfiguration](n, api.UpdateFunctionCode, in)
}

func (n *node) publish(in api.PublishVersionRequest) (*api.FunctionConfiguration, error) {
	n.Helper()
	return call[api.PublishVersionRequest, api.FunctionConfiguration](n, api.PublishVersion, in)
}

func (n *node) delete(name, qualifier string) error {
	n.Helper()
	_, err := call[api.DeleteFunctionRequest, api.DeleteFunctionResponse](n, api.DeleteFunction, api.DeleteFunctionRequest{FunctionName: &name, Qualifier: optional(qualifier)})
	return err
}

// settleDown waits until nothing is Pending or InProgress.
func (n *node) settleDown() {
	time.Sleep(DefaultSettle) // the bubble's clock
	synctest.Wait()
}

func (n *node) wantError(err error, kind kiln.Kind, message string) {
	n.Helper()
	if err == nil {
		n.Errorf("accepted, want: %s", message)
	} else if kiln.KindOf(err) != kind || err.Error() != message {
		n.Errorf("got  %d %v\nwant %d %s", kiln.KindOf(err), err, kind, message)
	}
}

func (n *node) wantState(c *api.FunctionConfiguration, state, update string) {
	n.Helper()
	if got := text(c.State) + "/" + text(c.LastUpdateStatus); got != state+"/"+update {
		n.Errorf("%s is %s, want %s/%s", *c.FunctionArn, got, state, update)
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// zipOf returns a zip file with one file in it.
func zipOf(name, content string) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f := must(w.Create(name))
	_ = must(io.WriteString(f, content))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// memoryBlobs is a blob.Store in memory.
type memoryBlobs struct {
	mu      sync.Mutex
	content map[object][]byte // +checklocks:mu
	// deleting, if set, is called before an object is deleted.
	deleting func(object)
}

func newMemoryBlobs() *memoryBlobs { return &memoryBlobs{content: make(map[object][]byte)} }

func (b *memoryBlobs) Put(_ context.Context, a kiln.AccountID, content []byte) (kiln.Digest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := kiln.DigestOf(content)
	b.content[object{a, d}] = content
	return d, nil
}

func (b *memoryBlobs) Open(context.Context, kiln.AccountID, kiln.Digest) (blob.Reader, error) {
	return nil, errors.New("the control plane reads no code")
}

func (b *memoryBlobs) Delete(_ context.Context, a kiln.AccountID, d kiln.Digest) error {
	if b.deleting != nil {
		b.deleting(object{a, d})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.content, object{a, d})
	return nil
}

func (b *memoryBlobs) List(_ context.Context, fn func(kiln.AccountID, kiln.Digest) error) error {
	b.mu.Lock()
	all := make([]object, 0, len(b.content))
	for o := range b.content {
		all = append(all, o)
	}
	b.mu.Unlock()
	for _, o := range all {
		if err := fn(o.account, o.digest); err != nil {
			return err
		}
	}
	return nil
}

func (b *memoryBlobs) has(a kiln.AccountID, d kiln.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.content[object{a, d}]
	return ok
}

func (b *memoryBlobs) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.content)
}

func TestAFunctionGoesThroughItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		created := must(n.create("f"))
		n.wantState(created, "Pending", "")
		if text(created.StateReasonCode) != "Creating" || text(created.StateReason) != "The function is being created." {
			t.Errorf("Pending because %q %q", text(created.StateReasonCode), text(created.StateReason))
		}
		if want := "2000-01-01T00:00:00.000+0000"; text(created.LastModified) != want {
			t.Errorf("last modified %s, want %s", text(created.LastModified), want)
		}
		_, err := n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f")})
		n.wantError(err, kiln.ResourceConflict, "The operation cannot be performed at this time. The function is currently in the following state: Pending")

		n.settleDown()
		active := n.configuration("f", "")
		n.wantState(active, "Active", "Successful")
		if text(active.RevisionId) == text(created.RevisionId) {
			t.Error("a function that became Active has the same RevisionId")
		}

		updated := must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), MemorySize: new(int32(256))}))
		n.wantState(updated, "Active", "InProgress")
		if *updated.MemorySize != 256 || *updated.Timeout != 3 || text(updated.LastUpdateStatusReasonCode) != "Creating" {
			t.Errorf("updated to %d MB, %d s, %s", *updated.MemorySize, *updated.Timeout, text(updated.LastUpdateStatusReasonCode))
		}
		_, err = n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("a", "b")})
		n.wantError(err, kiln.ResourceConflict, "The operation cannot be performed at this time. An update is in progress for resource: "+fnARN+"f")
		n.settleDown()
		n.wantState(n.configuration("f", ""), "Active", "Successful")

		if err := n.delete("f", ""); err != nil {
			t.Fatal(err)
		}
		_, err = n.get("f", "")
		n.wantError(err, kiln.ResourceNotFound, "Function not found: "+fnARN+"f")
		n.wantError(n.delete("f", ""), kiln.ResourceNotFound, "Function not found: "+fnARN+"f")
	})
}

func TestAProcessFinishesWhatADeadOneHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("created", withPublish))
		_ = must(n.create("updated"))
		n.settleDown()
		_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("updated"), Timeout: new(int32(9))}))
		_ = must(n.create("pending", withPublish))
		n.stop()
		time.Sleep(time.Hour)
		n.wantState(n.configuration("pending", "1"), "Pending", "")
		n.start()
		for _, name := range []string{"updated", "pending", "pending:1", "created:1"} {
			n.wantState(n.configuration(name, ""), "Active", "Successful")
		}
	})
}

func TestAClockThatWasSetBackHoldsNobodyUp(t *testing.T) {
	now := time.Unix(1000, 0)
	v := &kiln.Version{LastModified: now.Add(time.Hour)}
	if at := settleAt(v, now, time.Second); !at.Equal(now.Add(time.Second)) {
		t.Errorf("a version of the future settles at %v", at.Sub(now))
	}
	v.LastModified = now.Add(-time.Hour)
	if at := settleAt(v, now, time.Second); at.After(now) {
		t.Errorf("a version of the past settles in %v", at.Sub(now))
	}
}

func TestOnlyWhatDecidesHowCodeRunsMakesADeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		first := n.version("f", 0).Deployment
		if n.version("f", 1).Deployment == first {
			t.Error("$LATEST and version 1 share environments, which know their version")
		}
		for _, tt := range []struct {
			what   string
			in     api.UpdateFunctionConfigurationRequest
			change bool
		}{
			{"nothing", api.UpdateFunctionConfigurationRequest{}, false},
			{"a description", api.UpdateFunctionConfigurationRequest{Description: new("d")}, false},
			{"the same memory", api.UpdateFunctionConfigurationRequest{MemorySize: new(int32(128))}, false},
			{"the timeout", api.UpdateFunctionConfigurationRequest{Timeout: new(int32(4))}, true},
			{"a variable", api.UpdateFunctionConfigurationRequest{Environment: &api.Environment{Variables: map[string]string{"AB": "c"}}}, true},
			{"the same variable", api.UpdateFunctionConfigurationRequest{Environment: &api.Environment{Variables: map[string]string{"AB": "c"}}}, false},
			{"the log group", api.UpdateFunctionConfigurationRequest{LoggingConfig: &api.LoggingConfig{LogGroup: new("g")}}, true},
		} {
			tt.in.FunctionName = new("f")
			before := n.version("f", 0).Deployment
			_ = must(n.configure(tt.in))
			if changed := n.version("f", 0).Deployment != before; changed != tt.change {
				t.Errorf("%s made another deployment: %v", tt.what, changed)
			}
			n.settleDown()
		}
		before := n.version("f", 0).Deployment
		_ = must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: zipOf("index.py", "other")}))
		if n.version("f", 0).Deployment == before {
			t.Error("other code runs in the old environments")
		}
	})
}

// version reads a version from the store; number 0 is $LATEST.
func (n *node) version(name string, number int) kiln.Version {
	n.Helper()
	k := catalog.FunctionKey(account, kiln.FunctionName(name))
	r := must(n.store.Get(n.Context(), k))
	latest, known, err := read(r)
	if err != nil || number == 0 {
		return *must(latest, err)
	}
	r = must(n.store.Get(n.Context(), catalog.VersionKey(account, kiln.FunctionName(name), known.function, number)))
	v, _, err := read(r)
	return *must(v, err)
}

func TestRevisionsGuardChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		n.settleDown()
		const mismatch = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
		code := zipOf("a", "b")
		_, err := n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: code, RevisionId: new("wrong")})
		n.wantError(err, kiln.PreconditionFailed, mismatch)
		_, err = n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), RevisionId: new("wrong")})
		n.wantError(err, kiln.PreconditionFailed, mismatch)
		_, err = n.publish(api.PublishVersionRequest{FunctionName: new("f"), RevisionId: new("wrong")})
		n.wantError(err, kiln.PreconditionFailed, mismatch)

		was := n.configuration("f", "").RevisionId
		v := must(n.publish(api.PublishVersionRequest{FunctionName: new("f"), RevisionId: was}))
		now := n.configuration("f", "").RevisionId
		if *now == *was || *v.RevisionId == *now {
			t.Errorf("$LATEST had revision %s, and %s after version 1, which has %s", *was, *now, *v.RevisionId)
		}
		_ = must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: code, RevisionId: now}))
	})
}

func TestADryRunChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		n.settleDown()
		before, other := n.version("f", 0), zipOf("a", "b")
		out := must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f"), ZipFile: other, DryRun: new(true), Publish: new(true)}))
		if text(out.CodeSha256) != kiln.DigestOf(other).Base64() || text(out.RevisionId) != before.RevisionID {
			t.Errorf("a dry run shows %s at revision %s", text(out.CodeSha256), text(out.RevisionId))
		}
		if after := n.version("f", 0); after.RevisionID != before.RevisionID || n.blobs.len() != 1 {
			t.Errorf("a dry run made revision %s, and %d objects are stored", after.RevisionID, n.blobs.len())
		}
	})
}

func TestGetFunctionLeadsToTheCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		out := must(n.get("f", ""))
		if want := "http://kiln/123456789012/" + string(kiln.DigestOf(zipOf("index.py", "f"))); *out.Code.Location != want || *out.Code.RepositoryType != "S3" {
			t.Errorf("code is at %s %s, want %s", *out.Code.RepositoryType, *out.Code.Location, want)
		}
		if out.Tags != nil || out.Concurrency != nil {
			t.Error("a function without tags and concurrency shows them")
		}
	})
}

func TestFunctionsWithoutFurtherConfigurationSayThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		c := must(call[api.GetFunctionConcurrencyRequest, api.GetFunctionConcurrencyResponse](n, api.GetFunctionConcurrency, api.GetFunctionConcurrencyRequest{FunctionName: new("f")}))
		if c.ReservedConcurrentExecutions != nil {
			t.Error("concurrency is reserved")
		}
		s := must(call[api.GetFunctionCodeSigningConfigRequest, api.GetFunctionCodeSigningConfigResponse](n, api.GetFunctionCodeSigningConfig, api.GetFunctionCodeSigningConfigRequest{FunctionName: new("f")}))
		if s.CodeSigningConfigArn != nil || text(s.FunctionName) != "f" {
			t.Errorf("code signing is %q of %q", text(s.CodeSigningConfigArn), text(s.FunctionName))
		}
		event := func(name, q string) error {
			_, err := call[api.GetFunctionEventInvokeConfigRequest, api.FunctionEventInvokeConfig](n, api.GetFunctionEventInvokeConfig,
				api.GetFunctionEventInvokeConfigRequest{FunctionName: &name, Qualifier: optional(q)})
			return err
		}
		n.wantError(event("f", ""), kiln.ResourceNotFound, "The function "+fnARN+"f:$LATEST doesn't have an EventInvokeConfig")
		n.wantError(event("f", "1"), kiln.ResourceNotFound, "The function "+fnARN+"f:1 doesn't have an EventInvokeConfig")
		url := func(name, q string) error {
			_, err := call[api.GetFunctionUrlConfigRequest, api.GetFunctionUrlConfigResponse](n, api.GetFunctionUrlConfig,
				api.GetFunctionUrlConfigRequest{FunctionName: &name, Qualifier: optional(q)})
			return err
		}
		n.wantError(url("f", ""), kiln.ResourceNotFound, "The resource you requested does not exist.")
		n.wantError(url("f", "1"), kiln.Validation, "1 validation error detected: Value '1' at 'qualifier' failed to satisfy constraint: "+
			`Member must satisfy regular expression pattern: ((?!^\d+$)^[0-9a-zA-Z-_]+$)`)
		_, err := call[api.GetFunctionConcurrencyRequest, api.GetFunctionConcurrencyResponse](n, api.GetFunctionConcurrency, api.GetFunctionConcurrencyRequest{FunctionName: new("none")})
		n.wantError(err, kiln.ResourceNotFound, "Function not found: "+fnARN+"none")
		_, err = call[api.GetFunctionConcurrencyRequest, api.GetFunctionConcurrencyResponse](n, api.GetFunctionConcurrency,
			api.GetFunctionConcurrencyRequest{FunctionName: new("arn:aws:lambda:eu-central-1:123456789012:function:f")})
		n.wantError(err, kiln.ResourceNotFound, "Functions from 'eu-central-1' are not reachable in this region ('us-east-1')")
	})
}

func TestAccountsDoNotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		for _, h := range n.service.Handlers() {
			if h.Operation == api.GetFunction {
				_, err := h.Call(t.Context(), api.Caller{Account: "999999999999"}, &api.GetFunctionRequest{FunctionName: new("f")})
				n.wantError(err, kiln.ResourceNotFound, "Function not found: arn:aws:lambda:us-east-1:999999999999:function:f")
				_, err = h.Call(t.Context(), api.Caller{Account: "999999999999"}, &api.GetFunctionRequest{FunctionName: new(fnARN + "f")})
				n.wantError(err, kiln.AccessDenied, "User: arn:aws:iam::999999999999:root is not authorized to perform: lambda:GetFunction on resource: "+
					fnARN+"f because no resource-based policy allows the lambda:GetFunction action")
			}
		}
	})
}

func TestOneOfManyChangesAtATimeWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		const callers = 12
		results := make(chan error, callers)
		var calling sync.WaitGroup
		for i := range callers {
			calling.Go(func() {
				_, err := n.create("f", func(in *api.CreateFunctionRequest) { in.Code.ZipFile = zipOf("a", fmt.Sprint(i)) })
				results <- err
			})
		}
		calling.Wait()
		n.wantOneSuccess(results, callers, "Function already exist: f")
		n.settleDown()
		for i := range callers {
			calling.Go(func() {
				_, err := n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Timeout: new(int32(i + 1))})
				results <- err
			})
		}
		calling.Wait()
		n.wantOneSuccess(results, callers, "The operation cannot be performed at this time. An update is in progress for resource: "+fnARN+"f")
	})
}

func (n *node) wantOneSuccess(results <-chan error, callers int, message string) {
	n.Helper()
	won := 0
	for range callers {
		if err := <-results; err == nil {
			won++
		} else {
			n.wantError(err, kiln.ResourceConflict, message)
		}
	}
	if won != 1 {
		n.Errorf("%d of %d succeeded, want one", won, callers)
	}
}

func TestConcurrentTagsAreAllKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		var calling sync.WaitGroup
		const callers = 10
		for i := range callers {
			calling.Go(func() {
				if err := n.tag("f", map[string]string{fmt.Sprint(i): "v"}); err != nil {
					t.Error(err)
				}
			})
		}
		calling.Wait()
		if tags := must(n.tags("f")); len(tags) != callers {
			t.Errorf("%d tags are left of %d", len(tags), callers)
		}
	})
}

func (n *node) tag(name string, tags map[string]string) error {
	n.Helper()
	_, err := call[api.TagResourceRequest, api.Unit](n, api.TagResource, api.TagResourceRequest{Resource: new(fnARN + name), Tags: tags})
	return err
}

func (n *node) untag(name string, keys ...string) error {
	n.Helper()
	_, err := call[api.UntagResourceRequest, api.Unit](n, api.UntagResource, api.UntagResourceRequest{Resource: new(fnARN + name), TagKeys: keys})
	return err
}

func (n *node) tags(name string) (map[string]string, error) {
	n.Helper()
	out, err := call[api.ListTagsRequest, api.ListTagsResponse](n, api.ListTags, api.ListTagsRequest{Resource: new(fnARN + name)})
	if err != nil {
		return nil, err
	}
	return out.Tags, nil
}

func TestTagsAreBoundedAndMakeRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		n.settleDown()
		if tags := must(n.tags("f")); tags == nil || len(tags) != 0 {
			t.Errorf("a new function has tags %v", tags)
		}
		many := map[string]string{}
		for i := range maxTags {
			many[fmt.Sprint(i)] = "v"
		}
		before := n.configuration("f", "")
		if err := n.tag("f", many); err != nil {
			t.Fatal(err)
		}
		after := n.configuration("f", "")
		if *after.RevisionId == *before.RevisionId || *after.LastModified != *before.LastModified {
			t.Error("tags must make a revision and no modification")
		}
		n.wantState(after, "Active", "Successful")
		n.wantError(n.tag("f", map[string]string{"one more": ""}), kiln.InvalidParameterValue, "Number of tags exceeds resource tag limit.")
		if err := n.untag("f", "0", "not there"); err != nil {
			t.Fatal(err)
		}
		if tags := must(n.tags("f")); len(tags) != maxTags-1 {
			t.Errorf("%d tags are left", len(tags))
		}
		n.wantError(n.tag("f", map[string]string{"aws:x": ""}), kiln.InvalidParameterValue, "Tag keys that begin with aws: are reserved.")
		n.wantError(n.tag("f", map[string]string{"k": strings.Repeat("v", 257)}), kiln.InvalidParameterValue, "A tag's value must have at most 256 characters.")
		n.wantError(n.tag("f", map[string]string{}), kiln.InvalidParameterValue, "An error occurred and the request cannot be processed.")
	})
}

func TestOnlyFunctionsHaveTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		const prefix = "arn:aws:lambda:us-east-1:123456789012:"
		const id = "00000000-0000-4000-8000-000000000000"
		rule := taggablePattern.Rule()
		for _, tt := range []struct {
			arn  string
			kind kiln.Kind
			want string
		}{
			{prefix + "function:f", kiln.ResourceNotFound, "Function not found: " + prefix + "function:f"},
			{prefix + "function:f:alias", kiln.InvalidParameterValue, "Tags on function aliases and versions are not supported. Please specify a function ARN."},
			{prefix + "event-source-mapping:" + id, kiln.ResourceNotFound, "Event source mapping not found: " + prefix + "event-source-mapping:" + id},
			{prefix + "capacity-provider:c", kiln.ResourceNotFound, "Capacity provider not found: " + prefix + "capacity-provider:c"},
			{prefix + "capacity-provider:c:alias", kiln.Validation,
				"1 validation error detected: Value '" + prefix + "capacity-provider:c:alias' at 'resource' failed to satisfy constraint: " + rule},
			{prefix + "foobar:x", kiln.Validation, "1 validation error detected: Value '" + prefix + "foobar:x' at 'resource' failed to satisfy constraint: " + rule},
			{"f", kiln.Validation, "1 validation error detected: Value 'f' at 'resource' failed to satisfy constraint: " + rule},
		} {
			_, err := call[api.ListTagsRequest, api.ListTagsResponse](n, api.ListTags, api.ListTagsRequest{Resource: new(tt.arn)})
			n.wantError(err, tt.kind, tt.want)
			_, err = call[api.TagResourceRequest, api.Unit](n, api.TagResource, api.TagResourceRequest{Resource: new(tt.arn), Tags: map[string]string{"a": "b"}})
			n.wantError(err, tt.kind, tt.want)
			_, err = call[api.UntagResourceRequest, api.Unit](n, api.UntagResource, api.UntagResourceRequest{Resource: new(tt.arn), TagKeys: []string{"a"}})
			n.wantError(err, tt.kind, tt.want)
		}
	})
}

func TestAccountSettingsCountWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		size := int64(len(zipOf("index.py", "f1")))
		n.wantUsage(0, 0)
		_ = must(n.create("f1", withPublish))
		_ = must(n.create("f2"))
		n.wantUsage(2, 3*size)
		n.settleDown()
		bigger := zipOf("index.py", "bigger than it was")
		_ = must(n.updateCode(api.UpdateFunctionCodeRequest{FunctionName: new("f2"), ZipFile: bigger}))
		n.wantUsage(2, 2*size+int64(len(bigger)))
		if err := n.delete("f1", ""); err != nil {
			t.Fatal(err)
		}
		n.wantUsage(1, int64(len(bigger)))
		n.stop()
		n.start()
		n.wantUsage(1, int64(len(bigger)))
	})
}

func (n *node) wantUsage(functions, size int64) {
	n.Helper()
	out := must(call[api.GetAccountSettingsRequest, api.GetAccountSettingsResponse](n, api.GetAccountSettings, api.GetAccountSettingsRequest{}))
	if got := *out.AccountUsage; *got.FunctionCount != functions || *got.TotalCodeSize != size {
		n.Errorf("%d functions of %d bytes, want %d of %d", *got.FunctionCount, *got.TotalCodeSize, functions, size)
	}
	if l := *out.AccountLimit; *l.TotalCodeSize != 80530636800 || *l.CodeSizeUnzipped != 262144000 || *l.CodeSizeZipped != 52428800 ||
		*l.ConcurrentExecutions != 1000 || *l.UnreservedConcurrentExecutions != 1000 {
		n.Errorf("limits are not AWS's: %+v", l)
	}
}

func TestAnAccountCannotStoreMoreThanItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		synctest.Wait()
		huge := functionWrite(&kiln.Function{ID: "x", Latest: kiln.Version{Account: account, Function: "huge", Config: kiln.Config{Code: kiln.Code{Digest: "d", Size: maxTotalCode - int64(len(zipOf("index.py", "f")))}}}}, 0)
		_ = must(n.service.commit(t.Context(), huge))
		synctest.Wait()
		_, err := n.create("g")
		n.wantError(err, kiln.CodeStorageExceeded, "Code storage limit exceeded.")
	})
}
