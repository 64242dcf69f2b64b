# make demo | test | needs | docs | links | fuzz | kills | sanitize | scan | page | lint | bench | weights | wheel: each
# works from nothing; they share the virtual environment .venv.
# make gpu: builds in place and runs with $(PYTHON) as it is, which must have torch and pytest; nothing is downloaded.
#
#   PYTHON  the interpreter that makes .venv, that `make install` installs into, that `make gpu` runs   (python3)
#   TORCH   what pip is asked for as torch, with options if need be                          (torch==2.13.0)
#   JOBS    processes that the tests run in, a thread each                                   (2)
#   SLOW    1: test runs the tests marked slow too, as .ci/run does                           (0)
#   SECONDS that fuzz feeds the decoder                                                       (60)
#   FILES   that fuzz feeds npr detect                                                        (1000)
#   KILLS   of each command that kills kills                                                  (25)
#   PYTHONS that the wheel has facts for and is tried with                                    ($(PYTHON))
#   TORCHES that it is tried with                                                             (2.11.0 and 2.13.0)
#   STEP    steps of gpu; docs/gpu.md has three groups, each shorter than nine minutes        (all of them)
#   OPTIONS of python -m benchmarks.gpu bench, such as --seconds 200                          (none)
#   RESULTS the folder that all of gpu writes to                                              (benchmarks/results)

PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.*)

.DEFAULT_GOAL := help
.PHONY: help install demo test needs docs links fuzz kills sanitize scan page lint format weights bench wheel gpu gpu-build \
	gpu-smoke gpu-kernels gpu-bench gpu-test gpu-sanitize clean
.NOTPARALLEL:

help:
	@echo 'make demo      everything from nothing: install, make images, train, evaluate, detect'
	@echo 'make test      install and run the tests, with SLOW=1 all of them'
	@echo 'make needs     install what some tests are skipped without, if it is to be had: Ray, and a browser on Debian'
	@echo 'make docs      make the site in build/docs; warnings are errors'
	@echo 'make links     follow the links of the site to other sites, which takes a network; a broken one is an error'
	@echo 'make fuzz      feed damaged image files to the decoder for SECONDS=60, and FILES=1000 to npr detect'
	@echo 'make kills     kill commands with SIGKILL, KILLS=25 times each, and compare what they come to'
	@echo 'make sanitize  test the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make scan      test npr scan with Ray, and kill it KILLS=25 times'
	@echo 'make page      test the page of npr serve in Chromium'
	@echo 'make lint      ruff, mypy, clang-format and hadolint, without changing files'
	@echo 'make format    ruff and clang-format, in place'
	@echo 'make weights   make the detector in the box anew, in weights/: hours of two cores, on Debian'
	@echo 'make bench     measure speed on this machine, and draw the plots of it in docs/images: up to 45 minutes'
	@echo 'make wheel     build the wheel in dist, check it, and try it with PYTHONS and TORCHES in clean environments'
	@echo 'make gpu       build, measure, test and sanitize on a CUDA device; STEP=... for some of it'
	@echo 'make install   pip install into the environment of $(PYTHON), without .venv'
	@echo 'make clean     remove what was built'

install:
	$(PYTHON) -m pip install .

$(BIN)/python:
	$(PYTHON) -m venv .venv

# What an editable build needs. --no-build-isolation compiles against the torch that then runs.
.venv/prepared: | $(BIN)/python
	$(PIP) install $(TORCH)
	$(PIP) install 'setuptools>=77' pybind11 ninja numpy
	@touch $@

.venv/installed: $(SOURCES) .venv/prepared
	$(PIP) install --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: $(SOURCES) .venv/prepared
	$(PIP) install --no-build-isolation --editable '.[dev]'
	@touch .venv/installed $@

demo: .venv/installed
	rm -rf demo
	$(BIN)/npr synth --out demo/data --train-count 600 --count 40
	$(BIN)/npr train demo/data --out demo/run --epochs 5
	$(BIN)/npr detect demo/data/test/nearest --weights demo/run/best.safetensors --json > demo/verdicts.jsonl
	$(BIN)/npr eval demo/data/test --weights demo/run/best.safetensors
	@echo 'The generators above are simulated: see README.md. Files:'
	@echo '  demo/data                  photographs and simulated fakes, by split and generator'
	@echo '  demo/run                   checkpoints, log'
	@echo '  demo/verdicts.jsonl        a score and a verdict for each image of demo/data/test/nearest'

# Playwright's own browsers are not needed.
BROWSER = $(or $(NPR_BROWSER),$(shell command -v chromium chromium-browser google-chrome | head -n 1))
SLOW ?= 0
test: .venv/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(if $(filter 1,$(SLOW)),,-m 'not slow')

