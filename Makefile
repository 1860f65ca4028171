# Two commands matter: `make run` starts a node and shows it work, `make test` runs every test.
# gVisor's sentry needs a static binary, so bin/kiln is built without cgo; only our own tests use the race detector.

GO ?= go
BUILD = CGO_ENABLED=0 $(GO) build -trimpath

.PHONY: run test build bench lint soak soak-v2 bare generate setup clean

# Not `go run`, which ends with an error when Ctrl-C ends its program well.
run: build
	$(GO) build -o bin/examples ./examples/run
	@bin/examples

build: bin/kiln

# The guest and the program of sandboxes go into bin/kiln, which is all that a node needs.
bin/kiln: FORCE
	$(BUILD) -ldflags '-s -w' -o worker/runtime/guest/kiln-guest ./cmd/kiln-guest
	$(BUILD) -ldflags '-s -w' -o worker/sandbox/gvisor/program/kiln-sandbox ./cmd/kiln-sandbox
	$(BUILD) -ldflags '-s -w' -o bin/kiln ./cmd/kiln

.PHONY: FORCE
FORCE:

# Tests that drive a node use bin/kiln; the clients are those that users have.
test: setup build lint
	$(GO) test -race -p 1 -timeout 20m ./...

bench: build
	$(GO) test -run "^$$" -bench . -benchtime 1x -timeout 30m ./bench

soak: setup build
	KILN_SOAK=1 $(GO) test -timeout 2h ./test/...

# The sandboxes on control groups of version 2, whatever this machine has, in a virtual machine.
soak-v2: build
	sh scripts/cgroup2.sh

# .ci/run in a Debian root that has nothing else, on the committed tree.
bare:
	sh scripts/bare.sh

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 -run TestImports .

generate:
	$(GO) generate ./...

setup:
	@sh scripts/setup.sh

clean:
	rm -rf bin worker/runtime/guest/kiln-guest worker/sandbox/gvisor/program/kiln-sandbox
