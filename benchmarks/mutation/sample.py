"""Changes lines of one folder at random, one at a time, and lists the changes that no test notices.

    python -m pip install -e '.[test,mutation]'
    pytest -q -n 2 --cov=lottery_tf --cov-context=test --cov-config=benchmarks/mutation/coverage.ini
    python benchmarks/mutation/sample.py --folder=masks --count=60

The changes are those of cosmic-ray: another operator, comparison, constant or exception, a
condition turned round, a loop without a round, a decorator less. Lines are drawn at random, and for
each one of its changes. A copy of the checkout is changed. The tests that run there are those that
run the line, as the default suite above has noted it in `.coverage`: the nearest ones first, and
of those the ones that run least beside it. A test counts that fails with the change, and passes
without it. A process with TensorFlow in it is forked for each change, which saves its import. Linux
only.
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
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANGS = 120  # seconds after which a test of the default suite does not end
OUT_OF_TIME = 99


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


class Reached:
    """The tests that run a line, by what coverage.py has noted of each."""

    def __init__(self, file: Path):
        from coverage import CoverageData

        data = CoverageData(str(file))
        data.read()
        self._by_line: dict[str, dict[int, set[str]]] = {}
        self._runs: Counter[str] = Counter()  # how many lines a test runs
        for module in data.measured_files():
            noted = data.contexts_by_lineno(module)
            self._by_line[module] = {line: set(by) - {""} for line, by in noted.items()}
            self._runs.update(by for all_ in self._by_line[module].values() for by in all_)
        self._files: dict[str, set[str]] = {}
        for test in {by.rpartition("|")[0] for by in self._runs}.intersection(_collected()):
            self._files.setdefault(test.partition("::")[0], set()).add(test)

    def tests(self, module: Path, line: int) -> list[str]:
        """The nearest first: of the file of the module's name, then of its folder."""
        place = module.relative_to(ROOT)
        noted = self._by_line.get(str(place), {})
        lines = executed(ast.parse(module.read_text()), line)
        contexts = set().union(*(noted.get(each, ()) for each in lines))
        contexts = contexts or set().union(*noted.values())  # run on import alone
        found = set()
        for context in contexts:
            test, _, when = context.rpartition("|")
            # What a test sets up, the others of its file may share.
            of_file = self._files.get(test.partition("::")[0], set())
            found |= of_file.intersection([test]) if when == "run" else of_file
        folder = f"tests/{place.parent.relative_to('lottery_tf')}/"
        own = f"{folder}test_{place.stem}.py"
        return sorted(
            found,
            key=lambda test: (
                not test.startswith(own),
                not test.startswith(folder),
                self._runs[f"{test}|run"],
                test,
            ),
        )


def _collected() -> list[str]:
    """The names of the tests that there are, as pytest takes them."""
    asked = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def executed(tree: ast.Module, line: int) -> range:
    """The lines of the statement that a line belongs to, without what is within it.

    Those of a function for its own line, and of a class, which run on import.
    """
    of: ast.stmt | None = None
    for node in ast.walk(tree):  # from the outside in
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if first <= line <= (node.end_lineno or node.lineno):
                of = node
    if of is None:
        return range(line, line + 1)
    body = getattr(of, "body", None)
    whole = not body or isinstance(of, ast.FunctionDef | ast.ClassDef)
    return range(of.lineno, 1 + ((of.end_lineno or line) if whole else body[0].lineno - 1))


class _Clock:
    """Of a run of pytest: a test that hangs ends it, and so does the time for all."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def pytest_runtest_logstart(self) -> None:
        import pytest

        signal.alarm(HANGS)
        if time.monotonic() > self._end:
            pytest.exit("out of time", OUT_OF_TIME)


def noticed_by(copy: Path, tests: list[str], seconds: float) -> str | None:
    """The first of these tests that fails in the copy, or what else ended them.

    "" if all pass, None if the time has ended before.
    """
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(copy)
        out = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path[0] = os.environ["PYTHONPATH"] = str(copy)
        import pytest

        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", *tests]
        os._exit(pytest.main(arguments, plugins=[_Clock(seconds)]))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests have started
    code = os.waitstatus_to_exitcode(status)
    if code in (0, OUT_OF_TIME):
        return None if code else ""
    output = (copy / "output.txt").read_text(errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", output, re.MULTILINE)
    return failed[1] if failed else f"exit code {code}"


def first_to_notice(
    copy: Path, place: Path, code: str, tests: list[str], passes: dict[str, bool], seconds: float
) -> str | None:
    """``noticed_by`` of a change of the file at ``place``, by a test that passes without it.

    What is known of tests without the change is in ``passes``, which is filled in.
    """
    before = (copy / place).read_text()
    while tests := [test for test in tests if passes.get(test, True)]:
        (copy / place).write_text(code)
        by = noticed_by(copy, tests, seconds)
        (copy / place).write_text(before)
        if by in tests and by not in passes:
            passes[by] = noticed_by(copy, [by], seconds) == ""
        if not by or passes.get(by, True):
            return by
    return ""


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
    parser.add_argument("--seconds", type=float, default=300, help="that the tests may take")
    parser.add_argument("--most", type=int, default=600, help="tests to try of those that run it")
    parser.add_argument("--coverage", type=Path, default=ROOT / ".coverage")
    options = parser.parse_args()

    reached = Reached(options.coverage)
    files = sorted((ROOT / "lottery_tf" / options.folder).rglob("*.py"))
    chosen, there_are = drawn(files, options.count, options.seed)
    print(f"{options.folder}: {len(chosen)} of {there_are} lines, seed {options.seed}", flush=True)
    for name in ("numpy", "tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"):
        importlib.import_module(name)
    sys.dont_write_bytecode = True  # which of two changes in a second a file has cannot be told

    caught = done = 0
    passes: dict[str, bool] = {}  # whether a test that failed passes without a change
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        copy = Path(folder) / "copy"
        subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
        for number, (file, line, code) in enumerate(chosen, start=1):
            place, before = file.relative_to(ROOT), file.read_text()
            tests = reached.tests(file, line)
            tried = tests[: options.most]
            by = first_to_notice(copy, place, code, tried, passes, options.seconds)
            caught, done = caught + bool(by), number
            print(f"{number:3} {'caught  ' if by else 'SURVIVED'} {place}:{line}", flush=True)
            print(f"      {difference(before, code)}", flush=True)
            many = f"{len(tests)} tests run it"
            if by is None:
                many += f"; those tried in {options.seconds:.0f} s pass"
            elif len(tests) > options.most and not by:
                many += f"; the nearest {options.most} pass"
            print(f"      {by or many}", flush=True)
    print(f"{caught} of {done} caught")  # Ctrl-C ends it sooner; those done are drawn at random


if __name__ == "__main__":
    main()
