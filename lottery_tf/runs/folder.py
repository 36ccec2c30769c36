"""Run folders: what a command writes, and to which run a folder belongs."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from filelock import FileLock, Timeout

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import clear_leftovers, read_json, write_record
from lottery_tf.common.log import log
from lottery_tf.common.ownership import of_file_manager
from lottery_tf.data import content_sha256
from lottery_tf.data.readers import FOLDER_IS_DATASET, options_of
from lottery_tf.graph.compat import keras
from lottery_tf.graph.model_files import existing_model, load_model
from lottery_tf.masks.settings import as_compared
from lottery_tf.runs.records import read_config
from lottery_tf.runs.settings import CLASS_NAMES, DATA_SUM
from lottery_tf.training.loading import known_of_tfmot
from lottery_tf.tweaks.settings import with_older_defaults

# Settings that are not part of a run's identity. A run may go on on other devices and with more
# rounds. Data, tickets, teachers and models are known by their sums, wherever they are.
_NOT_COMPARED = {
    *("versions", "devices", "ticket", "teacher", "dense_ticket", "model_path", "rewind_path"),
    *("data_dir", DATA_SUM, CLASS_NAMES, "rounds"),
}

# The file that a process locks while it works on a run. The file stays, and does not matter then.
LOCK = ".lock"
_PACKAGES = (
    *("lottery_tf", "tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "numpy"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
      out: the folder.
      command: the command of the run.
      settings: every setting that decides the result, as JSON values.
      defaults: defaults of settings that a run of an older release may lack.
      of_tweaks: the same for parameters of tweaks that ``with_older_defaults`` does not name.
    """

    out: Path
    command: str
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    of_tweaks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Raises UsageError if the folder holds anything other than this run; changes nothing."""
        if (self.out / "config.json").is_file():
            theirs = {**self.defaults, **read_config(self.out)}
            mine = json.loads(json.dumps({"command": self.command, **self.settings}))
            if self._read_as_older_release() or _same_channels(theirs, mine):
                mine["image_channels"] = theirs["image_channels"]
            for tweak in _shared_tweaks(theirs, mine):
                usual = self.of_tweaks.get(tweak, {})
                own = {name: usual.get(name) for name in mine["tweaks"][tweak]}
                own |= with_older_defaults(tweak, theirs["tweaks"][tweak])
                theirs["tweaks"] = {**theirs["tweaks"], tweak: own}
            differing = _differing(theirs, mine)
            if not differing and (moved := _other_data(theirs, mine)):
                differing = [moved]
            if differing:
                raise UsageError(
                    f"Expected `out` to be new or this run's; {self.out} belongs to another: "
                    f"{'; '.join(differing[:4])}{' …' if differing[4:] else ''}. Choose another "
                    "`out`."
                )
        else:
            check_run_or_new(self.out)

    def begin(self, data_sha256: str = "", class_names: Sequence[str] = ()) -> None:
        """Checks the folder and writes its ``config.json``.

        Call it when everything that was asked for is known to be possible. Settings that may differ
        keep their values from the run's beginning, except the rounds.

        Args:
          data_sha256: the sum of the data that the run will read; empty if there is none.
          class_names: the names of the data's classes; empty if they have none.
        """
        self.check()
        if (self.out / "config.json").exists():
            self.check_same_data(data_sha256)
            config = read_config(self.out)
            if config.get("rounds") == self.settings.get("rounds"):
                return
            config["rounds"] = self.settings["rounds"]
        else:
            versions = {name: _version(name) for name in _PACKAGES}
            versions["python"] = platform.python_version()
            devices = tf.distribute.get_strategy().num_replicas_in_sync
            begun = {"devices": devices, "versions": versions}
            begun |= {DATA_SUM: data_sha256} if data_sha256 else {}
            begun |= {CLASS_NAMES: list(class_names)} if class_names else {}
            config = {"command": self.command, **self.settings, **begun}
        try:
            write_record(self.out / "config.json", config)
        except OSError as error:
            raise UsageError(
                f"Expected `out` to be a folder that can be written; {error}."
            ) from None

    def check_same_data(self, data_sha256: str) -> None:
        """Raises UsageError if the run was begun with data of another sum; an empty one is not
        compared."""
        if not data_sha256 or not (self.out / "config.json").is_file():
            return
        stated, older_sum = read_config(self.out).get(DATA_SUM), None
        if stated != data_sha256 and self._read_as_older_release():
            options = {**options_of(self.settings), "image_channels": 3}
            older_sum = content_sha256(
                self.settings["dataset"], self.settings["data_dir"], **options
            )
        if (stated or older_sum or data_sha256) == data_sha256:
            return
        if older_sum is not None and stated in (None, older_sum):
            raise UsageError(
                f"Expected the data that {self.out} was begun with; an older release has read its "
                "grey images as RGB: give `image_channels=3`, or choose another `out`."
            )
        raise UsageError(
            f"Expected the data that {self.out} was begun with; those in `data_dir` are "
            "different now, or in another order: give the folder of the run's own data, or "
            "choose another `out`."
        )

    def _read_as_older_release(self) -> bool:
        """Whether an older release began the run, which did not ask for channels as now none are
        asked for."""
        return (
            self.settings.get("dataset") == "image_folder"
            and self.settings.get("image_channels") is None
            and "image_channels" not in read_json(self.out / "config.json")
        )

    def put_right(self, places: Iterable[str]) -> None:
        """Puts right what a killed process left beside config.json and these places in the folder;
        not while another is at work."""
        if not (self.out / LOCK).exists():  # there was no process yet
            return
        # Of a folder that can't be written, or has no locks, ``at_work`` tells.
        with contextlib.suppress(OSError, NotImplementedError), FileLock(self.out / LOCK, 0):
            clear_leftovers(self.out, ["config.json", *places])

    @contextlib.contextmanager
    def at_work(self, data_sha256: str = "", class_names: Sequence[str] = ()) -> Iterator[None]:
        """Begins the run, and keeps other processes off it while the block lasts.

        Args:
          data_sha256, class_names: as in ``begin``.

        Raises:
          UsageError: as ``check``; for other data than the run was begun with; and if another
            process is at work on it. The lock of a killed process does not count.
        """
        self.check()
        lock = FileLock(self.out / LOCK)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"Expected `out` without another process at work on it; there is one at work on "
                f"{self.out}: wait for it, or choose another `out`."
            ) from None
        except OSError as error:
            raise UsageError(
                f"Expected `out` to be a folder that can be written; {error}."
            ) from None
        except NotImplementedError:  # a file system without locks
            log.info("%s cannot be locked; do not run a second process on it.", self.out)
        try:
            self.begin(data_sha256, class_names)
            yield
        finally:
            lock.release()


GONE_ON = (
    "Expected `out` as it was when this command began; another process has gone on with {}: give "
    "the same command again."
)


def _differing(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The differences between two runs' settings, as texts.

    First the recipe, where the order of tweaks does not matter; then parameters of tweaks and other
    settings, by the names of their flags."""
    both, there, here = _shared_tweaks(theirs, mine), _tweaks(theirs), _tweaks(mine)
    one, other = (
        {
            **{n: value for n, value in as_compared(config).items() if n != "tweaks"},
            **{f"{tweak}_{name}": v for tweak in both for name, v in tweaks[tweak].items()},
        }
        for config, tweaks in ((theirs, there), (mine, here))
    )
    found = [
        f"{key} is {one.get(key)!r} there and {other.get(key)!r} here"
        for key in sorted((one.keys() | other.keys()) - _NOT_COMPARED)
        if one.get(key) != other.get(key)
    ]
    if there.keys() != here.keys():
        names = ("+".join(tweaks) or "vanilla" for tweaks in (there, here))
        found.insert(0, "recipe is {} there and {} here".format(*names))
    return found


