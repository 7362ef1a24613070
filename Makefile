# Everything runs in a virtual environment of its own; the targets create it when it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo install dev test test-full test-gpu bench-gpu lint train clean

help:
	@echo "make demo       export the embedded network to FP16, verify it, classify images"
	@echo "make test       the test suite              make test-full  every network at native size"
	@echo "make lint       ruff and mypy --strict      make test-gpu   tests that need a GPU"
	@echo "make bench-gpu  the large networks on an NVIDIA card, 10 minutes at most (docs/bench.md)"
	@echo "make train      retrain the embedded reference networks (see docs/embedded.md)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/inception-deploy export --fp16 -o build/demo --force
	$(BIN)/python -m inception_deploy.shapes build/images --count 6 --seed 7
	$(BIN)/inception-deploy predict build/demo build/images --top 2

test: dev
	$(BIN)/python -m pytest -q -m "not device and not full" -n auto --maxprocesses 4 --dist loadfile

test-full: dev
	$(BIN)/python -m pytest -q -m full

test-gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest -q -m device

bench-gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train: dev
	$(BIN)/python -m benchmarks.train_embedded googlenet
	$(BIN)/python -m benchmarks.train_embedded inception_resnet_v2

clean:
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
