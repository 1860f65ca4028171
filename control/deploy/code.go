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

// checkZip returns AWS's error about a deployment package that cannot be one.
func checkZip(zip []byte) error {
	switch {
	case zip == nil:
		return kiln.Errorf(kiln.InvalidParameterValue, "Please provide a source for function code.")
	case len(zip) == 0:
		return kiln.Errorf(kiln.InvalidParameterValue, "Uploaded file must be a non-empty zip")
	case len(zip) > kiln.MaxZip:
		return kiln.Errorf(kiln.RequestEntityTooLarge, "Zipped size must be smaller than %d bytes", kiln.MaxZip)
	}
	_, err := safezip.Check(bytes.NewReader(zip), int64(len(zip)), safezip.Limits{Bytes: kiln.MaxUnzipped})
	return zipError(err)
}

func errCodeStorage() error {
	return kiln.Errorf(kiln.CodeStorageExceeded, "Code storage limit exceeded.")
}

// withCode stores zip and calls use, which makes a record refer to it. Meanwhile nobody deletes it.
func (s *Service) withCode(ctx context.Context, a kiln.AccountID, zip []byte, use func(kiln.Code) error) error {
	code := kiln.Code{Digest: kiln.DigestOf(zip), Size: int64(len(zip))}
	// There must be room for what is stored while both the old code and the new are. What the records may add up to is decided
	// when they are committed.
	if s.inventory.bytes(a)+code.Size > maxTotalCode {
		return errCodeStorage()
	}
	held := object{a, code.Digest}
	if err := s.inventory.hold(ctx, held); err != nil {
		return fmt.Errorf("hold code: %w", err)
	}
	defer func() { s.forget(s.inventory.release(held)) }()
	if _, err := s.cfg.Blobs.Put(ctx, a, zip); err != nil {
		return fmt.Errorf("store code: %w", err)
	}
	return use(code)
}

// zipError returns what AWS says of a zip file that safezip refuses.
func zipError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, safezip.ErrTooLarge):
		return kiln.Errorf(kiln.InvalidParameterValue, "Unzipped size must be smaller than %d bytes", kiln.MaxUnzipped)
	case errors.Is(err, safezip.ErrUnsafe):
		return kiln.Errorf(kiln.InvalidParameterValue, "Could not unzip uploaded file: %v", err)
	}
	return kiln.Errorf(kiln.InvalidParameterValue, "Could not unzip uploaded file. Please check your file, then try to upload again.")
}