def _other_data(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """The difference between two runs' data; None if they are the same.

    Only a dataset that is a folder is compared; others are known by their name. Runs of older
    releases noted no sum, so that their path is compared."""
    there, here = theirs.get("data_dir"), mine.get("data_dir")
    if there == here or mine.get("dataset") not in FOLDER_IS_DATASET:
        return None
    if DATA_SUM not in theirs:
        return f"data_dir is {there!r} there and {here!r} here"
    if content_sha256(mine["dataset"], here, **options_of(mine)) == theirs[DATA_SUM]:
        return None
    return f"the data in data_dir, {there!r} there, are not those in {here!r} here"


def _same_channels(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether one of two runs asks for the channels that the other finds in the same data."""
    both = [config.get("image_channels") for config in (theirs, mine)]
    return (
        both.count(None) == 1
        and DATA_SUM in theirs
        and theirs.get("dataset") == mine.get("dataset") == "image_folder"
        and content_sha256("image_folder", mine["data_dir"], **options_of(mine)) == theirs[DATA_SUM]
    )


def _tweaks(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("tweaks", {})


def _shared_tweaks(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The tweaks that both runs have."""
    return [tweak for tweak in _tweaks(mine) if tweak in _tweaks(theirs)]


def check_run_or_new(out: Path) -> None:
    """Raises UsageError if a folder has files and is not a run's, or if it cannot be a folder."""
    if (out / "config.json").is_file():
        return
    if any(each.is_file() for each in (out, *out.parents)) or (out.is_dir() and _visible(out)):
        raise UsageError(
            f"Expected `out` to be new, empty or this run's folder; {out} holds other files. "
            "Choose another `out`."
        )


def _visible(folder: Path) -> bool:
    """Whether a folder has files other than the lock, those of a file manager, and what a killed
    process may have left of config.json."""
    return any(
        not (file.name.startswith((".config.json.", LOCK)) or of_file_manager(file))
        for file in folder.iterdir()
    )


def _version(package: str) -> str | None:
    """The version of a package; None if it is not installed (tf_keras is optional)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_saved_model(folder: str | os.PathLike[str], allow_code: bool = False) -> keras.Model:
    """The Keras model of a SavedModel's folder, not compiled.

    Raises:
      UsageError: if there is none, if Keras has not written it, or if it holds code that is not
        allowed.
    """
    if not Path(folder, "saved_model.pb").is_file():
        raise UsageError(
            f"Expected a SavedModel (a folder with saved_model.pb) at {folder}; there is none."
        )
    return load_model(folder, allow_code)


def load_pruned(path: str | os.PathLike[str], allow_code: bool = False) -> keras.Model:
    """The Keras model in a SavedModel's folder, a .keras or an .h5 file; it may be tfmot's.

    Raises:
      UsageError: if there is none, if Keras cannot load it, or if it holds code that is not
        allowed.
    """
    existing_model(path)
    with known_of_tfmot() as schedules:
        return load_model(path, allow_code, schedules)
