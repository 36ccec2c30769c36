"""What the launchers of this folder share: a command behind ``--``, its environment, a dry run."""

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn


def arguments(doc: str) -> argparse.ArgumentParser:
    """A launcher's command line; ``doc`` is its help."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] -- COMMAND",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry_run", action="store_true", help="print what would run, and stop")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="lottery-tf and its words")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments that were given; ends the process if the command cannot be found."""
    words = sys.argv[1:]
    if "--" not in words and not {"-h", "--help"} & set(words):
        parser.error("expected the command behind --, as in `one_gpu.py -- lottery-tf find …`")
    given = parser.parse_args()
    if shutil.which(given.command[0]) is None:
        parser.error(f"expected a command behind --; there is no '{given.command[0]}'")
    return given


def written(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command with its environment, quoted for a shell."""
    settings = (f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return " ".join([*settings, shlex.join(command)])


def become(command: Sequence[str], environment: Mapping[str, str], dry_run: bool) -> NoReturn:
    """Runs the command in the place of this process, or prints it."""
    if dry_run:
        print(written(command, environment))
        raise SystemExit(0)
    os.execvpe(command[0], command, {**os.environ, **environment})


def visible(gpus: Sequence[int]) -> dict[str, str]:
    """The environment in which TensorFlow sees these GPUs only, numbered as nvidia-smi does.

    Where some have been chosen already (CUDA_VISIBLE_DEVICES, as a scheduler sets it), ``gpus``
    are places among those.

    Raises:
      SystemExit: if there are not so many among them, or a number is below 0.
    """
    if gpus and min(gpus) < 0:
        raise SystemExit(f"Expected GPU numbers of 0 or more, not {min(gpus)}.")
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = list(map(str, gpus))
    if chosen is not None and gpus:
        names = [name for name in chosen.split(",") if name]
        if max(gpus) >= len(names):
            raise SystemExit(
                f"Expected a GPU number {max(gpus)} among CUDA_VISIBLE_DEVICES={chosen}, which has "
                f"{len(names)}, counted from 0."
            )
        numbers = [names[number] for number in gpus]
    order = {} if chosen is not None else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**order, "CUDA_VISIBLE_DEVICES": ",".join(numbers) or "-1"}


def tf_config(workers: Sequence[str], index: int) -> dict[str, str]:
    """The environment of worker ``index`` of those at the addresses ``workers``."""
    task = {"type": "worker", "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": list(workers)}, "task": task})}
