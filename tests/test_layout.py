"""The house: which package imports which, lazily too. ``python tests/test_layout.py`` draws it.

docs/architecture.md holds that drawing, so that it is never older than the code.
"""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lottery_tf"
AT_THE_ROOT = {"__init__", "__main__"}  # the public names, and the command
LEVELS, UNITS = 10, 16


def modules() -> dict[str, Path]:
    """Dotted name below lottery_tf → file, of every module and package; the root itself is ""."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(text: str, known: set[str]) -> set[str]:
    """The modules of ours that a module imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lottery_tf":
            base = node.module.partition(".")[2]
            for alias in node.names:
                whole = f"{base}.{alias.name}".strip(".")
                found.add(whole if whole in known else base)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {n.partition(".")[2] for n in names if n.split(".")[0] == "lottery_tf"}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_WHERE":
            found |= {*ast.literal_eval(node.value).values()}  # common.lazy loads these
    return found


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module → the modules that it imports; those at the root are left out."""
    files = {
        name: path for name, path in modules().items() if "." in name or path.stem == "__init__"
    }
    files.pop("")
    return {name: imports(path.read_text(), set(files)) - {name} for name, path in files.items()}


def units(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same of the packages right below lottery_tf."""
    found: dict[str, set[str]] = {name.partition(".")[0]: set() for name in edges}
    for name, used in edges.items():
        found[name.partition(".")[0]] |= {each.partition(".")[0] for each in used}
    return {unit: used - {unit} for unit, used in found.items()}


def levels(edges: dict[str, set[str]]) -> dict[str, int]:
    """Name → 1 for what imports nothing of ours, else 1 more than the highest that it imports.

    Raises:
      ValueError: for a circle.
    """
    found: dict[str, int] = {}

    def level(name: str, path: tuple[str, ...] = ()) -> int:
        if name in path:
            raise ValueError(f"a circle of imports: {' → '.join((*path, name))}")
        if name not in found:
            found[name] = 1 + max((level(each, (*path, name)) for each in edges[name]), default=0)
        return found[name]

    for name in edges:
        level(name)
    return found


def table() -> str:
    """The packages by level, what each is by its docstring, and what it imports."""
    edges = units(graph())
    level = levels(edges)
    lines = ["| level | package | what it is | imports |", "|---|---|---|---|"]
    for unit in sorted(edges, key=lambda each: (level[each], each)):
        doc = ast.get_docstring(ast.parse((PACKAGE / unit / "__init__.py").read_text()))
        used = ", ".join(sorted(edges[unit], key=lambda each: (level[each], each)))
        what = doc.split("\n\n")[0].replace("\n", " ").rstrip(".")
        lines.append(f"| {level[unit]} | `{unit}/` | {what} | {used or '–'} |")
    return "\n".join(lines)


def test_the_packages_stand_on_few_levels():
    edges = units(graph())
    assert len(edges) <= UNITS
    assert max(levels(edges).values()) <= LEVELS


def test_no_modules_import_each_other():
    levels(graph())


def test_modules_at_the_root_are_the_public_face():
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_ROOT


def test_nothing_imports_the_root():
    """What is public is made of the packages, never the other way round."""
    known = modules()
    for name, path in known.items():
        if name not in ("", "__main__"):
            assert not imports(path.read_text(), set(known)) & {"", *AT_THE_ROOT}, name


def test_tests_stand_as_the_packages_do():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert set(units(graph())) <= folders


def test_dataclasses_are_frozen():
    """But for what is built up while it is walked or waited for."""
    open_ones = set()
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            made_by = map(ast.unparse, getattr(node, "decorator_list", ()))
            if any("dataclass" in text and "frozen=True" not in text for text in made_by):
                open_ones.add(node.name)
    assert open_ones == {"Call", "Progress"}


def test_the_rule_sees_what_it_forbids():
    lazily = "def f():\n    from lottery_tf.b import c\n    import lottery_tf.d\n"
    lazily += "_WHERE = {'e': 'f.e'}\n"
    assert imports(lazily, {"b", "b.c", "d", "f.e"}) == {"b.c", "d", "f.e"}
    assert levels({"a": {"b"}, "b": {"c"}, "c": set()}) == {"a": 3, "b": 2, "c": 1}
    try:
        levels({"a": {"b"}, "b": {"a"}})
    except ValueError as error:
        assert "a → b → a" in str(error)
    else:
        raise AssertionError("a circle was not seen")


def test_the_page_shows_the_house_as_it_is():
    """If not: ``python tests/test_layout.py`` prints the table to put there."""
    assert table() in (ROOT / "docs" / "architecture.md").read_text()


if __name__ == "__main__":
    print(table())
