"""What is imported is declared, within bounds, and constraints.txt is of what is declared."""

import ast
import functools
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CODE = ("lottery_tf", "launch", "tests", "benchmarks", "docs", ".ci")

spec = importlib.util.spec_from_file_location("constraints", ROOT / ".ci" / "constraints.py")
constraints = importlib.util.module_from_spec(spec)
spec.loader.exec_module(constraints)
DECLARED = [each for _, each in constraints.declared(ROOT / "setup.cfg")]


def modules_of(text):
    """The modules that a module imports by name, in functions too, without what lies below them."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        yield from (name.partition(".")[0] for name in names)


@functools.cache
def distributions_of():
    """Module → the distributions that it is of; to find out takes seconds."""
    return importlib.metadata.packages_distributions()


def undeclared(files, declared):
    """Module → files that import it, of those that come from no declared distribution."""
    own = {"lottery_tf"} | {path.stem for top in CODE for path in (ROOT / top).rglob("*.py")}
    names = {canonicalize_name(each.name) for each in declared}
    of = distributions_of()
    found = {}
    for path in files:
        for module in modules_of(path.read_text()):
            # What is not installed, as an extra need not be, goes by its own name.
            distributions = map(canonicalize_name, of.get(module, [module]))
            if module not in own | sys.stdlib_module_names and names.isdisjoint(distributions):
                found.setdefault(module, set()).add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("top", CODE)
def test_what_is_imported_is_declared(top):
    files = list((ROOT / top).rglob("*.py"))
    assert files and undeclared(files, DECLARED) == {}
    if top == "lottery_tf":  # and it would be missed
        fewer = [each for each in DECLARED if each.name not in ("markupsafe", "pyyaml")]
        assert undeclared(files, fewer).keys() == {"markupsafe", "yaml"}


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_each_requirement_has_both_bounds(requirement):
    operators = sorted(each.operator for each in requirement.specifier)
    assert operators == ["<", ">="]


def test_constraints_are_of_what_is_declared():
    """Each is pinned, within its bounds; for the Python of the first line."""
    head, *lines = (ROOT / "constraints.txt").read_text().splitlines()
    python = head.removeprefix("# Python ")
    pins = {
        each.name: next(iter(each.specifier)).version
        for each in map(Requirement, filter(lambda line: line[0] != "#", lines))
    }
    for extra, each in constraints.declared(ROOT / "setup.cfg"):
        marker = each.marker
        meant = marker is None or marker.evaluate({"python_version": python, "extra": ""})
        if meant and extra not in constraints.NOT_THERE:
            assert each.specifier.contains(pins[canonicalize_name(each.name)]), each


def test_constraints_are_made_of_what_is_installed(tmp_path):
    """pytest, and what it requires; an extra, and what that requires."""
    setup = tmp_path / "setup.cfg"
    extras = "\n[options.extras_require]\ncuda =\n    no_such_package\n"
    setup.write_text(f"[options]\ninstall_requires =\n    # Why.\n    pytest>=8  # that\n{extras}")
    pins = constraints.pins(setup)
    assert pins["pytest"] == importlib.metadata.version("pytest")
    assert {"pluggy", "iniconfig"} <= pins.keys() and "no-such-package" not in pins
    assert "xmlschema" not in pins  # of its extra dev
    setup.write_text(f"[options]\ninstall_requires =\n    no_such_package\n{extras}")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        constraints.pins(setup)
