package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"kiln"
	"kiln/api"
	"kiln/catalog"
	"kiln/catalog/ref"
)

func (s *Service) deleteFunction(ctx context.Context, c api.Caller, in *api.DeleteFunctionRequest) (*api.DeleteFunctionResponse, error) {
	r, err := s.reader(ctx, c, api.DeleteFunction, ref.Namespaced).Read(in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	if r.Qualifier == "" {
		err = s.deleteWhole(ctx, r)
	} else {
		err = s.deleteVersion(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	return &api.DeleteFunctionResponse{StatusCode: new(int32(http.StatusNoContent))}, nil
}

// deleteWhole deletes the function first, so that nobody finds or adds a version afterwards, and then its versions. What a crash
// leaves of them is removed at the next start.
func (s *Service) deleteWhole(ctx context.Context, r ref.Ref) error {
	for range maxAttempts {
		f, at, err := s.find(ctx, r)
		if err != nil {
			return err
		}
		err = s.deleteRecord(ctx, r, f, at)
		if errors.Is(err, catalog.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		// The function is deleted: a caller who goes away now does not change that.
		if err := s.removeVersions(context.WithoutCancel(ctx), orphan{r.Account, r.Name, f.ID}); err != nil {
			return fmt.Errorf("delete the versions of %s: %w", r.Name, err)
		}
		return nil
	}
	return inProgress(r, s.cfg.Region)
}

// deleteVersion deletes a published version. One that is not there is deleted, as on AWS.
func (s *Service) deleteVersion(ctx context.Context, r ref.Ref) error {
	n, ok := ref.Number(r.Qualifier)
	switch {
	case r.Qualifier == kiln.LatestVersion:
		return kiln.Errorf(kiln.InvalidParameterValue, "$LATEST version cannot be deleted without deleting the function.")
	case !ok:
		return kiln.Errorf(kiln.InvalidParameterValue, "Deletion of aliases is not currently supported.")
	}
	for range maxAttempts {
		f, revision, err := s.find(ctx, r.Unqualified())
		if err != nil {
			return err
		}
		if names := aliasesOf(f, r.Qualifier); len(names) > 0 {
			return kiln.Errorf(kiln.ResourceConflict, "Unable to delete version because the following aliases reference it: [%s]", strings.Join(names, ", "))
		}
		v, at, err := s.published(ctx, f, n)
		if err != nil || v == nil {
			return err
		}
		delete(f.Policies, r.Qualifier)
		writes, err := s.unprovision(ctx, f, r.Qualifier)
		if err != nil {
			return err
		}
		// The function is written too, so that no alias is given the version meanwhile.
		_, err = s.commit(ctx, append(writes, write{key: catalog.VersionKey(r.Account, r.Name, f.ID, n), at: at}, functionWrite(f, revision))...)
		if !errors.Is(err, catalog.ErrConflict) {
			return err
		}
	}
	return inProgress(r, s.cfg.Region)
}
