"""Files of a ticket and of runs with random damage: told in a sentence, or nothing is lost by it.

The first half changes bytes, and the sums have to tell; the second changes what the files say and
writes the right sums, as a stranger would. The processes of TensorFlow's own reader of SavedModels
and of HDF5 are left out: what these do with a damaged file of no sum is theirs, and may be a crash.
"""

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import mlp, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json_lines, sha256, sum_of, write_json_lines
from lottery_tf.graph.model_files import check_code, load_model
from lottery_tf.reporting import report
from lottery_tf.reporting.epochs import mean_epochs
from lottery_tf.runs.experiment import check_fit, experiment_of
from lottery_tf.runs.find import finished_rounds
from lottery_tf.runs.records import finished_model, read_config, read_result
from lottery_tf.runs.settings import Experiment
from lottery_tf.training.checkpoints import read_checkpoint

SHARED = HealthCheck.function_scoped_fixture  # each case puts back what it has changed

_watched = None
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")


def _note(event, args):
    if _watched is not None and event in _RUNS:
        _watched.append((event, args))


sys.addaudithook(_note)  # for good, which is why it looks at nothing but in `nothing_runs`


@contextlib.contextmanager
def nothing_runs():
    """A block in which no program is started and no pickle looks for a class."""
    global _watched
    _watched = []
    try:
        yield
        assert _watched == []
    finally:
        _watched = None


shares = st.floats(0, 1, exclude_max=True)
damages = st.one_of(
    st.binary(max_size=64),  # in the file's place
    st.tuples(st.just("cut"), shares),
    st.tuples(st.just("byte"), shares, st.integers(1, 255)),
    st.tuples(st.just("digit"), shares, st.integers(1, 9)),  # which no format tells
)


def damaged(content: bytes, damage) -> bytes:
    if isinstance(damage, bytes):
        return damage
    kind, share, *other = damage
    place = int(share * len(content))
    if kind == "cut":
        return content[:place]
    digits = [found.start() for found in re.finditer(rb"\d", content)]
    if kind == "digit" and digits:
        place = digits[int(share * len(digits))]
        digit = (content[place] - ord("0") + other[0]) % 10
        return content[:place] + str(digit).encode() + content[place + 1 :]
    return content[:place] + bytes([content[place] ^ other[0]]) + content[place + 1 :]


def same(one, other) -> bool:
    """Whether two readings of a file say the same."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, dict | lt.Masks):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return one == other


def ticket(folder: Path):
    read = lt.Ticket.load(folder)
    return read.masks, read.weights, read.architecture, read.info


def model(run: Path) -> str:
    return sha256(finished_model(run))


TICKET, STATE = "tickets/round_02/", "checkpoint/"
# run → its file → what reads it
READERS = {
    "found": {
        **{
            f"{TICKET}{part}": lambda run: ticket(run / TICKET)
            for part in ("ticket.json", "masks.npz", "weights.npz", "model.json")
        },
        "config.json": read_config,
        "metrics.jsonl": finished_rounds,
    },
    "retrained": {
        "config.json": read_config,
        "result.json": read_result,
        "metrics.jsonl": lambda run: mean_epochs([str(run)]),
        "model/keras_metadata.pb": model,
        "model/saved_model.pb": model,
        "model/variables/variables.index": model,
        "model/variables/variables.data-00000-of-00001": model,
    },
    "unfinished": {
        f"{STATE}{part}": lambda run: read_checkpoint(run / STATE)
        for part in ("state.json", "weights.npz", "best.npz", "optimizer.npz", "metrics.npz")
    },
}
FILES = [(run, file) for run, files in READERS.items() for file in files]


@pytest.mark.parametrize(("run", "file"), FILES, ids=[" ".join(each) for each in FILES])
@settings(max_examples=40, suppress_health_check=[SHARED])
@given(damage=damages)
def test_damage_is_told_or_changes_nothing(run, file, damage, copies):
    folder, read = copies[run], READERS[run][file]
    whole, content = copies[run, file], (folder / file).read_bytes()
    try:
        (folder / file).write_bytes(damaged(content, damage))
        with nothing_runs():
            try:
                found = read(folder)
            except UsageError:
                return
        if file == "metrics.jsonl" and run == "retrained":
            means, missing = found
            assert missing == [str(folder)] or same(means.to_dict(), whole[0].to_dict())
        elif file == "metrics.jsonl":  # whole lines are a run that was broken off
            assert found == whole[: len(found)]
        elif isinstance(found, dict):  # where a digit of "sha256" is another, that is a name more
            assert same({name: found.get(name) for name in whole}, whole)
        else:
            assert same(found, whole)
    finally:
        (folder / file).write_bytes(content)


@pytest.fixture(scope="module")
def copies(found, retrained, unfinished, tmp_path_factory):
    """A run's name → a copy of it to be damaged; (run, file) → what its reader reads of it."""
    place, runs = tmp_path_factory.mktemp("copies"), {}
    for name, folder in (("found", found), ("retrained", retrained), ("unfinished", unfinished)):
        runs[name] = shutil.copytree(folder, place / name)
    return runs | {(run, file): READERS[run][file](runs[run]) for run, file in FILES}


# What a stranger writes, with the right sums

OTHERS = st.sampled_from(
    [
        *(None, True, -1, 0, 10**30, 0.5, float("nan"), float("inf"), "", "x", "\x1b[2J", "\0"),
        *([], {}, [1], ["dense1", 0, 0], {"a": 1}, [[[]]]),
        {"class_name": "system", "module": "os", "config": "true", "registered_name": None},
        {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None]}},
        {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
    ]
)


