# Two commands on a fresh machine: `make quickstart` and `make test`. Each does all of its set-up.
PYTHON ?= python3
# On Linux the default index serves torch with CUDA, some GB: `make test TORCH_INDEX=...` takes it from PyTorch's CPU index.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: quickstart test check slow tiny-model clean

quickstart: $(READY)
	$(BIN)/osler quickstart

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest --slow -m slow

tiny-model: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m osler.model.tiny

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

# torch comes first and alone, so that what follows finds it and does not look for a larger build.
$(READY): pyproject.toml constraints-cpu.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'osler needs Python 3.11 or newer')"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints-cpu.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-cpu.txt --editable ".[dev]"
	touch $(READY)
