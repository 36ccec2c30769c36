"""The command that comes next, as one pastes it into a shell."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lottery_tf.common.log import log
from lottery_tf.common.settings import describe, restore
from lottery_tf.data.readers import OPTIONS
from lottery_tf.data.settings import DataSettings


def command(*words: object) -> str:
    """``lottery-tf`` with these words, quoted for a shell.

    >>> command("retrain", "--ticket=my runs/round_08")
    "lottery-tf retrain '--ticket=my runs/round_08'"
    """
    return shlex.join(["lottery-tf", *map(str, words)])


def say_next(*commands: str) -> None:
    """A line for each on stderr, so that what a command gives on stdout stays as it is.

    None for a path that a terminal cannot show, such as bytes that are no UTF-8: shown in another
    form it could not be pasted.
    """
    for each in filter(str.isprintable, commands):
        log.info("Next: %s", each)


def beside(folder: Path, what: str) -> Path:
    """The folder that is proposed for what is made of the run in another."""
    return folder.with_name(f"{folder.name}_{what}") if folder.name else folder / what


def flags_of_data(config: Mapping[str, Any]) -> list[str]:
    """The flags that name the data of a run, by its ``config.json``."""
    data: DataSettings = restore(DataSettings, config)
    usual, said = DataSettings(), describe(data)
    names = ["dataset", "data_dir", *OPTIONS.get(data.dataset, ())]
    return [
        f"--{name}={said[name]}"
        for name in names
        if said.get(name) is not None and (name == "dataset" or said[name] != getattr(usual, name))
    ]
