# SPDX-License-Identifier: Apache-2.0
#
# Warren's developer loop. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO ?= go
BIN := build/bin
RUNTESTS := $(BIN)/runtests
# Namespaces and kernel programs need root.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# sudo drops the environment. CI=true, which makes a skipped test a failure, has to get through as the way to Go has.
AS_ROOT = $(SUDO) env "PATH=$$PATH" $${CI:+"CI=$$CI"}

# Generated files are checked in; these are the tools that reproduce them byte for byte.
CLANG ?= clang-14
CLANG_VERSION := 14.0.6
PROTOC_VERSION := 3.21.12
export BPF2GO_CC ?= $(CLANG)
export BPF2GO_CFLAGS ?= -O2 -g -Wall -Werror -I/usr/include/$(shell uname -m)-linux-gnu -fdebug-prefix-map=$(CURDIR)=.

# Experiments of the Go toolchain to build with. runtimesecret has the runtime zero what keys leave in memory
# (docs/operations/certificates.md); everything is compiled once more for it.
WARREN_GOEXPERIMENT ?=

# How long make test gives each fuzz target.
FUZZTIME ?= 2s

GENERATED := $(shell git ls-files '*_bpfel.go' '*_bpfel.o' '*.pb.go' '*_gen.go' 'api/*/zz_generated.deepcopy.go' 'deploy/chart/warren/crds/*.yaml' 'bpf/include/reasons.h' 2>/dev/null)

.PHONY: help build generate test test-all test-race fuzz demo demo-down bench lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: check-go ## compile every binary into build/bin (first time with cold caches: about three minutes on two cores)
	@mkdir -p $(BIN)
	@echo "build: $$(ls -d cmd/warren* 2>/dev/null | xargs -rn1 basename | tr '\n' ' ')shop warren-netns runtests (seconds; with cold caches about three minutes on two cores)"
	@$(if $(WARREN_GOEXPERIMENT),GOEXPERIMENT=$(WARREN_GOEXPERIMENT)) CGO_ENABLED=0 $(GO) build -v -o $(BIN)/ $$(ls -d ./cmd/warren* 2>/dev/null) ./deploy/samples/shop ./tests/netns/cmd/warren-netns ./tests/cmd/runtests 2>&1 | \
		awk -W interactive '/^[^ :#]+$$/ { if (++n % 100 == 0) print "build: " n " packages"; fflush(); next } { print; fflush() }'

.PHONY: check-go
check-go:
	@command -v $(GO) >/dev/null || \
		{ echo "no $(GO): get Go 1.26 or newer from https://go.dev/dl/, unpack it to /usr/local/go and add /usr/local/go/bin to PATH" >&2; exit 1; }
	@$(GO) version | grep -qE 'go1\.(2[1-9]|[3-9][0-9])' || \
		{ echo "$$($(GO) version) is too old to fetch the Go that go.mod names: get Go 1.26 or newer from https://go.dev/dl/" >&2; exit 1; }

generate: ## regenerate BPF bindings and objects, protobufs, the API's CustomResourceDefinitions and the reasons table (about half a minute)
	@$(MAKE) --no-print-directory check-generators
	$(GO) run ./bpf/internal/genreasons bpf/reasons.yaml bpf/include/reasons.h mesh/reason/reasons_gen.go
	$(GO) generate ./...

.PHONY: check-generators
check-generators:
	@$(CLANG) --version 2>/dev/null | grep -qF '$(CLANG_VERSION)' || \
		{ echo "generate: needs $(CLANG) $(CLANG_VERSION), found: $$($(CLANG) --version 2>&1 | head -1); on Debian 12: apt-get install clang-14 llvm-14 libbpf-dev" >&2; exit 1; }
	@protoc --version 2>/dev/null | grep -qF '$(PROTOC_VERSION)' || \
		{ echo "generate: needs protoc $(PROTOC_VERSION), found: $$(protoc --version 2>&1 | head -1); on Debian 12: apt-get install protobuf-compiler" >&2; exit 1; }

.PHONY: verify-generated
verify-generated: ## check that generation reproduces the checked-in files byte for byte
	@mkdir -p build && sha256sum $(GENERATED) > build/generated.before
	@$(MAKE) --no-print-directory generate
	@sha256sum --quiet -c build/generated.before || \
		{ echo "generated files differ from their sources: run 'make generate' and commit the result" >&2; exit 1; }
	@new=$$(git ls-files -o --exclude-standard '*_bpfel.go' '*_bpfel.o' '*.pb.go' '*_gen.go' 'zz_generated*.go' 'deploy/chart/warren/crds/*'); \
		[ -z "$$new" ] || { echo "generated but not checked in: $$new" >&2; exit 1; }
	@echo "generate: $(words $(GENERATED)) files reproduced byte for byte"

