// Package deploy serves the operations on functions, with their versions and tags, and on layers.
//
// A function is one record of the catalog, its published versions are others, its code is an object of the blob store that any
// of these may refer to. Every operation is one commit of the function's record, so that operations on one function happen one
// after another, whoever makes them. A layer version is a record too, with its policy in it. A function that uses it refers to its
// content, not to that record, and so outlives it.
//
// Two things go on beside the operations, in Run: versions leave Pending and InProgress, and code that nothing refers to is
// deleted. Both are found again in the store when a process dies before them.
package deploy

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"kiln"
	"kiln/api"
	"kiln/blob"
	"kiln/catalog"
	"kiln/catalog/ref"
	"kiln/internal/constraint"
)

// Config says what a Service works with. Store, Blobs, Region and CodeURL must be set.
type Config struct {
	Store  catalog.Store
	Blobs  blob.Store
	Region kiln.Region
	// CodeURL returns where code of an account may be downloaded for a while.
	CodeURL func(kiln.AccountID, kiln.Digest) string
	// Concurrency is what accounts may run at a time, and so reserve.
	Concurrency kiln.Concurrency
	// Settle is how long a version stays Pending or InProgress; 0 means DefaultSettle.
	Settle time.Duration
	// Keep is how long code stays after the last record that refers to it is gone; 0 means DefaultKeep.
	Keep time.Duration
	// Now reads the clock; nil means time.Now.
	Now func() time.Time
	// NewID returns a new UUID; nil means a random one.
	NewID func() string
	// Log gets what went wrong beside the operations. Nil means nobody asks.
	Log *slog.Logger
}

const (
	// DefaultSettle is long enough that a client's next request meets the change in progress, as it does on AWS, and short
	// enough that nobody waits for it.
	DefaultSettle = 500 * time.Millisecond
	// DefaultKeep outlives an invocation that resolved a version just before it was replaced, and has yet to fetch its code.
	DefaultKeep = 5 * time.Minute
)

// Service serves the operations. It is safe for concurrent use. Run must be running: without it versions stay Pending, code is
// never deleted and GetAccountSettings waits.
type Service struct {
	cfg       Config
	inventory *inventory
	// unsettled are the records that are Pending or InProgress.
	unsettled *agenda[catalog.Key]
	// unreferenced is code that may have to be deleted.
	unreferenced *agenda[object]
	provisions   provisionStatuses
}

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Settle == 0 {
		cfg.Settle = DefaultSettle
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewID == nil {
		cfg.NewID = uuid.NewString
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, inventory: newInventory(), unsettled: newAgenda[catalog.Key](), unreferenced: newAgenda[object]()}
}

// Run does what goes on beside the operations until ctx ends or the watch of the store fails, and returns why. Whatever else
// fails is logged and tried again. Run finishes what a process that died has left, and may be run again.
func (s *Service) Run(ctx context.Context) error {
	s.unsettled.clear()
	s.unreferenced.clear()
	synced := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx, synced) })
	for range settlers {
		g.Go(func() error { return s.unsettled.run(ctx, work[catalog.Key]{s.cfg.Now, s.settle, s.willRetry}) })
	}
	g.Go(func() error { return s.unreferenced.run(ctx, work[object]{s.cfg.Now, s.deleteCode, s.willRetry}) })
	g.Go(func() error { return s.tidy(ctx, synced) })
	return g.Wait()
}

// settlers is how many records are settled at a time: one for each that is created, so that they keep up with many callers whose commits
// share a write to the disk.
const settlers = 16

