.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

WITH_ENV := scripts/with_env.sh
# Nothing may hang for ever: pytest.ini limits each test, this limits them together.
TEST_LIMIT := 25m
# Two test files at a time: much of a graph's test is waiting. More need more cores.
TOGETHER := --numprocesses 2 --dist loadfile
BENCHMARKS := $(sort $(basename $(notdir $(wildcard benchmarks/*.py))))
DEMO_OPTIONS := $(if $(filter-out 0,$(QUICK)),--quick) $(if $(TASK),--task $(TASK)) $(if $(SEED),--seed $(SEED)) $(if $(RUN),--run $(RUN))

.PHONY: help setup build demo test extras peers lint audit constraints docs docs-site clean distclean

help: ## Show this text
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@sed -n 's/^# \(RLT_[A-Z_]*\)/    \1/p' scripts/setup.sh

setup: ## Make .venv and build the workspace; quick when nothing changed
	@scripts/setup.sh

build: setup ## The same as setup, which builds what changed

demo: setup ## From nothing to the comparison of base VLA and RLT; TASK=screw, QUICK=1 small, SEED=n, RUN=directory
	@$(WITH_ENV) python -m rlt_bringup.demo $(DEMO_OPTIONS)

lint: setup ## Formatting and static checks
	@$(WITH_ENV) ruff format --check .
	@$(WITH_ENV) ruff check .

test: lint ## Static checks and all tests (under 20 minutes); ARGS='src/rlt_control -k hold' for some of them
	@timeout --kill-after=30s $(TEST_LIMIT) \
	  $(WITH_ENV) python scripts/in_own_domain.py python -m pytest $(or $(ARGS),$(TOGETHER) $(wildcard src/*/test))

# $(call install,NAME,FILE,OPTIONS): pip install -r FILE, unless the environment has it: .venv/.rlt-NAME says of which FILE.
define install
@wanted=$$(sha256sum $(2)); [ "$$(cat .venv/.rlt-$(1) 2>/dev/null)" = "$$wanted" ] || { echo "$(1): packages of $(2) ..."; \
  $(WITH_ENV) python -m pip --disable-pip-version-check install -q $(3) -r $(2); echo "$$wanted" >.venv/.rlt-$(1); }
endef

extras: setup ## Install requirements-lerobot.txt (600 MB), for LeRobot's policies; quick when nothing changed
	$(call install,extras,requirements-lerobot.txt,--no-deps)

bench-%: setup ## Run benchmarks/<name>.py; ARGS='...' are its options
	@test -f benchmarks/$*.py || { echo "no benchmark '$*'; there are: $(or $(BENCHMARKS),none yet)" >&2; exit 2; }
	@$(WITH_ENV) python scripts/in_own_domain.py python benchmarks/$*.py $(ARGS)

bench-learner bench-td3: peers

peers: setup
	$(call install,bench,benchmarks/requirements.txt)

audit: setup ## Look up known vulnerabilities of all pinned packages; says so where the network does not let it
	@$(WITH_ENV) python scripts/audit.py

constraints: setup ## Write constraints.txt anew: the versions in .venv of what the pinned packages need in turn
	@$(WITH_ENV) python scripts/constraints.py

docs: setup ## Write the reference pages docs/parameters.md, messages.md and metrics.md anew
	@$(WITH_ENV) python scripts/reference.py

docs-site: setup ## Build the documentation as a site, build/site; links and code that it names are checked
	@NO_MKDOCS_2_WARNING=1 $(WITH_ENV) python -m mkdocs build --quiet --strict
	@echo "docs-site: build/site/index.html; with search: python3 -m http.server -d build/site -b 127.0.0.1"

clean: ## Remove what was built, keep the environment and the runs
	rm -rf build install log .pytest_cache .hypothesis .ruff_cache

distclean: clean ## Remove the environment too
	rm -rf .venv
