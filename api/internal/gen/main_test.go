package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"kiln/api/apitest"

	_ "github.com/aws/aws-sdk-go-v2/service/lambda/schemas" // see apitest.SDKDir
)

func TestTheGeneratedFilesAreThoseOfThePinnedSDK(t *testing.T) {
	files, err := generate(apitest.SDKDir(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes: run go generate in package api", name)
		}
	}
}
