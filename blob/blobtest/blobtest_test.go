package blobtest_test

import (
	"testing"

	"kiln/blob"
	"kiln/blob/blobtest"
)

func TestMemoryIsAStore(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return blobtest.NewMemory() })
}
