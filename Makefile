# make repro   set up, fetch the trained models, bring every result up to date, run the quickstart live
# make test    set up, then lint and all tests          make lab     JupyterLab
# make bench   speed and memory                         make train MODEL=mini-sd   train one of the models again
# make html    the site, in out/site: lessons run, results, the library
# make shell   a shell in which dvc, papermill and jupyter are on the path

VENV := .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' 2>/dev/null && echo $(p))))
QUICKSTART := out/quickstart

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# torch on a CPU frees and asks for the same large blocks at every step; keeping them in the process saves the page
# faults (glibc only; other systems ignore the two variables)
export MALLOC_TRIM_THRESHOLD_ := 8589934592
export MALLOC_MMAP_THRESHOLD_ := 8589934592

.PHONY: setup weights repro test lab html bench train shell

setup:
	@if cat requirements.txt pyproject.toml | cmp -s - $(VENV)/installed.txt; then \
		echo "set-up: $(VENV) matches requirements.txt, nothing to install"; \
	else \
		test -n "$(PYTHON)" || { echo "set-up: no Python 3.11.5 or newer found; install one or say PYTHON=/path/to/python3"; exit 1; }; \
		echo "set-up: installing requirements.txt into $(VENV) with $(PYTHON) (some minutes the first time)"; \
		test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || exit 1; \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt || exit 1; \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . || exit 1; \
		cat requirements.txt pyproject.toml > $(VENV)/installed.txt; \
		echo "set-up: done"; \
	fi

weights: setup
	@echo "models and data: from the store in .dvc/store"
	@dvc pull --quiet --allow-missing

repro: weights
	@python -m helpers.pipeline.repro $(if $(FORCE),--force)
	@mkdir -p $(QUICKSTART)
	@echo "four layouts, sampled live on this machine"
	@papermill --no-progress-bar -k python3 -p out $(QUICKSTART) notebooks/start/quickstart.ipynb $(QUICKSTART)/quickstart.ipynb
	@echo; echo "every result is up to date: figures/ (numbers in figures/metrics.json)"
	@echo "made live on this machine:  $(QUICKSTART)/quickstart.png"
	@echo "the executed notebook:      $(QUICKSTART)/quickstart.ipynb"

test: weights
	@ruff check .
	@ruff format --check .
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

shell: setup
	@echo "dvc, papermill and jupyter are on the path of this shell; exit leaves it"
	@$${SHELL:-sh}

lab: weights
	@python -m ipykernel install --sys-prefix --name guidance-lab --display-name "Python (guidance lab)"
	jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/explore/playground.ipynb notebooks

# Notebooks that changed run first; what was run is kept in executed/pages: `dvc commit --force pages` and `dvc push` put
# it into the store.
html: weights
	@python -m helpers.site.build

bench: weights
	python -m pytest speed --benchmark-enable --benchmark-only -s

# Checkpoints lie in checkpoints/, outside the stage's outs, so an interrupted run goes on where it stopped. START names
# a folder of trained weights to begin with where there are none (mini-sd, the one that takes hours).
NAME = $(subst -,_,$(MODEL))
train: weights
	@test -f notebooks/train/$(NAME).ipynb || { \
		echo "say MODEL=one of: $(subst _,-,$(patsubst notebooks/train/%.ipynb,%,$(wildcard notebooks/train/*.ipynb)))"; exit 1; }
	@mkdir -p executed
	papermill --no-progress-bar -k python3 -p profile $(or $(PROFILE),quick) $(if $(START),-p start $(START)) notebooks/train/$(NAME).ipynb executed/train_$(NAME).ipynb
	cp executed/train_$(NAME).ipynb models/$(MODEL)/training.ipynb
	@if grep -q "^  train_$(NAME):" dvc.yaml; then \
		dvc commit --force train_$(NAME) && echo "new weights in models/$(MODEL): run dvc push, then commit dvc.lock and .dvc/store"; \
	else echo "new weights in models/$(MODEL): dvc.yaml has no stage train_$(NAME), so they stay on this machine"; fi
