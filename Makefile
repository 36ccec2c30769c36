# What one does again and again here, in the environment that is active.
.PHONY: test e2e coverage lint types docs dist bench

test:  ## the default suite
	pytest -q -n 2

e2e:  ## whole runs, processes, devices, browsers
	pytest -q -n 2 -m e2e

coverage:  ## of the default suite: what it runs of each file, and the lines that it does not
	slipcover --source=lottery_tf --skip-covered -m pytest -q -n 2

lint:
	ruff check .
	ruff format --check .

types:
	mypy

docs:  ## the table of packages, for docs/architecture.md
	python tests/test_layout.py

dist:  ## an sdist, and the wheel that is made from it
	python -m build

bench:  ## benchmarks/README.md says what each measures
	python benchmarks/tweak_overhead.py
