# The one interface for people and CI. Everything runs inside .venv, which is made here and needs only a
# Python 3.11, 3.12 or 3.13 on the PATH; choose another with `make PYTHON=/path/to/python <target>`.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test lint typed train tables check docs bench gpu-check clean

PYTHON ?= python3.11 python3.12 python3.13 python3 python
WORKERS ?= 2
ARGS ?=

PY := .venv/bin/python
PIP := $(PY) -m pip install -q --disable-pip-version-check
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CHECKED := build/typed/assay bench run.py tests

# A stamp's name carries its file's checksum: an edit of the requirements, not a newer date, reinstalls.
stamp = .venv/.$(1)-$(shell cksum < $(2) | cut -d ' ' -f 1)
RUNTIME := $(call stamp,runtime,requirements.txt)
TEST := $(call stamp,test,requirements-test.txt)
BENCH := $(call stamp,bench,requirements-bench.txt)
DOCS := $(call stamp,docs,requirements-docs.txt)
PAGES := README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff docs

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(RUNTIME)  ## Create .venv with what `make run` needs (the other targets add what they need)

run: $(RUNTIME)  ## Evaluate the embedded benchmark end to end; write tables and an HTML report to results/
	$(PY) run.py experiment=embedded
	$(PY) run.py experiment=embedded_cue
	$(PY) run.py -m experiment=embedded_vit,embedded_vit_cue
	$(PY) run.py experiment=ood_embedded
	$(PY) run.py experiment=errors_embedded
	$(PY) -m harness samples experiment=embedded model=scenes_vgg
	$(PY) -m harness samples experiment=embedded model=scenes_resnet
	$(PY) -m harness samples experiment=embedded_vit
	$(PY) -m harness report

test: $(TEST)  ## Run the tests but the slow ones (WORKERS=0: one process; ARGS="-k rap": passed to pytest)
	$(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1 )$(PY) -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

lint: $(TEST) typed  ## Check style, formatting and types (ruff, mypy)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(CHECKED)

# mypy cannot follow the path that assay/__init__.py extends at import: links show it the one package.
typed:
	@rm -rf build/typed/assay && mkdir -p build/typed/assay
	@ln -s $(addprefix ../../../,$(wildcard assay/*.py) harness methods metrics datasets) build/typed/assay

train: $(RUNTIME)  ## Train the three embedded networks anew (seeded; minutes on two cores)
	$(PY) -m harness train

tables: $(RUNTIME)  ## Regenerate results/tables/ from the results: ours | reported | difference | n
	$(PY) -m harness table $(ARGS)

# Two runs side by side, a core each; what fails in them, the comparison names.
check: $(RUNTIME)  ## Compare a fresh embedded run of everything with results/baselines/ (ARGS="--junit FILE": passed on)
	rm -rf results/check
	@mkdir -p results/check
	OMP_NUM_THREADS=1 $(PY) run.py -m experiment=ci_embedded,ci_detectors,ci_cue,ci_grid > results/check/first.log & \
	OMP_NUM_THREADS=1 $(PY) run.py -m experiment=ci_resnet,ci_again,ci_csv,ci_coco,ci_voc,ci_disconnected,ci_committees,ci_vit > results/check/second.log & wait
	$(PY) -m harness check $(ARGS)

# The site's source is the tree as it is, by links: what a page's links mean on the forge they mean there.
docs: $(DOCS)  ## Build the site of all pages into build/site; a broken link or anchor fails
	@rm -rf build/pages build/site && mkdir -p build/pages/results
	@ln -s $(addprefix ../../,$(PAGES)) build/pages && ln -s ../../../results/tables build/pages/results
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict  # --quiet would hide warnings from --strict, too
	@echo 'docs: open build/site/index.html'

bench: $(BENCH)  ## Time our methods and metrics against their peers
	$(PY) -m bench

gpu-check: $(RUNTIME)  ## Compare the gate's tables on the CPU and a GPU, and time every method there (ARGS="--small": passed on)
	$(PY) -m bench.gpu $(ARGS)

clean:  ## Remove results/{store,tidy,runs,report,check}, builds and caches; keep .venv and the committed results
	rm -rf $(addprefix results/,store tidy runs report check) .pytest_cache .ruff_cache .mypy_cache
	rm -rf build dist *.egg-info
	find . \( -path ./.venv -o -path ./.git \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A candidate must run, not merely be found: the shims of version managers exist and fail.
$(PY):
	@for python in $(PYTHON); do \
	    if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then \
	        echo "setup: creating .venv with $$("$$python" --version) ($$python)"; \
	        exec "$$python" -m venv --clear .venv; \
	    fi; \
	done; \
	echo 'setup: no working Python 3.11, 3.12 or 3.13 with its venv module among: $(PYTHON)' >&2; \
	echo 'setup: install one (on Debian and Ubuntu also python3-venv), or: make PYTHON=/path/to/python setup' >&2; \
	exit 1

$(RUNTIME): $(PY)
	@echo 'setup: installing requirements.txt into .venv (about 2 minutes the first time)'
	@rm -f .venv/.runtime-*
	@$(PIP) -r requirements.txt
	@touch $@

# Each stamp waits for the one before it, so that under `make -j` two installs never meet in one .venv.
$(TEST): $(RUNTIME)
	@echo 'setup: installing requirements-test.txt into .venv (under a minute the first time)'
	@rm -f .venv/.test-*
	@$(PIP) -r requirements-test.txt
	@touch $@

$(DOCS): $(TEST)
	@echo 'setup: installing requirements-docs.txt into .venv (half a minute the first time)'
	@rm -f .venv/.docs-*
	@$(PIP) -r requirements-docs.txt
	@touch $@

$(BENCH): $(TEST) $(if $(filter docs,$(MAKECMDGOALS)),$(DOCS))
	@echo 'setup: installing requirements-bench.txt into .venv (under a minute the first time)'
	@rm -f .venv/.bench-*
	@$(PIP) -r requirements-bench.txt
	@touch $@
