"""Prints constraints.txt: the exact versions of all that setup.cfg asks for, in this environment.

By the Python of an environment with all of lottery_tf[test,docs,backends] where the tests have just
passed: ``.venv-test/bin/python .ci/constraints.py > constraints.txt``. What these requirements
require themselves is among it; what the builds of a machine add to a version (``+cpu``) is not.
"""

import configparser
import importlib.metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NOT_THERE = {"cuda", "mutation"}  # extras that no machine of the tests has


def declared(setup: Path) -> list[tuple[str, Requirement]]:
    """What a setup.cfg asks for, with the extra that asks; of lottery_tf itself "" does."""
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return [
        (extra, Requirement(line))
        for extra, lines in lists.items()
        for line in filter(None, (each.partition("#")[0].strip() for each in lines.splitlines()))
        if not line.startswith("lottery_tf[")
    ]


def applies(requirement: Requirement, extra: str = "") -> bool:
    """Whether a requirement of a distribution, asked for with one of its extras, is meant here."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def pins(setup: Path) -> dict[str, str]:
    """Name → version here of all that a setup.cfg asks for, and what that requires.

    Raises:
      PackageNotFoundError: if something is not installed.
    """
    waiting = [each for extra, each in declared(setup) if extra not in NOT_THERE and applies(each)]
    found: dict[str, str] = {}
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found[name] = Version(importlib.metadata.version(name)).public
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                of_it = map(Requirement, importlib.metadata.requires(name) or ())
                waiting += [each for each in of_it if applies(each, extra)]
    return found


if __name__ == "__main__":
    print(f"# Python {sys.version_info.major}.{sys.version_info.minor}")
    print("# Versions that the tests have passed with; CONTRIBUTING.md says how they are renewed.")
    for name, version in sorted(pins(Path(__file__).parents[1] / "setup.cfg").items()):
        print(f"{name}=={version}")
