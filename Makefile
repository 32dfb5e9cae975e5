# Everything a newcomer needs; nothing but Python 3.11+ and pip must be there.
#   make demo   install and run the demo        make test   install and run the tests
#   make lint   ruff and mypy                   make docs   the site, into build/docs
#   make bench  speed of the environments        make ray    the tests that need Ray and RLlib
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALLED := $(VENV)/.installed

.PHONY: install demo test ray lint docs bench assets clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(wildcard $(CONSTRAINTS))
	@echo "installing into $(VENV) (a minute or two) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/recsim demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Not the extra ray[rllib], which needs an old Gymnasium.
ray: install
	@$(PIP) install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[ray]' 'ray[tune]' dm-tree lz4 ormsgpack
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/benchmarks/test_workers.py tests/recsim_env/test_rllib.py tests/recsim_env/test_ray_vector.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	rm -rf build/docs docs/api/responders docs/api/recsim_env docs/api/agents
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -n -W --keep-going -q docs build/docs
	@echo "open build/docs/index.html"

bench: install
	$(BIN)/python -m benchmarks.speed.throughput

# The embedded responders, from the known-truth logs that they learned from (about 10 minutes).
ASSETS := recsim_env/assets
assets: install
	rm -rf build/assets && mkdir -p build/assets
	cd build/assets && ../../$(BIN)/recsim data synthesize known-contentwise --preset contentwise --sessions 20000 --seed 0
	cd build/assets && ../../$(BIN)/recsim train known-contentwise --responder min_gru --set embedding=content --out contentwise
	cd build/assets && ../../$(BIN)/recsim fidelity contentwise known-contentwise --out fidelity-contentwise
	cd build/assets && ../../$(BIN)/recsim data synthesize known-rl4rs --preset rl4rs --sessions 45942 --seed 0
	cd build/assets && ../../$(BIN)/recsim train known-rl4rs --responder session_gru --set embedding=content --set dropout=0 --out rl4rs
	cd build/assets && ../../$(BIN)/recsim fidelity rl4rs known-rl4rs --out fidelity-rl4rs
	for name in contentwise rl4rs; do \
		rm -rf $(ASSETS)/$$name && mkdir -p $(ASSETS)/$$name && \
		cp -r build/assets/$$name/card.json build/assets/$$name/responder.safetensors build/assets/$$name/initial_sessions $(ASSETS)/$$name/ && \
		rm -rf $(ASSETS)/$$name/initial_sessions/.cache; done

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache
