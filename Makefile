# Thin targets; each says what it runs. Everything that is built or cached stays under build/ or
# ${XDG_CACHE_HOME:-~/.cache}/copepod.
PYTHON = build/venv/bin/python
RUN = PYTHONPATH=shim:api:api/ttrpc:cri-tests $(PYTHON)
RIG = $(RUN) -m rig

.PHONY: help build toolbox test lint proto demo containerd-matrix guests critest critest-wasm soak bench e2e vm packages clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

build: ## a private virtual environment, build/bin/containerd-shim-copepod-v1 and build/bin/copepod
	@.ci/prepare

toolbox: ## build/guests/toolbox.wasm, the tools for images without any: wants Go >= 1.21
	@python3 shim/guests/build.py

test: build ## lint, types, unit and system tests, and a real containerd
	@.ci/test

lint: build ## ruff, mypy and the import contracts
	@$(RUN) -m pytest -q shim/tests/rules

demo: build ## a wasm pod on one screen, on a private containerd
	@$(RIG) demo

containerd-matrix: build ## images, exit codes and bad input on containerd 1.6, 1.7 and 2.4
	@$(RIG) matrix

guests: build ## guests of five compilers x what they do, in pods; compiling, limits, Go's own tests
	@$(RIG) guests

critest: CONTAINERD ?= 2.4.2,1.7.34,debian
critest: build ## CRI's validation suite, ours and runc side by side, on each containerd or CONTAINERD
	@$(RIG) critest --containerd $(CONTAINERD)

critest-wasm: build ## the same suite with wasm images: the toolbox and web servers of ours
	@$(RIG) critest --wasm

soak: build ## 500 containers' lives in random order, with kill -9 at shims and containers
	@$(RIG) soak

bench: build ## ours and runc in turn: times and memory
	@$(RIG) bench

e2e: build ## what users do with wasm pods, in a real one-node Kubernetes
	@$(RIG) e2e

vm: build ## the packages on a whole node: Debian 13, systemd, cgroup v2, under qemu
	@$(RUN) -m vm

packages: build ## deb and rpm for amd64 and arm64: sizes, linters, every CPython, the same bytes twice
	@$(RUN) -m packages

proto: build ## regenerate api/copepod_api from api/protos
	@$(RUN) api/generate.py

clean: ## remove build/
	rm -rf build