// Handlers returns the handlers of the operations.
func (s *Service) Handlers() []api.Handler {
	return append(append(s.layerHandlers(), s.codeSigningHandlers()...),
		api.Handle(api.CreateFunction, s.createFunction, createEnforces()...),
		api.Handle(api.UpdateFunctionCode, s.updateFunctionCode, updateCodeEnforces()...),
		api.Handle(api.UpdateFunctionConfiguration, s.updateFunctionConfiguration, updateConfigurationEnforces()...),
		api.Handle(api.GetFunction, s.getFunction, members("FunctionName", "Qualifier")...),
		api.Handle(api.GetFunctionConfiguration, s.getFunctionConfiguration, members("FunctionName", "Qualifier")...),
		api.Handle(api.ListFunctions, s.listFunctions, members("MasterRegion", "FunctionVersion", "Marker", "MaxItems")...),
		api.Handle(api.DeleteFunction, s.deleteFunction, members("FunctionName", "Qualifier")...),
		api.Handle(api.PublishVersion, s.publishVersion, members("FunctionName", "CodeSha256", "Description", "RevisionId")...),
		api.Handle(api.ListVersionsByFunction, s.listVersions, members("FunctionName", "Marker", "MaxItems")...),
		api.Handle(api.CreateAlias, s.createAlias, append(members("FunctionName", "FunctionVersion", "Description", routingConfig), api.Enforced{Path: "Name", Note: "500 of a function at most"})...),
		api.Handle(api.UpdateAlias, s.updateAlias, members("FunctionName", "Name", "FunctionVersion", "Description", routingConfig, "RevisionId")...),
		api.Handle(api.GetAlias, s.getAlias, members("FunctionName", "Name")...),
		api.Handle(api.ListAliases, s.listAliases, members("FunctionName", "FunctionVersion", "Marker", "MaxItems")...),
		api.Handle(api.DeleteAlias, s.deleteAlias, members("FunctionName", "Name")...),
		api.Handle(api.TagResource, s.tagResource, members("Resource", "Tags")...),
		api.Handle(api.UntagResource, s.untagResource, members("Resource", "TagKeys")...),
		api.Handle(api.ListTags, s.listTags, members("Resource")...),
		api.Handle(api.GetAccountSettings, s.getAccountSettings),
		api.Handle(api.PutFunctionConcurrency, s.putFunctionConcurrency, members("FunctionName", "ReservedConcurrentExecutions")...),
		api.Handle(api.DeleteFunctionConcurrency, s.deleteFunctionConcurrency, members("FunctionName")...),
		api.Handle(api.GetFunctionConcurrency, s.getFunctionConcurrency, members("FunctionName")...),
		api.Handle(api.PutProvisionedConcurrencyConfig, s.putProvisionedConcurrency, members("FunctionName", "Qualifier", "ProvisionedConcurrentExecutions")...),
		api.Handle(api.GetProvisionedConcurrencyConfig, s.getProvisionedConcurrency, members("FunctionName", "Qualifier")...),
		api.Handle(api.ListProvisionedConcurrencyConfigs, s.listProvisionedConcurrency, members("FunctionName", "Marker", "MaxItems")...),
		api.Handle(api.DeleteProvisionedConcurrencyConfig, s.deleteProvisionedConcurrency, members("FunctionName", "Qualifier")...),
		api.Handle(api.AddPermission, s.addPermission, permissionEnforces()...),
		api.Handle(api.RemovePermission, s.removePermission, members("FunctionName", "Qualifier", "StatementId", "RevisionId")...),
		api.Handle(api.GetPolicy, s.getPolicy, members("FunctionName", "Qualifier")...),
		api.Handle(api.GetFunctionEventInvokeConfig, s.getFunctionEventInvokeConfig, members("FunctionName", "Qualifier")...),
		api.Handle(api.GetFunctionUrlConfig, s.getFunctionURLConfig, members("FunctionName", "Qualifier")...),
		api.Handle(api.PutFunctionRecursionConfig, s.putFunctionRecursionConfig, members("FunctionName", "RecursiveLoop")...),
		api.Handle(api.GetFunctionRecursionConfig, s.getFunctionRecursionConfig, members("FunctionName")...),
		api.Handle(api.PutRuntimeManagementConfig, s.putRuntimeManagementConfig, append(members("FunctionName", "Qualifier"), api.Enforced{Path: "UpdateRuntimeOn", Note: "Auto only"})...),
		api.Handle(api.GetRuntimeManagementConfig, s.getRuntimeManagementConfig, members("FunctionName", "Qualifier")...),
	)
}

func members(paths ...string) []api.Enforced {
	e := make([]api.Enforced, len(paths))
	for i, p := range paths {
		e[i].Path = p
	}
	return e
}

// reader reads the references in requests of an operation.
func (s *Service) reader(ctx context.Context, c api.Caller, op *api.Operation, shape ref.Shape) ref.Reader {
	return ref.Reader{
		Region: s.cfg.Region, Account: c.Account, Operation: op.Name, Shape: shape,
		Trusted: func(r ref.Ref) bool { return s.trusts(ctx, r, c, op) },
	}
}

// readUnqualified reads a reference where AWS takes whole functions only.
func (s *Service) readUnqualified(ctx context.Context, c api.Caller, op *api.Operation, shape ref.Shape, name *string) (ref.Ref, error) {
	r, err := s.reader(ctx, c, op, shape).Read(name, nil)
	if err != nil {
		return ref.Ref{}, err
	}
	return r, wholeFunction(r)
}

// readQualified reads a reference to a function, a version or an alias, and lets check, unless it is nil, look at the other members.
func (s *Service) readQualified(ctx context.Context, c api.Caller, op *api.Operation, shape ref.Shape, function, qualifier *string, check func(*constraint.Violations)) (ref.Ref, error) {
	reader := s.reader(ctx, c, op, shape)
	var v constraint.Violations
	reader.Check(&v, function, qualifier)
	if check != nil {
		check(&v)
	}
	if err := validation(&v); err != nil {
		return ref.Ref{}, err
	}
	return reader.Resolve(*function, qualifier)
}

func wholeFunction(r ref.Ref) error {
	if r.Qualifier == "" {
		return nil
	}
	return kiln.Errorf(kiln.InvalidParameterValue, "This operation is permitted on Lambda functions only. "+
		"Aliases and versions do not support this operation. Please specify either a function name or an unqualified function ARN.")
}
