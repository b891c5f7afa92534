# make demo: the whole path on the embedded model; make test: the tests; make check: lint, types and tests;
# make test-web: the web runtime in Node and Chromium against Python's, and the page, with what they need installed;
# make evidence: what docs/evidence.md claims, measured anew; make slow: the tests that the default leaves out.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo evidence test test-web slow compat check lint types install train clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev -e ".[all]" -c constraints.txt
	touch $@

demo: $(READY)
	$(BIN)/qsched-edge export --model emoji --bits 4 -o demo/emoji-w4 --force
	$(BIN)/qsched-edge calibrate demo/emoji-w4
	$(BIN)/qsched-edge evaluate demo/emoji-w4 -o demo/report --force
	$(BIN)/qsched-edge run demo/emoji-w4 -p "a red apple, noto style" --seed 7 -o demo/apple.png --force
	@$(BIN)/python -c "import json; print('\n' + json.load(open('demo/report/report.json'))['sentence'])"
	@echo "Pictures side by side: demo/report/report.html. What an app drew with numpy and onnxruntime alone: demo/apple.png."

# Two processes, each file of tests in one of them; a third would not find a core on a small machine.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow

WEB := runtimes/web
test-web: $(READY) $(WEB)/node_modules/.ready
	export PATH="$$PATH:$(abspath $(BIN))"; node --test $(WEB)/test/vectors.test.mjs $(WEB)/test/package.test.mjs
	export PATH="$$PATH:$(abspath $(BIN))"; $(BIN)/python -m pytest -m web

$(WEB)/node_modules/.ready: $(WEB)/package-lock.json $(WEB)/install.sh
	$(WEB)/install.sh $(VENV)
	touch $@

evidence: $(READY)
	$(BIN)/python -m benchmarks.evidence -o evidence --write docs/evidence.md

COMPAT := .venv-compat
compat: $(READY) $(COMPAT)/.ready
	QSCHED_COMPAT_PYTHON=$(COMPAT)/bin/python $(BIN)/python -m pytest -m compat

$(COMPAT)/.ready: compat.txt
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check -r compat.txt
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

train: $(READY)
	$(BIN)/python -m pip install --quiet --group train -c constraints.txt
	$(BIN)/python -m training

clean:
	rm -rf $(VENV) $(COMPAT) demo dist build
