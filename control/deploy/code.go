package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"kiln"
	"kiln/internal/safezip"
)

// maxTotalCode is how much code an account may store, published versions counted each.
const maxTotalCode = 75 << 30

// archive is an uploaded zip file that has passed all checks.
type archive struct {
	zip  []byte
	code kiln.Code
}

// readArchive returns AWS's error about a zip file that cannot be a deployment package or a layer. what says which, for the error
// that there is none.
func readArchive(zip []byte, what string) (archive, error) {
	switch {
	case zip == nil:
		return archive{}, kiln.Errorf(kiln.InvalidParameterValue, "Please provide a source for %s.", what)
	case len(zip) == 0:
		return archive{}, kiln.Errorf(kiln.InvalidParameterValue, "Uploaded file must be a non-empty zip")
	case len(zip) > kiln.MaxZip:
		return archive{}, kiln.Errorf(kiln.RequestEntityTooLarge, "Zipped size must be smaller than %d bytes", kiln.MaxZip)
	}
	sum, err := safezip.Check(bytes.NewReader(zip), int64(len(zip)), safezip.Limits{Bytes: kiln.MaxUnzipped})
	if err != nil {
		return archive{}, zipError(err)
	}
	return archive{zip, kiln.Code{Digest: kiln.DigestOf(zip), Size: int64(len(zip)), Unzipped: sum.Bytes}}, nil
}

// functionCode is what AWS calls the content of a deployment package.
const functionCode = "function code"

func errCodeStorage() error {
	return kiln.Errorf(kiln.CodeStorageExceeded, "Code storage limit exceeded.")
}

// withCode stores an archive and calls use, which makes a record refer to it. Meanwhile nobody deletes it.
func (s *Service) withCode(ctx context.Context, a kiln.AccountID, z archive, use func() error) error {
	// There must be room for what is stored while both the old code and the new are. What the records may add up to is decided
	// when they are committed.
	if s.inventory.bytes(a)+z.code.Size > maxTotalCode {
		return errCodeStorage()
	}
	held := []object{{a, z.code.Digest}}
	if err := s.hold(ctx, held); err != nil {
		return err
	}
	defer s.release(held)
	if _, err := s.cfg.Blobs.Put(ctx, a, z.zip); err != nil {
		return fmt.Errorf("store code: %w", err)
	}
	return use()
}

// hold keeps codes from being deleted until release, all or, if there is an error, none.
func (s *Service) hold(ctx context.Context, codes []object) error {
	for i, c := range codes {
		if err := s.inventory.hold(ctx, c); err != nil {
			s.release(codes[:i])
			return fmt.Errorf("hold code: %w", err)
		}
	}
	return nil
}

func (s *Service) release(codes []object) {
	for _, c := range codes {
		s.forget(s.inventory.release(c))
	}
}

// zipError returns what AWS says of a zip file that safezip refuses.
func zipError(err error) error {
	switch {
	case errors.Is(err, safezip.ErrTooLarge):
		return kiln.Errorf(kiln.InvalidParameterValue, "Unzipped size must be smaller than %d bytes", kiln.MaxUnzipped)
	case errors.Is(err, safezip.ErrUnsafe):
		return kiln.Errorf(kiln.InvalidParameterValue, "Could not unzip uploaded file: %v", err)
	}
	return kiln.Errorf(kiln.InvalidParameterValue, "Could not unzip uploaded file. Please check your file, then try to upload again.")
}
