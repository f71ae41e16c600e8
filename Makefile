# make train   install what is pinned, train on the digits
# make test    all that CI runs; PYTHON=python3.12 for another interpreter
# make check   the quick part: format, lint, types, tests that are not slow
# make long    the proofs that are too long for it: more device counts
# make crash   50 times kill -9 at random moments over an MLP with all that a kill could spoil; the same bits, or not
# make bench   the benchmarks; what is not installed they say and leave out
# make peers   install what benchmarks/peers.py compares with, each in an environment of its own (8 GB)
# make lock    write requirements.lock anew

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest -q
# Each process has a part of the files as they stand: what the tests of a file share is made once. One more than there
# are cores, because tests of processes and browsers mostly wait.
IN_PARTS := -n 3 --dist worksteal
# mypy is one process: beside the tests it takes what they leave.
TYPES_AND_TESTS := @$(MAKE) --no-print-directory --jobs=2 types tests

.PHONY: train test test-core check types tests long crash bench peers lock format

train: $(INSTALLED)
	@$(BIN)/python experiments/image_classification.py --config=configs/digits.py

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(TYPES_AND_TESTS) WHICH="not long"

# What a second interpreter is held to: the functional core, without the slow tests and the notebook.
test-core: $(INSTALLED)
	$(PYTEST) $(IN_PARTS) -m "not slow and not long"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(TYPES_AND_TESTS) WHICH="not slow and not long"

types:
	$(BIN)/mypy

tests:
	$(PYTEST) $(IN_PARTS) -m "$(WHICH)"

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

long: $(INSTALLED)
	$(PYTEST) $(IN_PARTS) -m long

crash: $(INSTALLED)
	$(BIN)/jaxkit verify-resume tests/proofs/crash.py --config=tests/proofs/crash_config.py \
	  --config.num_steps=120 --kills=50

bench: $(INSTALLED)
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/narrow.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/feed.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/compiling.py
	$(BIN)/python benchmarks/short_runs.py
	$(BIN)/python benchmarks/listing.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/gpt.py
	$(BIN)/python benchmarks/layouts.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/trust.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/gpu.py

# Every version is pinned, so nothing is resolved; torch's pin is that of the build for CPUs.
PEERS := torch lightning transformers keras flax kauldron
peers: $(PEERS:%=.venv-peers/%/.installed)

.venv-peers/%/.installed: benchmarks/peers/%.txt
	@echo "Installing into .venv-peers/$*"
	@$(PYTHON) -m venv .venv-peers/$*
	@.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxkit needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@echo "Installing into $(VENV) (about a gigabyte, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)

# One lock for every supported Python and platform: versions and hashes, no index.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --extra examples --extra dev \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	  --output-file requirements.lock
	rm -r $(VENV)-lock
