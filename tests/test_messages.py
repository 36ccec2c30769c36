"""The library names its settings as programs write them; the command line alone knows flags."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import lottery_tf
from lottery_tf.cli import settings
from lottery_tf.cli.flags import as_class
from lottery_tf.cli.main import COMMANDS

PACKAGE = Path(lottery_tf.__file__).parent
MODULES = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "cli" not in path.parents]
SETTINGS = {
    field.name for owner in map(as_class, settings.ALL) for field in dataclasses.fields(owner)
}
COMMAND_LINE = re.compile(rf"(lottery-tf )?\b({'|'.join(COMMANDS)})( --\S+)+")


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts of a module with {} for what is filled in, but docstrings and the help of flags."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    if isinstance(tree, ast.Call) and ast.unparse(tree.func) == "setting":
        return
    if isinstance(tree, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in tree.values)
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
        return
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from texts(child)


def wrong(text: str) -> str | None:
    """What is wrong with a text, if anything is."""
    if flags := re.findall(r"--[a-z{][\w}]*", COMMAND_LINE.sub("", text)):
        return f"{flags} without their command: name a setting in backquotes"
    if text.count("`") % 2:
        return "a backquote without another"
    for quoted in re.findall(r"`([^`]*)`", text):
        name = quoted.partition("=")[0]
        # `{}`: a field's name. With a blank: a command to type, which is no setting for certain.
        if name not in SETTINGS and name != "{}" and " " not in name:
            return f"`{quoted}` is no setting"
    return None


def test_no_text_of_the_library_has_flags_and_all_in_backquotes_are_settings():
    found = {
        (path.relative_to(PACKAGE).as_posix(), text): reason
        for path in MODULES
        for text in texts(ast.parse(path.read_text()))
        if (reason := wrong(text))
    }
    assert not found


def test_lines_of_the_log_name_no_settings():
    """They are shown as they are: `in_flags` is not asked."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                assert not [text for text in texts(node) if "`" in text], path


def test_the_rule_sees_what_it_forbids():
    code = '''
def f(rounds: int = setting(1, "as --rounds")):
    """With ``--rounds``."""
    raise UsageError(f"Expected --{name} of " "1, not " + f"{', '.join('`a')}.")
'''
    assert [*texts(ast.parse(code))] == ["Expected --{} of 1, not ", "{}.", ", ", "`a"]
    for text in ("--rounds", "Expected --{}", "a report of --rounds", "`rounds", "`round` of 1"):
        assert wrong(text), text
    for text in ("as lottery-tf sweep --tune=a --seed=1 does", "sweep --tune", "---:", "--"):
        assert wrong(text) is None, text
    for text in ("`rounds`", "`rounds={}`", "`{}={}`", "`lottery-tf find` writes them"):
        assert wrong(text) is None, text
