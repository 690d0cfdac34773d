# `make` without a target lists them. redis, lint, chaos, break and soak need more than Go: a redis-server, a linter, a C compiler.

LINTER := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run the quickstart, on a Redis in memory unless REDIS_URL is set
	@go run ./examples/quickstart

test: ## run the tests; those on real Redis are skipped where there is no redis-server
	go test ./...

race: ## run the tests with the race detector
	go test -race ./...

redis: ## run the tests with the race detector; a missing redis-server is a failure
	@command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install -y redis-server"; exit 1; }
	CI=true go test -race ./...

lint: ## vet, staticcheck and more, as .golangci.yml says
	go run $(LINTER) run
	cd chaos && go run $(LINTER) run
	cd bench && go run $(LINTER) run

DURATION ?= 3m
SEED ?= 1
FAULTS ?=

chaos: ## break workers, Redis and the wire for DURATION=3m with SEED=1 (0: a fresh one), or only FAULTS=kill-one,freeze; TABLE=FILE publishes
	@cd chaos && go test -count=1 -v -timeout 0 -run 'TestChaos|TestWorkerClock|TestWires' . \
		-duration $(DURATION) -seed $(SEED) -faults "$(FAULTS)" -table "$(if $(TABLE),$(abspath $(TABLE)))"

break: ## break each guarantee in the code on purpose, and see chaos complain
	@cd chaos && go test -count=1 -v -timeout 0 -run TestBreak . -break -worlds 6

soak: ## watch what an idle, a busy and a saturated world use, for DURATION=10m
	@cd chaos && go test -count=1 -v -timeout 0 -run TestSoak . -soak $(DURATION)

check: format tidy lint redis ## all that must hold before a commit: format, tidy, lint, race on miniredis and on real Redis
	go build ./...
	go test -run '^$$' -bench Hot -benchtime 1x -timeout 1m . ./internal/store
	cd chaos && go vet ./... && go test -race ./model/...
	for patch in chaos/testdata/break/*.patch; do git apply --check "$$patch" || exit 1; done
	cd bench && go vet ./... && go test -race ./...

format:
	@test -z "$$(gofmt -l .)" || { gofmt -d .; echo "run gofmt -w ."; exit 1; }

tidy: ## check that go.mod and go.sum are as go mod tidy makes them
	go mod tidy -diff
	cd chaos && go mod tidy -diff
	cd bench && go mod tidy -diff

cover: ## measure what the tests cover
	go test -coverprofile=cover.out -coverpkg=./... ./...
	go tool cover -func=cover.out | tail -1

fuzz: ## fuzz each decoder for a while
	@grep -rho --include=*_test.go '^func Fuzz[A-Za-z]*' . | sort -u | cut -c6- | while read name; do \
		dir=$$(dirname $$(grep -rl --include=*_test.go "^func $$name(" .)); \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime 20s $$dir || exit 1; done

QUICK ?=

bench: ## measure redtask beside its peers and its limits; QUICK=1 in a minute, and without publishing
	@cd bench && go run . $(if $(QUICK),-quick,-csv ../docs/benchmarks.csv -markdown ../docs/benchmarks.md -charts ../docs/charts)

bench-scale: ## measure how what redtask drains depends on sizes, for docs/performance.md; QUICK=1 in a minute, and without publishing
	@cd bench && go run . -scale $(if $(QUICK),-quick,-repeats 2 -csv ../docs/performance.csv -markdown ../docs/performance.md -charts ../docs/charts)

microbench: ## measure tasks started and drained with go test, and what they cost Redis
	go test -run '^$$' -bench . -benchtime 20000x .

BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
HOTPATH := go test -run '^$$' -bench Hot -benchtime 200ms -cpu 2 . ./internal/store

bench-compare: ## measure time and allocations of the hot path, against the baseline of testdata/bench.txt; times compare on one machine only
	@new=$$(mktemp) && trap "rm -f $$new" EXIT && $(HOTPATH) -count 6 >$$new && \
		go run $(BENCHSTAT) -ignore cpu baseline=testdata/bench.txt now=$$new

bench-baseline: ## make what is measured now the baseline of bench-compare
	@new=$$(mktemp) && trap "rm -f $$new" EXIT && $(HOTPATH) -count 10 >$$new && cp $$new testdata/bench.txt

.PHONY: help demo test race redis lint check format tidy cover fuzz bench bench-scale microbench bench-compare bench-baseline chaos break soak