test: ## everything there is: generation, linters, race detector, every test as root, fuzzing, e2e (about 20 minutes on two cores, half an hour more with cold caches)
	@echo "test: about 20 minutes on two cores; half an hour more the first time, most of it to compile the Kubernetes of the tests"
	@$(AS_ROOT) bash tests/all.sh

test-all: build ## only the tests (as root: the kernel's too) and each fuzz target briefly, about five minutes
	@echo "tests: every package, the kernel's and the whole mesh's among them, then fuzzing; about five minutes"
	@$(RUNTESTS) -fuzz $(FUZZTIME) ./tests/netns ./...

test-race: build ## run the unprivileged tests under the race detector, about three minutes on two cores
	@echo "test-race: about three minutes"
	@$(RUNTESTS) -race $$($(GO) list ./... | grep -v /tests/)

fuzz: build ## run each fuzz target for FUZZTIME (2s)
	@echo "fuzz: about a minute"
	@$(RUNTESTS) -only-fuzz -fuzz $(FUZZTIME)

.PHONY: test-keys
test-keys: check-go ## look for erased keys in a process built with WARREN_GOEXPERIMENT=runtimesecret (minutes the first time: it compiles everything once more)
	@GOEXPERIMENT=runtimesecret CGO_ENABLED=0 $(GO) test -count=1 -run 'TestKeysLeaveTheProcess|TestErasedKey' ./ztunnel/identity

demo: build ## two nodes, a sample application, traffic, and a report of what happened; stays up
	@$(SUDO) $(BIN)/warren-netns demo -command '$(strip $(SUDO) $(BIN)/warren-netns)' -down 'make demo-down'

demo-down: ## stop the demo
	@[ ! -x $(BIN)/warren-netns ] || $(SUDO) $(BIN)/warren-netns down

# The demo on a cluster: KUBECONFIG names the user's own, with Warren on it (make install), else one is started here.
DEMO = $(SUDO) env "PATH=$$PATH" $(BIN)/warren-demo $(if $(KUBECONFIG),--kubeconfig "$(KUBECONFIG)" --down 'make demo-cluster-down KUBECONFIG=$(KUBECONFIG)',\
	--kubectl '$(strip $(SUDO) $(BIN)/warren-testcluster --name demo kubectl)' --down 'make demo-cluster-down') $(if $(SHOP_IMAGE),--shop-image "$(SHOP_IMAGE)")

.PHONY: warren-demo demo-cluster demo-cluster-down push-shop
warren-demo: check-go
	@mkdir -p $(BIN)
	@cd tests/cluster && CGO_ENABLED=0 $(GO) build -o $(CURDIR)/$(BIN)/ ./cmd/warren-testcluster
	@cd tests/e2e && CGO_ENABLED=0 $(GO) build -o $(CURDIR)/$(BIN)/ ./cmd/warren-demo

demo-cluster: warren-demo ## the demo on a real two-node Kubernetes (the first time 15 to 20 minutes to compile it); with KUBECONFIG and SHOP_IMAGE on yours
	@$(DEMO) up

demo-cluster-down: warren-demo ## remove it
	@$(DEMO) down

push-shop: warren-demo ## push the sample shop's image: SHOP_IMAGE=registry.example.com/shop:1
	@$(BIN)/warren-demo --shop-image "$(SHOP_IMAGE)" push

.PHONY: cluster-up cluster-down
cluster-up: check-go ## a real two-node Kubernetes on this machine: 15 seconds, the first time 15 to 20 minutes to compile it (tests/cluster)
	@mkdir -p $(BIN)
	@cd tests/cluster && CGO_ENABLED=0 $(GO) build -o $(CURDIR)/$(BIN)/ ./cmd/warren-testcluster
	@$(SUDO) env "PATH=$$PATH" $(BIN)/warren-testcluster up

cluster-down: ## stop it and remove everything of it
	@[ ! -x $(BIN)/warren-testcluster ] || $(SUDO) env "PATH=$$PATH" $(BIN)/warren-testcluster down

.PHONY: warren-deploy image push manifests install uninstall
warren-deploy: check-go
	@mkdir -p $(BIN)
	@cd deploy/install && CGO_ENABLED=0 $(GO) build -o $(CURDIR)/$(BIN)/ ./cmd/warren-deploy