# The packages of an extra, without another build. Neither may take long, or fail what comes after.
REQUIRES := from importlib.metadata import requires; \
	print(*(r.partition(";")[0] for r in requires("npr-kernels") if r.endswith("\"scan\"")), sep="\n")
needs: .venv/installed-dev
	@$(BIN)/python -c '$(REQUIRES)' | xargs -d '\n' timeout 120 $(PIP) install -q \
		|| echo 'no Ray: the tests of npr scan will be skipped'
	@[ -n "$(BROWSER)" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		timeout 120 sh -c 'apt-get -qq update && apt-get -qq install --download-only chromium' && \
		apt-get -qq install --no-install-recommends chromium; } \
		|| echo 'no browser: the tests of the page will be skipped'

docs: .venv/installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs . build/docs
	@echo 'build/docs/index.html'

links: .venv/installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck -c docs . build/links

SECONDS ?= 60
FILES ?= 1000
fuzz: .venv/installed-dev
	$(BIN)/python -m tests.fuzz.decode --seconds $(SECONDS)
	$(BIN)/python -m tests.fuzz.detect --count $(FILES)

KILLS ?= 25
kills: .venv/installed-dev
	$(BIN)/python -m tests.kills.run --kills $(KILLS)

sanitize: .venv/installed-dev
	$(BIN)/python -m tests.npr_kernels.sanitize_cpu

# Ray takes 80 MB.
scan: needs
	$(BIN)/python -m pytest tests/detector/scan
	$(BIN)/python -m tests.kills.scan --rounds $(KILLS)

page: needs
	NPR_BROWSER=$(BROWSER) $(BIN)/python -m pytest tests/detector/serve/test_page.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*.* csrc/*/*.*)
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint docker/Dockerfile; else echo 'no hadolint for this machine'; fi

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*.* csrc/*/*.*)

# Stopped, it goes on. The result is compared by hand and copied to detector/weights/default.safetensors.
weights: .venv/installed-dev
	$(PIP) install --no-build-isolation --editable '.[networks,cv]'
	$(BIN)/python -m detector.weights.rebuild weights

bench: .venv/installed-dev
	$(PIP) install --no-build-isolation --editable '.[dev,openvino]'
	$(BIN)/python -m benchmarks.run

# Every one of TORCHES is downloaded, for each of PYTHONS that it is tried with.
PYTHONS ?= $(PYTHON)
TORCHES ?= torch==2.11.0 torch==2.13.0
wheel: .venv/installed-dev
	$(BIN)/python -m release.wheel --pythons $(PYTHONS) --torches $(TORCHES)

# A step that fails does not keep the next one from its turn.
STEP ?= build smoke kernels bench test sanitize
RESULTS ?= benchmarks/results
gpu:
	@failed=; for step in $(STEP); do $(MAKE) --no-print-directory gpu-$$step || failed="$$failed $$step"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

# egg_info: what an installation would tell importlib.metadata, for a run from the source tree. For this GPU alone.
CAPABILITY := nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1
gpu-build:
	$(PYTHON) -m benchmarks.gpu.needs
	NPR_CUDA=1 TORCH_CUDA_ARCH_LIST=$${TORCH_CUDA_ARCH_LIST-$$($(CAPABILITY))} \
		$(PYTHON) setup.py -q egg_info build_ext --inplace
	$(PYTHON) -m detector.cli info

gpu-smoke:
	$(PYTHON) -m benchmarks.gpu smoke --results $(RESULTS) --seconds 200

gpu-kernels: build/bench_kernels
	$(PYTHON) -m benchmarks.gpu kernels --results $(RESULTS) --seconds 200

NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc) /usr/local/cuda/bin/nvcc)
build/bench_kernels: $(wildcard csrc/*.h csrc/bench/* csrc/cuda/*)
	mkdir -p build
	$(NVCC) -std=c++20 -O3 -arch=native --threads 0 -Icsrc csrc/bench/bench_kernels.cpp csrc/cuda/*.cu -o $@

gpu-bench:
	$(PYTHON) -m benchmarks.gpu bench --results $(RESULTS) $(OPTIONS)

gpu-test:
	$(PYTHON) -m tests.npr_kernels.cuda.gpu_tests --results $(RESULTS)

gpu-sanitize:
	$(PYTHON) -m tests.npr_kernels.cuda.sanitize --results $(RESULTS) --seconds 240

clean:
	rm -rf build dist *.egg-info demo npr_kernels/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