@st.composite
def changed(draw, value):
    """JSON with another value somewhere in it, or without one."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = draw(st.sampled_from(places))
        copy = value.copy()
        if draw(st.integers(0, 9)):
            copy[place] = draw(changed(value[place]))
        else:
            del copy[place]
        return copy
    return draw(OTHERS)


def write_with_sums(path: Path, record) -> None:
    """As it is read: what is no object has no sum."""
    if isinstance(record, dict) and isinstance(record.get("sha256"), dict):
        for part in record["sha256"]:
            if part != path.name and (path.parent / part).exists():
                record["sha256"][part] = sha256(path.parent / part)
        record["sha256"][path.name] = sum_of(record, path.name)
    path.write_text(json.dumps(record))


def use(folder: Path) -> None:
    """What the commands do with a ticket before they train it."""
    read = lt.Ticket.load(folder)
    if "settings" in read.info:
        check_fit(read, experiment_of(read, folder))
    read.build()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small ticket of each Keras."""
    place = tmp_path_factory.mktemp("drawn")
    info = {"round": 1, "rewind_step": 0, "seed": 0, "method": "imp", "settings": {"width": 3}}
    plain = mlp()
    of_tf_keras = lt.Ticket.of(plain, random_masks(plain), info)
    of_tf_keras.save(place / "tf_keras")
    of_tf_keras.in_keras("keras").save(place / "keras")
    return place


# To build a model takes a twentieth of a second, and most are built.
@pytest.mark.long
@pytest.mark.parametrize("part", ["ticket.json", "model.json"])
@pytest.mark.parametrize("of", ["tf_keras", "keras"])
@settings(max_examples=25, suppress_health_check=[SHARED])
@given(data=st.data())
def test_a_strangers_ticket(of, part, drawn, data):
    folder, record = drawn / of, drawn / of / "ticket.json"
    content, sums = (folder / part).read_text(), record.read_text()
    try:
        said = data.draw(changed(json.loads(content)))
        write_with_sums(folder / part, said)
        if part != "ticket.json":
            write_with_sums(record, json.loads(sums))
        with nothing_runs(), contextlib.suppress(UsageError):
            use(folder)
    finally:
        (folder / part).write_text(content)
        record.write_text(sums)


@pytest.mark.parametrize("part", ["masks.npz", "weights.npz"])
@settings(max_examples=40, suppress_health_check=[SHARED])
@given(damage=damages)
def test_a_strangers_arrays(part, damage, drawn):
    folder, record = drawn / "tf_keras", drawn / "tf_keras" / "ticket.json"
    content, sums = (folder / part).read_bytes(), record.read_text()
    try:
        (folder / part).write_bytes(damaged(content, damage))
        write_with_sums(record, json.loads(sums))
        with nothing_runs(), contextlib.suppress(UsageError):
            lt.Ticket.load(folder)
    finally:
        (folder / part).write_bytes(content)
        record.write_text(sums)


@pytest.mark.parametrize("file", ["config.json", "result.json", "metrics.jsonl"])
@settings(max_examples=40, suppress_health_check=[SHARED])
@given(data=st.data())
def test_a_strangers_run(file, copies, data):
    run = copies["retrained"]
    kept = {name: (run / name).read_text() for name in ("config.json", "result.json", file)}
    try:
        if file == "metrics.jsonl":
            rows = data.draw(changed(read_json_lines(run / file)))
            rows = rows if isinstance(rows, list) else [rows]
            if all(isinstance(row, dict) for row in rows):
                write_json_lines(run / file, rows, summed=True)
            else:
                (run / file).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
            write_with_sums(run / "result.json", json.loads(kept["result.json"]))
        else:
            write_with_sums(run / file, data.draw(changed(json.loads(kept[file]))))
        with nothing_runs():
            mean_epochs([str(run)])
            with contextlib.suppress(UsageError):
                Experiment.restore(read_config(run))
            with contextlib.suppress(UsageError):
                report([run])
    finally:
        for name, text in kept.items():
            (run / name).write_text(text)


@pytest.mark.long
@pytest.mark.parametrize("of", ["tf_keras", "keras"])
@settings(max_examples=25, suppress_health_check=[SHARED])
@given(damage=damages)
def test_a_strangers_keras_file(of, damage, files):
    content = files[of].read_bytes()
    try:
        files[of].write_bytes(damaged(content, damage))
        with nothing_runs(), contextlib.suppress(UsageError):
            load_model(files[of])
    finally:
        files[of].write_bytes(content)


@pytest.fixture(scope="module")
def files(drawn):
    """A .keras file of each Keras."""
    for of in ("tf_keras", "keras"):
        lt.strip(lt.Ticket.load(drawn / of).build()).save(drawn / f"{of}.keras")
    return {of: drawn / f"{of}.keras" for of in ("tf_keras", "keras")}


@pytest.mark.parametrize("file", ["saved_model.pb", "keras_metadata.pb"])
@settings(max_examples=25, suppress_health_check=[SHARED])
@given(damage=damages)
def test_a_strangers_saved_model(file, damage, copies):
    """As far as it is looked at before TensorFlow reads it."""
    path = copies["retrained"] / "model" / file
    content = path.read_bytes()
    try:
        path.write_bytes(damaged(content, damage))
        with nothing_runs(), contextlib.suppress(UsageError):
            check_code(path.parent)
    finally:
        path.write_bytes(content)
