# Everything that a newcomer needs: `make run` shows Limbeck at work, `make test` tests it.
# Each target sets up what it needs by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export TOKENIZERS_PARALLELISM := false
ifneq ($(wildcard ../shared/data),)
export LIMBECK_DATA ?= $(abspath ../shared/data)
endif

.PHONY: run test check fix bench gpu clean chromium

run: $(READY)
	$(BIN)/limbeck demo

# On the CPU, also where there is a GPU: the tests compare with figures worked out there. `make gpu` tests CUDA.
test: $(READY) chromium
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_house.py

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	missed=0; for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || missed=1; done; exit $$missed

# Tests and benchmark on a CUDA GPU, in less than 8 minutes, with the packages of a python3 that has torch: nothing is
# installed. Packages that it lacks may lie unpacked in GPU_PACKAGES; tests that need others are skipped.
PYTHON_GPU ?= python3
GPU_PACKAGES ?= runs/gpu_packages
GPU_BUDGET_S ?= 170
GPU_WORKERS ?= 8
IN_GPU = env PYTHONPATH=src:$(GPU_PACKAGES)
PYTEST_GPU = $(PYTHON_GPU) -m pytest -n $(GPU_WORKERS) -rs --tb=short

gpu:
	$(PYTHON_GPU) -c "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())"
	missed=0; \
	timeout -k 5 120 $(IN_GPU) OMP_NUM_THREADS=1 $(PYTEST_GPU) tests/gpu || missed=1; \
	timeout -k 5 $$(($(GPU_BUDGET_S) + 40)) $(IN_GPU) $(PYTHON_GPU) benchmarks/gpu.py --budget_s $(GPU_BUDGET_S) || missed=1; \
	exit $$missed

clean:
	rm -rf $(VENV) runs

# The page of a run is tested in a browser, where Debian's can be had; those tests are skipped elsewhere.
chromium:
	@command -v chromium chromedriver > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver) > /dev/null 2>&1 \
		|| echo "chromium could not be installed; tests of the page in a browser will be skipped"

# torch is installed by its exact pin first: a looser one may bring gigabytes of CUDA to a machine without a GPU.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $(READY)
