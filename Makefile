# Newcomers need two commands: `make run` and `make test`. Both do their own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The protocol must stay compatible with the last release.
LAST_TAG := $(shell git describe --tags --abbrev=0 2>/dev/null)
comma := ,

PROTOS := $(sort $(wildcard proto/batchllm/v1/*.proto))
GENERATED := client_py/src

# In other languages: each has a Makefile with targets of the same names. They need Go, Node or a JDK with Maven.
CLIENTS := client_go client_ts client_java
# Their code is generated and committed.
GENERATORS := $(CLIENTS) tests/conformance/adapters/rust

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml server/pyproject.toml client_py/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "batch-llm needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V). Use: make PYTHON=python3.12 …" >&2; exit 2; }
	@if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "Python's venv module is missing. Run: sudo apt-get install python3-venv" >&2; exit 2; fi; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt 'pip>=25.1'
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --group dev -e './client_py[cli]' -e './server[local,openai,gemini,emulator,pydantic-ai,postgres]'
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv

.PHONY: proto
proto: proto-python $(GENERATORS:%=proto-%) ## Regenerate the code of all languages from proto/

.PHONY: proto-python
proto-python: $(STAMP) ## Regenerate the Python code alone
	rm -rf client_py/src/batchllm
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=$(GENERATED) \
	  --grpc_python_out=$(GENERATED) --mypy_out=$(GENERATED) --mypy_grpc_out=$(GENERATED) $(PROTOS)
	touch client_py/src/batchllm/py.typed

.PHONY: $(GENERATORS:%=proto-%)
$(GENERATORS:%=proto-%): proto-%: $(STAMP)
	$(MAKE) --no-print-directory -C $* proto

.PHONY: run
run: $(STAMP) ## Label the example's tickets with a real model through a sidecar
	@examples/triage/run.sh $(BIN) .run/state

# The tests start a server of their own. Debian's package would make and start one for the machine: it is told not to,
# and is left alone where it is installed already.
.PHONY: postgres
postgres: ## Install PostgreSQL's programs, which the tests need
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    mkdir -p /etc/postgresql-common/createcluster.d; \
	    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/no-main-cluster.conf; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql; \
	  else echo "PostgreSQL's programs are missing, so its tests are skipped. Run: sudo apt-get install postgresql" >&2; fi; fi

.PHONY: test
test: $(STAMP) postgres ## Run the whole test-suite
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# What drives each client, and each language's generated code, through the cases.
ADAPTERS := client_go client_ts client_java tests/conformance/adapters/rust tests/conformance/adapters/cpp
ADAPTER_COMMANDS := --adapter client_go/.bin/conformance --adapter 'client_go/.bin/conformance -raw' \
  --adapter 'node client_ts/build/conformance/client.js' --adapter 'node client_ts/build/conformance/raw.js' \
  --adapter 'java @client_java/target/java.args dev.batchllm.conformance.Adapter client' \
  --adapter 'java @client_java/target/java.args dev.batchllm.conformance.Adapter raw' \
  --adapter tests/conformance/adapters/rust/target/debug/adapter --adapter tests/conformance/adapters/cpp/build/adapter

.PHONY: $(ADAPTERS:%=adapter-%)
$(ADAPTERS:%=adapter-%): adapter-%: $(STAMP)
	$(MAKE) --no-print-directory -C $* adapter

.PHONY: lint-adapters
lint-adapters:
	$(MAKE) --no-print-directory -C tests/conformance/adapters/rust lint
	$(MAKE) --no-print-directory -C tests/conformance/adapters/cpp lint

.PHONY: conformance
conformance: $(STAMP) $(ADAPTERS:%=adapter-%) ## Show which conformance cases the clients in other languages pass
	$(BIN)/python -m tests.conformance $(ADAPTER_COMMANDS)

.PHONY: test-clients
test-clients: $(CLIENTS:%=test-%) ## Test the clients in other languages
	$(MAKE) --no-print-directory lint-adapters conformance

.PHONY: $(CLIENTS:%=test-%)
$(CLIENTS:%=test-%): test-%: $(STAMP)
	$(MAKE) --no-print-directory -C $* lint test

.PHONY: grpcurl
grpcurl: $(STAMP) ## Install grpcurl, whose commands in docs/any-language.md are tested where it is
	GOBIN=$(CURDIR)/$(BIN) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

.PHONY: examples
examples: $(STAMP) ## Label the example's tickets through the client of each language
	@examples/triage/run.sh $(BIN) .run/state $(MAKE) --no-print-directory example-client_py $(CLIENTS:%=example-%)

.PHONY: example-client_py
example-client_py: $(STAMP)
	$(BIN)/python examples/python/triage.py $$BATCH_LLM_TARGET

.PHONY: $(CLIENTS:%=example-%)
$(CLIENTS:%=example-%): example-%:
	$(MAKE) --no-print-directory -C $* example

.PHONY: test-client-range
test-client-range: $(STAMP) ## Test the client with the oldest and the newest libraries that it declares
	$(call test_client_with,oldest,grpcio==1.73.1 grpcio-status==1.73.1 grpcio-testing==1.73.1 protobuf==6.31.1 rich==13.0.0)
	$(call test_client_with,newest,grpcio==1.85.1 grpcio-status==1.85.1 grpcio-testing==1.85.0 protobuf==7.36.2 rich==15.0.0)

# $(1): name of the environment, $(2): versions
define test_client_with
	$(PYTHON) -m venv .run/client-$(1)
	.run/client-$(1)/bin/pip install -q --disable-pip-version-check --upgrade $(patsubst %,'%',$(2)) \
	  'pytest>=9,<10' 'pytest-asyncio>=1.3,<2' 'pytest-timeout>=2.4,<3' ./client_py
	.run/client-$(1)/bin/python -m pytest -q tests/unit/client
endef

# Versions of google-genai that users have: the last before 1.46, that, the last of 2, and the one that is pinned.
GENAI_VERSIONS := 1.45.0 1.46.0 2.34.0 $(shell sed -n 's/^google-genai==//p' constraints.txt)
GENAI_CELLS := $(foreach version,$(GENAI_VERSIONS),genai-$(version) genai-$(version)-aiohttp)
# The examples and fleets start many processes, and show nothing of a version that the others do not.
GENAI_TESTS := $(filter-out %_examples.py %_fleet.py,$(wildcard tests/unit/engine/test_gemini*.py tests/integration/test_gemini*.py))

.PHONY: test-genai-matrix $(GENAI_CELLS)
test-genai-matrix: ## Test Gemini with old and new versions of google-genai, with and without aiohttp
	@$(MAKE) --no-print-directory -j 2 $(GENAI_CELLS)

$(filter-out %-aiohttp,$(GENAI_CELLS)): %: .run/%/.installed
	$(call test_genai_with,$*,,no aiohttp)
$(filter %-aiohttp,$(GENAI_CELLS)): %-aiohttp: .run/%/.installed .run/genai-aiohttp/.installed
	$(call test_genai_with,$*,$(CURDIR)/.run/genai-aiohttp,aiohttp)

$(GENAI_VERSIONS:%=.run/genai-%/.installed): .run/genai-%/.installed: server/pyproject.toml client_py/pyproject.toml
	@$(PYTHON) -m venv .run/genai-$*
	@.run/genai-$*/bin/pip install -q --disable-pip-version-check --no-compile google-genai==$* 'genai-prices>=0.2.3,<0.3' \
	  'pytest>=9,<10' 'pytest-asyncio>=1.3,<2' 'pytest-timeout>=2.4,<3' -e './client_py[cli]' -e './server[emulator]'
	@awk '/BEGIN CERT/ { n++ } n == 1' "$$(.run/genai-$*/bin/python -m certifi)" > .run/genai-$*/one.pem
	@touch $@

# The SDK changes its transport where aiohttp can be imported, so it is added to a version's environment by path.
.run/genai-aiohttp/.installed: .run/genai-$(firstword $(GENAI_VERSIONS))/.installed
	@$(<D)/bin/pip install -q --disable-pip-version-check --no-compile --target $(@D) 'aiohttp>=3.14,<4'
	@touch $@

# What the SDK does that its own dependencies have come to discourage.
GENAI_WARNINGS := -W ignore::pydantic.warnings.PydanticDeprecatedSince212 \
  -W 'ignore:Inheritance class AiohttpClientSession from ClientSession is discouraged:DeprecationWarning'

# Every client reads all of certifi's certificates, a third of the time that this takes; plain HTTP needs none.
# $(1): name of the environment, $(2): what else can be imported, $(3): what that is
define test_genai_with
	@if PYTHONPATH=$(2) SSL_CERT_FILE=$(CURDIR)/.run/$(1)/one.pem .run/$(1)/bin/python -m pytest -q $(GENAI_WARNINGS) \
	    $(GENAI_TESTS) > .run/$@.log 2>&1; \
	  then echo "google-$(1), $(3): $$(tail -n 1 .run/$@.log)"; else cat .run/$@.log; exit 1; fi
endef

.PHONY: lint
lint: $(STAMP) ## Check style, types, layers and the protocol
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint
	$(if $(LAST_TAG),cd proto && ../$(BIN)/buf breaking --against '../.git#tag=$(LAST_TAG)$(comma)subdir=proto')

.PHONY: format
format: $(STAMP) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) postgres ## Measure speed, start and memory
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.gemini
	$(BIN)/python -m tests.bench.journal --postgres
	$(PYTHON) -m venv .run/peer
	.run/peer/bin/pip install -q --disable-pip-version-check async-batch-llm==0.28.0
	$(BIN)/python -m tests.bench.engine --peer .run/peer/bin/python

.PHONY: $(CLIENTS:%=programs-%)
$(CLIENTS:%=programs-%): programs-%:
	$(MAKE) --no-print-directory -C $* programs

.PHONY: bench-clients
bench-clients: $(STAMP) $(CLIENTS:%=programs-%) ## Measure the speed of the clients of all languages side by side
	$(BIN)/python -m tests.bench.clients --client Go=client_go/.bin/bench \
	  --client 'TypeScript=node client_ts/build/bench/bench.js' \
	  --client 'Java=java @client_java/target/java.args dev.batchllm.client.Throughput'

.PHONY: pins
pins: ## Rewrite constraints.txt with what is newest within the ranges
	rm -rf $(VENV)
	sed -n '/^#/p' constraints.txt > constraints.new && mv constraints.new constraints.txt
	$(MAKE) setup
	$(BIN)/pip freeze --exclude-editable >> constraints.txt

.PHONY: clean
clean: ## Remove what the other targets made, the example's model and cache included
	rm -rf $(VENV) .run .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
