"""Raises AssertionError unless dist/ holds all that it should; in a checkout, for ``.ci/run``.

The wheel there was made from the sdist: it has to be the one that is made from the checkout
(of_checkout/), with every file of lottery_tf/; and the sdist has to hold flags/.
"""

import subprocess
import tarfile
import zipfile
from pathlib import Path


def tracked(folder: str) -> set[str]:
    """The files in a folder of the checkout that git knows."""
    return set(subprocess.check_output(["git", "ls-files", folder], text=True).splitlines())


def wheel(folder: str) -> dict[str, bytes]:
    """The files in a folder's only wheel, with their contents."""
    (path,) = Path(folder).glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def sdist(folder: str) -> set[str]:
    """The files in a folder's only sdist, below its top."""
    (path,) = Path(folder).glob("*.tar.gz")
    with tarfile.open(path) as opened:
        return {name.partition("/")[2] for name in opened.getnames()}


of_sdist, of_checkout = wheel("dist"), wheel("of_checkout")
every = of_sdist.keys() | of_checkout.keys()
differ = sorted(name for name in every if of_sdist.get(name) != of_checkout.get(name))
assert not differ, f"the wheels of the sdist and of the checkout differ in {differ}"
lacking = tracked("lottery_tf") - of_sdist.keys()
assert not lacking, f"the wheel lacks {sorted(lacking)}"
lacking = tracked("flags") - sdist("dist")
assert not lacking, f"the sdist lacks {sorted(lacking)}"
