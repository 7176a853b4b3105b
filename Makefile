# demo    a small ward on this machine, in your browser
# test    every test, against the real parts
# soak    MINUTES=n of kills, cuts and full disks under load, both brokers; counts what was lost
#         OF=memory instead: whether the memory of a box with four cameras stays flat
# check   format, lints, docs, each feature set alone, what each build must not contain
# fuzz    each parser of network and disk input for SECONDS (60); PARSER=name for one
# bench   measures; figures go to target/bench.jsonl
#         SIZE=100M instead: the archive of 1 M clips and one of 100 M alone; 20 GB of disk and some two hours
# powercut  ROUNDS simulated power cuts on journal, outbox and hub; needs root and loop devices
# deny    licences, advisories and sources of the dependencies
SHELL := /bin/bash
CARGO := PATH="$$HOME/.cargo/bin:$$PATH" cargo
CONSOLE := src/hub/console
CONSOLE_SOURCES := $(shell find $(CONSOLE) -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)

VIDEO ?=
RTSP ?=
ARGS ?=
SECONDS ?= 60
PARSER ?=
ROUNDS ?= 50
POWERCUT ?= ../shared/tools/powercut.py

MINUTES ?= 10
OF ?= losses

SIZE ?=

OPTIMISED := CARGO_TARGET_DIR=target/optimised $(CARGO) bench --profile bench --locked
HUB_BENCHES := edge,hub,broker,bench-postgres

.PHONY: demo test soak soak-losses soak-memory check fuzz bench bench-all bench-search powercut deny deps deps-test deps-fuzz deps-bench console build

demo: deps console
	$(CARGO) build --locked
	target/debug/camnet demo $(foreach v,$(VIDEO),--video "$(v)") $(foreach r,$(RTSP),--rtsp "$(r)") $(ARGS)

test: deps-test console
	cd $(CONSOLE) && npm run check
	$(CARGO) test --locked

soak: soak-$(OF)

soak-losses: deps-test console
	CAMNET_SOAK_MINUTES=$(MINUTES) $(CARGO) test --locked --test it -- --ignored --exact --nocapture chaos::soak

soak-memory: deps-test console
	CAMNET_SOAK_MINUTES=$(MINUTES) $(OPTIMISED) --bench box -- flat

check: deps-test console
	.ci/check

fuzz: deps-fuzz console
	.ci/fuzz "$(SECONDS)" $(PARSER)

bench: deps-bench console bench-$(if $(SIZE),search,all)

bench-all:
	rm -f target/bench.jsonl
	$(CARGO) bench --profile dev --locked --bench figures
	$(OPTIMISED) --no-default-features --features $(HUB_BENCHES) --bench ingest --bench index --bench search
	$(OPTIMISED) --bench motion --bench box --bench fleet
	$(OPTIMISED) --bench ring

bench-search:
	SIZE=$(SIZE) $(OPTIMISED) --no-default-features --features $(HUB_BENCHES) --bench search

powercut:
	$(CARGO) test --locked --test powercut -- rounds $(ROUNDS) $(POWERCUT)

deny:
	.ci/deny

build: deps console
	$(CARGO) build --release --locked

deps:
	@deploy/install-deps.sh build

deps-test:
	@deploy/install-deps.sh test

deps-fuzz:
	@deploy/install-deps.sh fuzz

deps-bench:
	@deploy/install-deps.sh bench

console: $(CONSOLE)/dist/index.html

$(CONSOLE)/dist/index.html: $(CONSOLE_SOURCES)
	cd $(CONSOLE) && npm ci --no-audit --no-fund && npm run build
