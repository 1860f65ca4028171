package catalogtest_test

import (
	"testing"

	"kiln/catalog"
	"kiln/catalog/catalogtest"
)

func TestMemoryIsAStore(t *testing.T) {
	catalogtest.Run(t, func(*testing.T) catalog.Store { return catalogtest.NewMemory() })
}
