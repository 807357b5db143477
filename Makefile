# make demo: environment, generated logs, training, table, recommendations.   make test: environment and the test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: setup demo test lint bench faults docs package clean

setup: $(STAMP)

# The stamp is newer than setup.py exactly when the environment holds what setup.py asks for.
$(STAMP): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests

# Raw logs to recommendations on generated data; a second run finds every stage done and only prints.
demo: setup
	$(BIN)/python launch/generate.py --size=demo --output=data/demo
	$(BIN)/python launch/train.py --config=configs/demo.py --workdir=checkpoints/demo
	$(BIN)/python launch/demo_queries.py --workdir=checkpoints/demo

# Ratios that show a slow-down, in about two minutes; the whole tables are in docs/lab-notes.md with their commands.
bench: setup
	$(BIN)/python benchmarks/propagation.py --edges=1000000 --users=8000 --items=40000 --rounds=5
	$(BIN)/python benchmarks/training_step.py --edges=500000 --steps=8 --rounds=5
	$(BIN)/python benchmarks/retrieval.py --num_songs=60000 --rounds=2 --indexes=exact,scann --memory=false
	rm -rf data/bench && $(BIN)/python launch/generate.py --size=demo --output=data/bench
	$(BIN)/python benchmarks/preprocessing.py --raw_dir=data/bench --size=demo --only=ours,floor --rounds=2

# Kills, full disks, flipped bits, edits and two jobs at once on a tiny run: half an hour at most, counts by area.
faults: setup
	$(BIN)/python tests/faults/campaign.py --minutes=30

# docs/configuration.md; the guide and the reference from the docstrings, into build/docs; a warning is an error.
docs: setup
	$(BIN)/python -c "from music_map.run.reference import write_page; write_page('docs/configuration.md')"
	$(BIN)/python -m sphinx --fail-on-warning --quiet docs build/docs

# The wheel in an empty environment: trains, recommends and maps away from the checkout.
package:
	tests/installed.sh $(PYTHON)

lint: setup
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build dist docs/reference *.egg-info