image: warren-deploy ## make the image, without Docker; IMAGE=registry.example.com/warren:1 names it, ARCH=arm64, OUTPUT=file.tar
	@$(BIN)/warren-deploy image $(if $(IMAGE),--image $(IMAGE)) $(if $(ARCH),--arch $(ARCH)) $(if $(OUTPUT),--output $(OUTPUT))

push: warren-deploy ## the same, and push it where IMAGE says; ARCH=amd64,arm64 pushes both under one name
	@$(BIN)/warren-deploy push --image "$(IMAGE)" $(if $(ARCH),--arch $(ARCH))

manifests: warren-deploy ## render the chart into deploy/manifests
	@$(BIN)/warren-deploy render

install: warren-deploy ## install Warren on the cluster of KUBECONFIG, or upgrade it: IMAGE=..., VALUES=file.yaml, TIMEOUT=5m
	@$(BIN)/warren-deploy install $(if $(IMAGE),--image $(IMAGE)) $(addprefix --values ,$(VALUES)) $(if $(TIMEOUT),--timeout $(TIMEOUT))

uninstall: warren-deploy ## remove Warren from the nodes and the cluster of KUBECONFIG; TIMEOUT=5m, SKIP_NOT_READY=1
	@$(BIN)/warren-deploy uninstall $(if $(SKIP_NOT_READY),--skip-not-ready) $(if $(TIMEOUT),--timeout $(TIMEOUT))

.PHONY: test-install test-cluster test-apiserver e2e
test-install: check-go ## the tests of the installation, without a cluster
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/ ./tests/cmd/runtests
	@$(RUNTESTS) -C deploy/install ./...

test-cluster: check-go ## the tests of the cluster for tests, as root (a minute; the first time Kubernetes is compiled)
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/ ./tests/cmd/runtests
	@$(AS_ROOT) $(CURDIR)/$(RUNTESTS) -C tests/cluster -each ./... -- -timeout 60m

test-apiserver: check-go ## what informers, control and the CustomResourceDefinitions need of a real kube-apiserver, which test-cluster compiles (half a minute)
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/ ./tests/cmd/runtests
	@$(RUNTESTS) ./mesh/kube/informers ./control/cluster -- -count=1 -tags cluster -run Real

e2e: check-go ## the tests on a real two-node Kubernetes with Warren on it, as root (about ten minutes; the first time 15 to 20 more to compile it)
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/ ./tests/cmd/runtests
	@echo "e2e: about ten minutes on two cores; the first time Kubernetes is compiled, 15 to 20 minutes"
	@$(AS_ROOT) $(CURDIR)/$(RUNTESTS) -C tests/e2e -each ./... -- -count=1 -timeout 60m

bench: build ## no mesh, HAProxy and Warren, across nodes and on one: the table, and build/bench.json (about five minutes)
	@$(GO) run ./tests/bench $(BENCHFLAGS)

FEATURES := -rounds 9 -duration 1500ms -scenario idle,memory,bytes-1,requests-16,paced,connections,samenode-requests-16,samenode-connections \
	-systems haproxy,warren-bare,warren,warren-10,warren-10000,warren-traced -out build/bench-features.json

.PHONY: bench-features
bench-features: build ## what each feature costs: access log, 10 and 10,000 policies, spans; nine rounds (about twelve minutes)
	@$(GO) run ./tests/bench $(FEATURES) $(BENCHFLAGS)

.PHONY: bench-cluster
bench-cluster: check-go ## what Warren costs on a real two-node Kubernetes, as root: enrolment, memory, start of pods (two minutes; the first time 15 to 20 more)
	@cd tests/e2e && $(SUDO) env "PATH=$$PATH" $(GO) test -count=1 -timeout 60m -run '^$$' -bench Cluster -benchtime 1x .

lint: ## gofmt, vet and staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt'd: $$out" >&2; exit 1; }
	@$(GO) vet ./...
	@$(GO) vet -tags cluster ./...
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/ honnef.co/go/tools/cmd/staticcheck
	@$(BIN)/staticcheck ./...
	@cd tests/cluster && $(GO) vet ./... && $(CURDIR)/$(BIN)/staticcheck ./...
	@cd tests/e2e && $(GO) vet ./... && $(CURDIR)/$(BIN)/staticcheck ./...
	@cd deploy/install && $(GO) vet ./... && $(GO) vet -tags cluster ./... && $(CURDIR)/$(BIN)/staticcheck ./...
	@echo "lint: clean"


clean: ## remove build/
	rm -rf build
