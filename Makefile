# Thin targets; each says what it runs. Everything that is built or cached stays under build/ or
# ${XDG_CACHE_HOME:-~/.cache}/copepod.
PYTHON = build/venv/bin/python
RUN = PYTHONPATH=shim:api:api/ttrpc:cri-tests $(PYTHON)

.PHONY: help build test lint proto demo containerd-matrix critest bench e2e vm packages clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

build: ## a private virtual environment, build/bin/containerd-shim-copepod-v1 and build/bin/copepod
	@.ci/prepare

test: build ## lint, types, unit and system tests, and a real containerd
	@.ci/test

lint: build ## ruff, mypy and the import contracts
	@$(RUN) -m pytest -q shim/tests/rules

proto: build ## regenerate api/copepod_api from api/protos
	@$(RUN) api/generate.py

clean: ## remove build/
	rm -rf build
