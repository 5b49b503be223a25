# What people run. Every target installs what it needs, into .venv here and nowhere else.

PYTHON = python3
TORTURE = --seconds 1800
VERSIONS = 2.7 3.8 3.9 3.10 3.11 3.12 3.13
PY = .venv/bin/python
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

# A program in front gets Ctrl-C alone, not make with it; ending it that way is no error. Ctrl-Z
# would end it, since nobody here could continue it.
IN_FRONT = if [ -t 0 ]; then set -m; trap '' TSTP; fi; in_front() { "$$@" || [ $$? -eq 130 ]; }

.PHONY: play server client stats test test-all lint coverage torture bench \
        screenshot clean

# Its lines are appended to server.log, and it listens when those of this start say so. The lock of
# the start keeps another `make play` from writing such a line meanwhile.
play: .venv/play                ## tables, a server in the background, the client in front
	@$(PY) db.py
	@$(IN_FRONT); \
	exec 9>>server.log || exit 1; \
	if command -v flock >/dev/null; then flock 9; fi; \
	begin=$$(wc -c <server.log); \
	log_of_start() { tail -c +$$((begin + 1)) server.log; }; \
	$(PY) server.py 2>>server.log 9>&- & server=$$!; \
	trap 'kill $$server 2>/dev/null; wait $$server 2>/dev/null' EXIT; \
	trap 'kill $$server; exit 1' HUP INT TERM; \
	until log_of_start | grep -q '^[^ ]* INFO listening on'; do \
		if ! kill -0 $$server 2>/dev/null; then \
			log_of_start; \
			echo 'Is there a server already? Join it with: make client'; \
			if log_of_start | grep -q '^[^ ]* ERROR cannot listen'; then \
				echo 'If it is not yours: LAVKA_PORT=7778 make play, and so with make client'; \
			fi; \
			exit 1; \
		fi; \
		sleep 0.1; \
	done; \
	exec 9>&-; \
	in_front $(PY) client.py

server: .venv/play              ## a server in front; Ctrl-C stops it
	@$(PY) db.py
	@$(IN_FRONT); in_front $(PY) server.py

client: .venv/play              ## a client, for as many terminals as you like
	@$(IN_FRONT); in_front $(PY) client.py

stats: .venv/play               ## what the server counts
	@$(PY) admin.py stats

test: .venv/test                ## the suite, on this Python
	$(PY) -m pytest -q -n 2 tests

test-all: .venv/test            ## the suite, on every Python of VERSIONS that is there
	@found=; for version in $(VERSIONS); do \
		if python$$version -c '' 2>/dev/null; then found="$$found $$version"; \
		else echo "There is no Python $$version here."; fi; \
	done; \
	others=; for version in $$found; do \
		$(MAKE) --no-print-directory .venv-$$version/test || exit 1; \
		others="$$others $(CURDIR)/.venv-$$version/bin/python"; \
	done; \
	for version in $$found; do \
		echo "Python $$version:"; \
		LAVKA_TEST_PYTHONS="$$others" .venv-$$version/bin/python -m pytest -q -n 2 tests || exit 1; \
	done

lint: .venv/lint                ## ruff, with the rules of pyproject.toml
	@$(PY) -m ruff check .

# A program killed while it writes its data leaves half a file: `combine` warns of it and goes on.
coverage: .venv/test            ## the suite, and the lines that it did not run; Python 3.9 or later
	@rm -f .coverage .coverage.*
	@$(PY) -m coverage run -m pytest -q -n 2 -p tests.measured tests; status=$$?; \
	$(PY) -W ignore -m coverage combine -q; rm -f .coverage.*; \
	$(PY) -m coverage report && exit $$status

torture: .venv/test             ## faults without end; TORTURE='--seconds 60 --seed 1 --only kill'
	@$(PY) tests/torture.py $(TORTURE)

bench: .venv/bench              ## beside its peers, with a chart; BENCH='--works ping' is a part
	@if python2.7 -c '' 2>/dev/null; then $(MAKE) --no-print-directory .venv-2.7/test; fi
	@$(IN_FRONT); in_front $(PY) bench/run.py $(or $(BENCH),--chart docs/performance.svg)

screenshot: .venv/test          ## docs/session.svg: plays a session and draws it
	@$(PY) docs/screenshot.py

clean:                          ## all that the other targets made, but for the accounts
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.* \
		__pycache__ */__pycache__ *.py[co] */*.py[co] server.log*

.venv:
	@echo 'Making a virtual environment in .venv ...'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo 'Python has no venv here; on Debian and Ubuntu: apt install python3-venv'; exit 1; }

.venv/play: requirements.txt | .venv
	@echo 'Installing what the programs need ...'
	@$(PY) $(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/test: requirements.txt tests/requirements.txt | .venv
	@echo 'Installing what the tests need ...'
	@$(PY) $(PIP_INSTALL) -r tests/requirements.txt
	@touch $@

.venv/lint: tests/requirements-lint.txt | .venv
	@echo 'Installing ruff ...'
	@$(PY) $(PIP_INSTALL) -r tests/requirements-lint.txt
	@touch $@

.venv/bench: requirements.txt requirements-postgresql.txt bench/requirements.txt | .venv
	@echo 'Installing what the peers and the chart need ...'
	@$(PY) $(PIP_INSTALL) -r bench/requirements.txt
	@touch $@

.venv-3.%/test: requirements.txt tests/requirements.txt
	@echo 'Installing what the tests need on Python 3.$* ...'
	@python3.$* -m venv .venv-3.$*
	@.venv-3.$*/bin/python $(PIP_INSTALL) -r tests/requirements.txt
	@touch $@

# The last virtualenv that makes environments for 2.7.
.venv-2.7/test: requirements.txt tests/requirements.txt | .venv
	@echo 'Installing what the tests need on Python 2.7 ...'
	@$(PY) $(PIP_INSTALL) 'virtualenv<20.22'
	@$(PY) -m virtualenv --quiet --python python2.7 .venv-2.7
	@.venv-2.7/bin/python -W ignore $(PIP_INSTALL) -r tests/requirements.txt
	@touch $@
