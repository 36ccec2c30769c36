"""Changes lines of one folder at random, one at a time, and lists the changes that no test notices.

    python -m pip install -e '.[test,mutation]'
    python benchmarks/mutation/sample.py --folder=masks --count=60

The changes are those of cosmic-ray: another operator, comparison, constant or exception, a
condition turned round, a loop without a round, a decorator less. Lines are drawn at random, and for
each one of its changes. A copy of the checkout is changed; there those tests of the same folder run
whose files name the changed module, or what is public in it. A process with TensorFlow in it is
forked for each, which saves its import. Linux only.
"""

import argparse
import ast
import contextlib
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]


def places(code: str) -> dict[int, list[tuple[str, int]]]:
    """Line → the changes that there are for it, as cosmic-ray names them: operator and number."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    found: dict[int, list[tuple[str, int]]] = {}
    nodes = list(ast_nodes(get_ast(code)))
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():  # they replace names that they are told
            continue
        starts = [start for node in nodes for start, _ in kind().mutation_positions(node)]
        for number, (line, _) in enumerate(starts):
            found.setdefault(line, []).append((name, number))
    return found


def changed(code: str, name: str, number: int) -> str | None:
    """The code with a change; None where its program could not feel it."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    after = mutate_code(code, get_operator(name)(), number)
    return after if program(after) not in (program(code), None) else None


def program(code: str) -> str | None:
    """A module without its annotations, which compute nothing; None where it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse(code)
        except SyntaxError:
            return None
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(0))
    return ast.dump(tree)


def drawn(files: list[Path], count: int, seed: int) -> tuple[list[tuple[Path, int, str]], int]:
    """A change in each of so many lines, drawn at random, and how many lines could be changed."""
    of = {(file, line): all_ for file in files for line, all_ in places(file.read_text()).items()}
    rng = random.Random(seed)
    chosen: list[tuple[Path, int, str]] = []
    for file, line in rng.sample(sorted(of), len(of)):
        for name, number in rng.sample(of[file, line], len(of[file, line])):
            code = changed(file.read_text(), name, number)
            if code is not None:
                chosen.append((file, line, code))
                break
        if len(chosen) == count:
            break
    return chosen, len(of)


def tests_of(module: Path, folder: str) -> list[str]:
    """The files of tests that name a module, or what is public in it; else all of the folder."""
    dotted = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    kinds = ast.FunctionDef | ast.ClassDef
    defined = [node.name for node in ast.parse(module.read_text()).body if isinstance(node, kinds)]
    public = [rf"\b{name}\b" for name in defined if name[0] != "_" and len(name) > 4]
    near = re.compile("|".join([re.escape(dotted), *public]))
    files = sorted((ROOT / "tests" / folder).rglob("test_*.py"))
    found = [f for f in files if near.search(f.read_text()) or f.stem == f"test_{module.stem}"]
    found.sort(key=lambda file: file.stem != f"test_{module.stem}")
    return [str(file.relative_to(ROOT)) for file in found] or [f"tests/{folder}"]


def noticed_by(copy: Path, tests: list[str], seconds: float) -> str:
    """The first of these tests that fails in the copy, or what else ended them; "" if all pass."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(copy)
        out = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path[0] = os.environ["PYTHONPATH"] = str(copy)
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if (code := os.waitstatus_to_exitcode(status)) == 0:
                return ""
            output = (copy / "output.txt").read_text(errors="replace")
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
            return failed[1] if failed else f"exit code {code}"
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"more than {seconds:.0f} s"


def difference(before: str, after: str) -> str:
    """The first line that is another one, before and after."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next((f"{a.strip()}  ->  {b.strip()}" for a, b in pairs if a != b), "a line less")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", required=True, help="of lottery_tf and of tests")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=900, help="that the tests may take")
    options = parser.parse_args()

    files = sorted((ROOT / "lottery_tf" / options.folder).rglob("*.py"))
    chosen, there_are = drawn(files, options.count, options.seed)
    print(f"{options.folder}: {len(chosen)} of {there_are} lines, seed {options.seed}", flush=True)
    for name in ("numpy", "tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"):
        importlib.import_module(name)
    sys.dont_write_bytecode = True  # which of two changes in a second a file has cannot be told

    caught = done = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        copy = Path(folder) / "copy"
        subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
        # Tests that fail anyway would seem to notice.
        if failed := noticed_by(copy, tests_of(chosen[0][0], options.folder), options.seconds):
            raise SystemExit(f"{failed}\n{(copy / 'output.txt').read_text()[-4000:]}")
        for number, (file, line, code) in enumerate(chosen, start=1):
            place, before = file.relative_to(ROOT), file.read_text()
            (copy / place).write_text(code)
            by = noticed_by(copy, tests_of(file, options.folder), options.seconds)
            (copy / place).write_text(before)
            caught, done = caught + bool(by), number
            print(f"{number:3} {'caught  ' if by else 'SURVIVED'} {place}:{line}", flush=True)
            print(f"      {difference(before, code)}\n      {by or '-'}", flush=True)
    print(f"{caught} of {done} caught")  # Ctrl-C ends it sooner; those done are drawn at random


if __name__ == "__main__":
    main()
