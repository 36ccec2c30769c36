"""``lottery-tf COMMAND --name=value ...``: reads the flags, runs the command, gives the exit code.

A command is a module with ``SETTINGS``, the dataclasses whose fields are its flags, and
``run(flags)``, which takes the ``Parsed`` flags; ``POSITIONAL``, if there, names the arguments that
are no flags. A new command is one module and one line in ``COMMANDS``. Modules are imported when
they are needed, so that the overview need not wait for TensorFlow.
"""

import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from lottery_tf.cli.flags import help_text, parse
from lottery_tf.common.errors import UsageError, WorkFailed
from lottery_tf.common.settings import nearest
from lottery_tf.common.stderr import quiet_start

# Name → module and what the command does.
COMMANDS = {
    "quickstart": ("lottery_tf.cli.quickstart", "the whole way on a small dataset, in minutes"),
    "find": ("lottery_tf.cli.find", "train and prune a model until it is a sparse ticket"),
    "inspect": ("lottery_tf.cli.inspect", "show what is left of a ticket, layer by layer"),
    "retrain": ("lottery_tf.cli.retrain", "train a ticket from its rewound weights by a recipe"),
    "sweep": ("lottery_tf.cli.sweep", "find and retrain over a grid of recipes, masks and seeds"),
    "report": ("lottery_tf.cli.report", "compare the recipes of retrain runs: tables and a page"),
    "evaluate": ("lottery_tf.cli.evaluate", "measure a finished or exported model on a dataset"),
    "export": ("lottery_tf.cli.export", "write a retrained model as SavedModel or TFLite"),
}

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the words behind ``lottery-tf``; None for those of this process.

    Returns:
      The exit code: 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        print(overview(), end="", file=sys.stderr)
        return MISTAKE
    name, *words = argv
    if name in ("--help", "-h", "help"):
        print(overview(), end="")
        return DONE
    if name == "--version":
        print(f"lottery-tf {_version()}")
        return DONE
    if name not in COMMANDS:
        near = nearest(name, list(COMMANDS)) or "; --help lists them"
        print(f"lottery-tf: there is no command '{name}'{near}.", file=sys.stderr)
        return MISTAKE
    try:
        _run(name, words)
        return DONE
    except UsageError as error:
        print(f"lottery-tf {name}: {error}", file=sys.stderr)
        return MISTAKE
    except WorkFailed as error:
        print(f"lottery-tf {name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        again = "the same command goes on where it was."
        print(f"\nlottery-tf {name}: interrupted; {again}", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return FAILED


def overview() -> str:
    """What ``lottery-tf --help`` prints."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "lottery-tf draws lottery tickets from Keras models and spends them better.",
            "",
            "usage: lottery-tf COMMAND [--name=value ...]",
            "",
            *(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()),
            "",
            "lottery-tf COMMAND --help shows a command's flags, lottery-tf --version the version.",
            "",
        ]
    )


def _run(name: str, words: list[str]) -> None:
    path, summary = COMMANDS[name]
    with quiet_start():
        command = _load(path)
    positional = getattr(command, "POSITIONAL", "")
    if "--help" in words or "-h" in words:
        print(help_text(name, summary, command.SETTINGS, positional), end="")
        return
    command.run(parse(words, command.SETTINGS, positional))


def _load(path: str) -> ModuleType:
    command = importlib.import_module(path)
    if tensorflow := sys.modules.get("tensorflow"):
        # It looks for GPUs at its first operation; asked here, it has its say in `quiet_start`.
        tensorflow.config.list_physical_devices()
        # A command that builds several models is told of "excessive retracing".
        tensorflow.get_logger().setLevel("ERROR")
    return command


def _version() -> str:
    try:
        return importlib.metadata.version("lottery_tf")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
