# The front door. `make up` and `make test` are the two commands of the README; the rest is what they are made of.
PROFILE ?= release
VERSION ?=
OUT     := _out
HOST    := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
BUILT   := target/$(HOST)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
RKADM   := $(OUT)/bin/rkadm
LAB     ?= rk

.PHONY: up down test bench golden images build deps release deb drills shell check unit cluster clean

up: images
	@$(RKADM) lab --lab $(LAB) up --images $(OUT)/images --port 0
	@scripts/kubeconfig-install $(RKADM) $(LAB)

down:
	@scripts/kubeconfig-remove $(RKADM) $(LAB)
	@if [ -x $(RKADM) ]; then $(RKADM) lab --lab $(LAB) down; else echo "nothing is up"; fi

deps:
	@scripts/deps

build: deps
	@scripts/build $(PROFILE) $(BUILT) $(OUT)/bin

images: build
	@scripts/images $(OUT)/bin $(OUT)/images

test: unit cluster

unit: deps
	@cargo test --workspace --quiet

cluster: images
	@RK_BIN=$(CURDIR)/$(OUT)/bin RK_IMAGES=$(CURDIR)/$(OUT)/images cargo test --quiet --workspace --features tests/cluster --test cluster

check:
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings

bench: images
	@RK_BIN=$(CURDIR)/$(OUT)/bin RK_IMAGES=$(CURDIR)/$(OUT)/images target/$(HOST)/release/bench

golden: build
	@scripts/golden $(OUT)/bin

# What administrators practise, each in a lab of its own; `make drills DRILL=upgraded` runs those that match.
drills: images
	@RK_BIN=$(CURDIR)/$(OUT)/bin RK_IMAGES=$(CURDIR)/$(OUT)/images cargo test --quiet --workspace --features tests/cluster --test drills -- $(DRILL)

release: images
	@scripts/release $(OUT) "$(VERSION)"

# Debian packages and a local repository of them, of the built version or of a release: make deb VERSION=v1.36.1
deb: $(if $(VERSION),release,images)
	@scripts/deb $(OUT) $(if $(wildcard $(OUT)/$(VERSION)/bin),$(if $(VERSION),$(OUT)/$(VERSION)/bin))

shell:
	@$(RKADM) lab --lab $(LAB) enter cp1

clean: down
	@rm -rf $(OUT) target
