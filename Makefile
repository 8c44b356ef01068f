# Every target sets up what it needs by itself; see tools/setup.
PY := .venv/bin/python

.PHONY: trials test-swarms test-rest test-docker-py fuzz sim demo test check soak bench setup clean help

help:            ## this list
	@awk -F':.*##' '/^[a-z-]+:.*##/ { printf "  make %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:            ## a swarm of three nodes on this machine, shown step by step
	@tools/setup run
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) tools/demo.py $(if $(KEEP),--keep)

test: check      ## style, types, layers and every test but the long ones
	@$(MAKE) --no-print-directory -j2 test-swarms test-rest

# Most tests wait for packets and processes most of the time, so two runs go side by side: those of whole swarms, and
# all others, of which those that only compute give way to them.
SWARMS := tests/e2e
VIRTUAL := tests/cli tests/core tests/lib tests/model tests/sim tests/stack
test-swarms:
	$(PY) -m pytest -q -m "not soak" $(SWARMS)

test-rest:
	@mkdir -p build
	@nice $(PY) -m pytest -q -m "not soak" $(VIRTUAL) >build/test-virtual.log 2>&1 || { cat build/test-virtual.log; exit 1; }
	@tail -n 1 build/test-virtual.log
	@$(PY) -m pytest -q -m "not soak" $(SWARMS:%=--ignore=%) $(VIRTUAL:%=--ignore=%) >build/test-rest.log 2>&1 || \
		{ cat build/test-rest.log; exit 1; }
	@sed -n '/short test summary/,$$p' build/test-rest.log | grep . || tail -n 1 build/test-rest.log

check:           ## style, types and layers
	@tools/setup test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

soak:            ## the long rounds of the end-to-end tests: updates, drains and faults under full load
	@tools/setup test
	$(PY) -m pytest -q -s -m soak

trials:          ## managers that fall and power that is cut, for half an hour: make trials ROUNDS=200 POWER_CUTS=100
	@tools/setup test
	SKEP_MANAGER_ROUNDS=$(or $(ROUNDS),200) SKEP_POWER_CUTS=$(or $(POWER_CUTS),100) $(PY) -m pytest -q -s -m soak \
		tests/e2e/test_manager_trials.py tests/edge/test_power_cuts.py

test-docker-py:  ## docker-py's own tests of the swarm side: make test-docker-py DOCKER_PY=<its work tree, 7.2>
	@tools/setup test
	$(PY) -m tests.docker_py $(DOCKER_PY)

bench:           ## speed and size, as ratios measured side by side
	@tools/setup test
	$(PY) -m tests.bench

fuzz:            ## a minute of hostile input for each target: API, DNS, Compose files, session frames
	@tools/setup test
	SKEP_FUZZ_SECONDS=$(or $(SECONDS),60) $(PY) -m pytest -v -s tests/fuzz

sim:             ## the simulator: make sim SEEDS=5000 SECONDS=600
	@tools/setup test
	$(PY) -m skep.sim --seeds $(or $(SEEDS),1000) --seed $(or $(SEED),1) --seconds $(or $(SECONDS),60) --jobs 2

setup:           ## install what is missing, then check the kernel
	@tools/setup test

clean:           ## remove caches and the Python environment
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
