"""``lottery-tf COMMAND --name=value ...``: reads the flags, runs the command, gives the exit code.

A command is a module with ``run(flags)``, which takes the ``Parsed`` flags, and an entry of
``COMMANDS``. The module is imported when the command line has been read, so that help and mistakes
need not wait for TensorFlow.
"""

import errno
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from lottery_tf.cli import checks, settings
from lottery_tf.cli.flags import Owner, Parsed, help_text, parse
from lottery_tf.cli.messages import in_flags
from lottery_tf.common.errors import UsageError, WorkFailed
from lottery_tf.common.interruption import Stopped, heeded
from lottery_tf.common.log import one_line, readable
from lottery_tf.common.settings import nearest
from lottery_tf.common.stderr import errors_only, quiet_start


class Command(NamedTuple):
    """A command.

    Attributes:
      module: whose ``run(flags)`` does it.
      summary: what it does, in words.
      settings: what its flags are made from, as ``parse`` takes it.
      positional: what the help calls its arguments that are no flags.
      checked_later: those of ``settings`` that a run, a ticket or a grid completes. Only the
        command itself can tell what is wrong with them.
      lacks: what a command line lacks, by the flags alone.
      check: whatever else is wrong with it, likewise.
    """

    module: str
    summary: str
    settings: tuple[Owner, ...]
    positional: str = ""
    checked_later: tuple[Owner, ...] = ()
    lacks: Callable[[Parsed], list[str]] = lambda flags: []
    check: Callable[[Parsed], None] = lambda flags: None


def _check_sweep(flags: Parsed) -> None:
    from lottery_tf.cli.grid import check  # with a reader of YAML, which no other command needs

    check(flags)


COMMANDS = {
    "quickstart": Command(
        "lottery_tf.cli.quickstart",
        "the whole way on a small dataset, in minutes",
        settings.QUICKSTART,
    ),
    "find": Command(
        "lottery_tf.cli.find",
        "train and prune a model until it is a sparse ticket",
        settings.FIND,
        lacks=checks.find_lacks,
    ),
    "inspect": Command(
        "lottery_tf.cli.inspect",
        "show what is left of a ticket, layer by layer",
        settings.INSPECT,
        "TICKET",
        checked_later=(settings.DataSettings,),
        check=checks.check_inspect,
    ),
    "retrain": Command(
        "lottery_tf.cli.retrain",
        "train a ticket from its rewound weights by a recipe",
        settings.RETRAIN,
        checked_later=settings.OF_RETRAINING,
        lacks=checks.retrain_lacks,
        check=checks.check_retrain,
    ),
    "sweep": Command(
        "lottery_tf.cli.sweep",
        "find and retrain over a grid of recipes, masks and seeds",
        settings.SWEEP,
        checked_later=settings.OF_TRIALS,
        lacks=checks.sweep_lacks,
        check=_check_sweep,
    ),
    "report": Command(
        "lottery_tf.cli.report",
        "compare the recipes of retrain runs: tables and a page",
        settings.REPORT,
        "RUNS...",
        lacks=checks.report_lacks,
    ),
    "evaluate": Command(
        "lottery_tf.cli.evaluate",
        "measure a finished or exported model on a dataset",
        settings.EVALUATE,
        checked_later=(settings.DataSettings,),
        lacks=checks.evaluate_lacks,
        check=checks.check_evaluate,
    ),
    "export": Command(
        "lottery_tf.cli.export",
        "write a retrained model as SavedModel, TFLite, ONNX or Keras file",
        settings.EXPORT,
        lacks=checks.export_lacks,
    ),
}

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
TO_BE_REQUEUED = 75  # "try again" in sysexits.h: the launchers start the command again


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the words behind ``lottery-tf``; None for those of this process.

    Returns:
      The exit code: 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted. 75: stopped
      by SIGTERM, and to be given again.
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
        print(one_line(f"lottery-tf: there is no command '{name}'{near}."), file=sys.stderr)
        return MISTAKE
    try:
        with heeded():
            _run(name, words)
        return DONE
    except UsageError as error:
        print(f"lottery-tf {name}: {one_line(in_flags(str(error)))}", file=sys.stderr)
        return MISTAKE
    except WorkFailed as error:
        print(f"lottery-tf {name}: {one_line(in_flags(str(error)))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        by = "stopped by SIGTERM" if isinstance(error, Stopped) else "interrupted"
        again = "the same command goes on where it was."
        print(f"\nlottery-tf {name}: {by}; {again}", file=sys.stderr)
        return TO_BE_REQUEUED if isinstance(error, Stopped) else INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            long = f"{error.strerror}: {error.filename}, give another place"
            print(f"lottery-tf {name}: {one_line(long)}.", file=sys.stderr)
            return MISTAKE
        if told := _trouble_with_disk(error):
            print(f"lottery-tf {name}: {one_line(told)}.", file=sys.stderr)
            return FAILED
        said = traceback.format_exc()
        if isinstance(error, RuntimeError):  # ours; Keras' errors put other things in backquotes
            said = said.replace(str(error), in_flags(str(error)))
        print(readable(said), end="", file=sys.stderr)
        return FAILED


def _trouble_with_disk(error: BaseException) -> str | None:
    """What is wrong with the disk, if an error or its cause is about that. Python says it, or
    TensorFlow, HDF5 and NumPy with the same words in classes of their own."""
    no_room = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]
    no_leave = [os.strerror(number) for number in (errno.EACCES, errno.EPERM)]
    each: BaseException | None = error
    while each is not None:
        # On a full disk closing the file fails as well. A refusal in the chain may be handled.
        words = no_room if each is not error else [*no_room, *no_leave]
        found = next((word for word in words if word in str(each)), None)
        if found and (isinstance(each, OSError) or type(each).__module__ != "builtins"):
            place = getattr(each, "filename", None)
            where = f"{found}, at {place}" if place else found
            then = "what is there is whole, and the same command goes on"
            return f"{where}: {then}" if found in no_room else where
        suppressed = each.__suppress_context__
        each = each.__cause__ or (None if suppressed else each.__context__)
    return None


def overview() -> str:
    """What ``lottery-tf --help`` prints."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "lottery-tf draws lottery tickets from Keras models and spends them better.",
            "",
            "usage: lottery-tf COMMAND [--name=value ...]",
            "",
            *(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()),
            "",
            "lottery-tf COMMAND --help shows a command's flags, lottery-tf --version the version.",
            "",
        ]
    )


def _run(name: str, words: list[str]) -> None:
    command = COMMANDS[name]
    if "--help" in words or "-h" in words:
        print(help_text(name, command.summary, command.settings, command.positional), end="")
        return
    flags = parse(words, command.settings, command.positional)
    checks.check_nothing_lacks(command.lacks(flags))
    for owner in command.settings:  # which check themselves as they are made
        if owner not in command.checked_later:
            flags.settings(owner)
    command.check(flags)
    with quiet_start():
        module = _load(command.module)
    module.run(flags)


def _load(path: str) -> ModuleType:
    command = importlib.import_module(path)
    if tensorflow := sys.modules.get("tensorflow"):
        # It looks for GPUs at its first operation; asked here, it has its say in `quiet_start`.
        tensorflow.config.list_physical_devices()
    errors_only()
    return command


def _version() -> str:
    try:
        return importlib.metadata.version("lottery_tf")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
