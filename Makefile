# What one does again and again here, in the environment that is active.
.PHONY: test e2e coverage lint types docs notebooks layout dist bench

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

docs:  ## the documentation as a site: open site/index.html. Warnings are errors
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

notebooks:  ## runs docs/notebooks and keeps their outputs
	python docs/notebooks/execute.py

layout:  ## the table of packages, for docs/architecture.md
	python tests/test_layout.py

dist:  ## an sdist, and the wheel that is made from it
	python -m build

bench:  ## benchmarks/README.md says what each measures
	python benchmarks/tweak_overhead.py
