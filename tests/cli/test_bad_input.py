"""Input that is wrong, by every way in: exit code 2, one sentence, and nothing changed on disk.

What each mistake is called is tested where it is found; here a mistake of each kind goes all the
way through the commands.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from networks import prove_here
from PIL import Image
from report_runs import write_study

from lottery_tf.cli.main import main
from lottery_tf.common.files import sha256, sum_of

DRAWN = ["find", "--method=erk", "--sparsity=0.5", "--notrain_tickets", *TINY]
SMOOTHED = ["--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]


def tree(folder: Path) -> str:
    """A sum of all names, kinds and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        digest.update(f"{kind} {path.relative_to(folder)}\0".encode(errors="surrogateescape"))
        if kind == "file":
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Place:
    """A folder with what a case needs, each made when it is asked for."""

    def __init__(self, folder: Path, runs: dict[str, Path]):
        self.folder, self._runs = folder, runs
        self.out = f"--out={folder / 'out'}"

    def copy(self, name: str) -> Path:
        """A copy of a run, or of a ticket of it."""
        return shutil.copytree(self._runs[name], self.folder / name)

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def retrain(self, run: Path) -> list[str]:
        """The command that goes on with a run, or finds it finished."""
        ticket = self._runs["ticket"]
        return ["retrain", f"--ticket={ticket}", *SMOOTHED, f"--out={run}"]


# What is done to a ticket, a run or a folder of data


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def digit(path: Path) -> None:
    """Another digit in the middle of a file's first number that has three."""
    content = path.read_bytes()
    place = re.search(rb"\d\.\d\d", content).start()
    new = b"7" if content[place + 2 : place + 3] != b"7" else b"3"
    path.write_bytes(content[: place + 2] + new + content[place + 3 :])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes) -> None:
    """A record with other values, and with the sum that is right for these; ... takes one out."""
    record = json.loads(path.read_text())
    record = {key: value for key, value in {**record, **changes}.items() if value is not ...}
    if isinstance(record.get("sha256"), dict):
        for part in record["sha256"]:
            if part != path.name and (path.parent / part).is_file():
                record["sha256"][part] = sha256(path.parent / part)
        record["sha256"][path.name] = sum_of(record, path.name)
    path.write_text(json.dumps(record))


def ticket(change):
    """A case: a ticket to which something is done, retrained."""

    def words(place: Place) -> list[str]:
        folder = place.copy("ticket")
        change(folder)
        return ["retrain", f"--ticket={folder}", place.out]

    return words


def model_json(change):
    """The same, of what its model.json says, with the right sums."""

    def changed(folder: Path) -> None:
        described = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(change(described)))
        edit(folder / "ticket.json")

    return ticket(changed)


def layer(described: dict, name: str) -> dict:
    return next(each for each in described["config"]["layers"] if each["config"]["name"] == name)


def in_a_circle(described: dict) -> dict:
    first = layer(described, "dense1")
    first["inbound_nodes"] = [[["dense2", 0, 0, {}]]]
    return described


def calls_code(described: dict) -> dict:
    first = layer(described, "dense1")
    first |= {"module": "os", "class_name": "system", "registered_name": None}
    return described


def arrays(folder: Path, part: str, **changes) -> None:
    """Other arrays in a ticket, with the right sums."""
    with np.load(folder / part) as file:
        held = dict(file) | changes
    np.savez(folder / part, **held)
    edit(folder / "ticket.json")


def run(name, *spoil, then):
    """A case: something is done to files of a run, and a command is given it."""

    def words(place: Place) -> list[str]:
        folder = place.copy(name)
        for file, change in spoil:
            change(folder / file)
        return then(place, folder)

    return words


def goes_on(place: Place, folder: Path) -> list[str]:
    return place.retrain(folder)


def exported(place: Place, folder: Path) -> list[str]:
    return ["export", f"--run={folder}", place.out]


def evaluated(place: Place, folder: Path) -> list[str]:
    return ["evaluate", f"--run={folder}"]


def reported(place: Place, folder: Path) -> list[str]:
    return ["report", str(folder), place.out]


def written(text: str | bytes):
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def grid(text: str | bytes):
    def words(place: Place) -> list[str]:
        file = place.file("grid.yaml", text)
        return ["sweep", f"--grid={file}", "--rounds=1", place.out]

    return words


def flagfile(text: str | bytes):
    def words(place: Place) -> list[str]:
        return ["find", f"--flagfile={place.file('base.cfg', text)}", place.out]

    return words


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


GREY = png(np.zeros((4, 4), np.uint8))


def png_of_size(width: int, height: int) -> bytes:
    """A picture of that size by its header, with next to nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1 << 16))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def images(content: bytes | None, ending: str = "png", classes=("cat", "dog")):
    """A case: a folder of images one of which, or which, is wrong."""

    def words(place: Place) -> list[str]:
        for split in ("train", "test"):
            for name in classes:
                place.file(f"images/{split}/{name}/1.png", GREY)
        if content is not None:
            place.file(f"images/train/{classes[0]}/2.{ending}", content)
        data = [f"--data_dir={place.folder / 'images'}", "--dataset=image_folder", "--dev_share=0"]
        return [*DRAWN, *data, "--batch_size=1", place.out]

    return words


def classes_alone(*more: str, names=("cat", "dog"), each: int = 2):
    """A case: a folder of classes without train and test."""

    def words(place: Place) -> list[str]:
        for name in names:
            for number in range(each):
                place.file(f"images/{name}/{number}.png", GREY)
        data = [f"--data_dir={place.folder / 'images'}", "--dataset=image_folder", "--dev_share=0"]
        return [*DRAWN, *data, "--batch_size=1", place.out, *more]

    return words


def idx(shape=(12, 8, 8), labels=range(10), packed=False, command=DRAWN):
    """A case: MNIST's four files, with images of a shape and these labels, each in turn."""

    def words(place: Place) -> list[str]:
        names = [label % 256 for label in labels]
        each = bytes([0, 0, 8, 1]) + struct.pack(">I", len(names)) + bytes(names)
        pixels = bytes([0, 0, 8, 3]) + struct.pack(">III", *shape)
        pixels += bytes(1 << 20) if packed else bytes(int(np.prod(shape)))
        for split in ("train", "t10k"):
            place.file(f"idx/{split}-labels-idx1-ubyte", each)
            ending = ".gz" if packed else ""
            whole = gzip.compress(pixels) if packed else pixels
            place.file(f"idx/{split}-images-idx3-ubyte{ending}", whole)
        data = [f"--data_dir={place.folder / 'idx'}", "--dataset=idx", "--dev_share=0"]
        more = command(place) if callable(command) else [*command, place.out]
        return [*more, "--batch_size=1", *data]

    return words


def of_another_model(place: Place) -> list[str]:
    return ["evaluate", f"--model={place.copy('retrained') / 'model'}"]


def model_file(name: str, content: bytes):
    return lambda place: ["evaluate", f"--model={place.file(name, content)}"]


def bomb_of_a_ticket(folder: Path) -> None:
    """A weight of 4 TiB by its header."""
    packed = zipfile.ZipFile(folder / "weights.npz", "a")
    with packed as file, file.open("more/kernel.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
        np.lib.format.write_array_header_1_0(member, header)
    edit(folder / "ticket.json")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


LAUGHS = "seeds:\n - &a0 [lol,lol,lol]\n" + "".join(
    f" - &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)

# name → the words of the command line in a place, and what its sentence says
CASES = {
    # flags
    "no out": (lambda place: ["find", "--rounds=1"], "Expected --out=DIR"),
    "an unknown flag": (lambda place: ["find", "--wdith=3", place.out], "nearest: --width"),
    "no number": (lambda place: ["find", "--width=wide", place.out], "expected an integer"),
    "no share": (lambda place: ["find", "--rounds=1", "--dev_share=nan", place.out], "--dev_share"),
    "no rate": (
        lambda place: ["find", "--rounds=1", "--learning_rate=inf", place.out],
        "--learning_rate",
    ),
    "no fraction": (
        lambda place: ["find", "--rounds=1", "--prune_fraction=nan", place.out],
        "--prune_fraction",
    ),
    "no sparsity": (
        lambda place: ["find", "--method=snip", "--sparsity=nan", place.out],
        "--sparsity in",
    ),
    "no tolerance": (
        lambda place: ["export", f"--run={place.copy('retrained')}", "--tolerance=nan", place.out],
        "--tolerance",
    ),
    "a seed beyond 64 bits": (
        lambda place: [*DRAWN, f"--data_seed={2**64}", place.out],
        "--data_seed",
    ),
    "a batch beyond 64 bits": (lambda place: [*DRAWN, f"--batch_size={2**64}", place.out], "1294"),
    "steps beyond 64 bits": (
        lambda place: [*DRAWN, f"--train_for={10**30}it", place.out],
        "--train_for",
    ),
    "executions beyond 64 bits": (
        lambda place: [*DRAWN, f"--steps_per_execution={2**64}", place.out],
        "--steps_per_execution",
    ),
    "rounds without end": (lambda place: ["find", f"--rounds={10**12}", place.out], "--rounds"),
    "rounds of next to nothing": (
        lambda place: ["find", "--sparsity=0.9", "--prune_fraction=1e-12", place.out],
        "--prune_fraction",
    ),
    "an unknown dataset": (lambda place: ["find", "--dataset=digist", place.out], "digits"),
    "what a terminal obeys": (lambda place: ["find", "--model=\x1b[2J", place.out], r"\\x1b\[2J"),
    "several lines": (lambda place: ["find", "--model=a\nb", place.out], "'a b'"),
    "a zero in a path": (lambda place: [*DRAWN, "--out=a\0b"], "zero byte"),
    "a zero in a folder": (lambda place: ["report", "a\0b"], "zero byte"),
    "a zero in a ticket's path": (lambda place: ["inspect", "a\0b"], "zero byte"),
    "a name too long": (
        lambda place: [*DRAWN, f"--out={place.folder / ('x' * 300)}"],
        "too long",
    ),
    "a file as the folder": (
        lambda place: [*DRAWN, f"--out={place.file('out', '')}"],
        "other files",
    ),
    "no ticket": (lambda place: ["retrain", place.out], "--ticket"),
    "a report of nothing": (lambda place: ["report", str(place.folder)], "there is none below"),
    # flagfiles
    "a flagfile of bytes": (flagfile(bytes(range(128, 256))), "cannot read the flagfile"),
    "a flagfile of no flag": (flagfile("--wdith=3\n"), "nearest: --width"),
    "a flagfile of a zero": (flagfile("--model=a\0b\n"), "zero byte"),
    "a flagfile without end": (
        lambda place: [
            "find",
            f"--flagfile={place.file('a.cfg', f'--flagfile={place.folder}/a.cfg')}",
        ],
        "--rounds",
    ),
    # grids
    "aliases of aliases": (grid(LAUGHS), "lists within lists"),
    "a list in itself": (grid("seeds: &a [*a]"), "lists within lists|YAML"),
    "a date that is none": (grid("note: 2024-13-45"), "YAML file"),
    "a grid of bytes": (grid(bytes(range(128, 256))), "YAML file"),
    "a grid with a zero": (grid('model: "a\\0b"'), "zero byte"),
    "a grid that calls": (grid("seeds: !!python/object/apply:os.system [false]"), "YAML file"),
    "a grid of a list": (grid("- vanilla"), "flags and their values"),
    "a grid of nothing": (grid(""), "flags and their values"),
    "a merge of no grid": (grid("<<: 3"), "YAML file"),
    "a name that is none": (grid("? [1]\n: 2"), "YAML file|flag"),
    "a cell that is none": (grid("cells: {a: 3}"), "'cells'"),
    "runs without end": (
        grid(
            "tune: {" + ", ".join(f"{n}: {[*range(1, 1000)]}" for n in ("decay", "momentum")) + "}"
        ),
        "runs",
    ),
    # tickets
    "a ticket that is not there": (
        lambda place: ["retrain", f"--ticket={place.folder / 'no'}", place.out],
        "there is none",
    ),
    "a file as a ticket": (
        lambda place: ["inspect", str(place.file("ticket", "{}"))],
        "there is none",
    ),
    "half a ticket": (ticket(lambda folder: cut(folder / "ticket.json")), "damaged"),
    "half of its masks": (ticket(lambda folder: cut(folder / "masks.npz")), "checksum"),
    "another digit in it": (ticket(lambda folder: digit(folder / "ticket.json")), "checksum"),
    "a ticket of later": (
        ticket(lambda folder: edit(folder / "ticket.json", format_version=2)),
        "of format 1 .* got 2: read it with the release",
    ),
    "a ticket of no format": (
        ticket(lambda folder: edit(folder / "ticket.json", format_version="\x1b[2J")),
        r"got \\x1b\[2J",
    ),
    "a ticket of a list": (ticket(lambda f: (f / "ticket.json").write_text("[]")), "damaged"),
    "a ticket of lists": (
        ticket(lambda f: (f / "ticket.json").write_text("[" * 100_000)),
        "damaged",
    ),
    "a ticket of bytes": (
        ticket(lambda f: (f / "ticket.json").write_bytes(b"\xff\xfe")),
        "damaged",
    ),
    "a step that is none": (
        ticket(lambda folder: edit(folder / "ticket.json", rewind_step="5")),
        "a count as rewind_step",
    ),
    "a step beyond the end": (
        ticket(lambda folder: edit(folder / "ticket.json", rewind_step=10**6)),
        "--train_for to end after step 1000000",
    ),
    "numbers that are none": (
        ticket(lambda folder: edit(folder / "ticket.json", numbers=None)),
        "a count as numbers",
    ),
    "settings that are none": (
        ticket(lambda folder: edit(folder / "ticket.json", settings=3)),
        "an object as settings",
    ),
    "settings of other kinds": (
        ticket(lambda folder: edit(folder / "ticket.json", settings={"train_for": 5})),
        "--train_for to be a text, got '5'",
    ),
    "a dataset that is none": (
        ticket(lambda folder: edit(folder / "ticket.json", settings={"dataset": "x"})),
        "--dataset takes",
    ),
    "a ticket without end in memory": (ticket(bomb_of_a_ticket), "at most .* numbers"),
    "a ticket that is code": (
        ticket(
            lambda folder: arrays(
                *(folder, "weights.npz"),
                **{"head/bias": np.array([Bomb()], object)},
            )
        ),
        "Expected arrays",
    ),
    "weights of texts": (
        ticket(
            lambda folder: arrays(
                *(folder, "weights.npz"),
                **{"head/bias": np.array(["a"] * 10)},
            )
        ),
        "head/bias .* of its type|numbers",
    ),
    "masks of another shape": (
        ticket(
            lambda folder: arrays(
                *(folder, "masks.npz"), **{"dense1/kernel": np.ones((2, 2), bool)}
            )
        ),
        "each of its weight's shape",
    ),
    "masks of other numbers": (
        ticket(
            lambda folder: arrays(
                *(folder, "masks.npz"), **{"dense1/kernel": np.full((64, 30), 0.5)}
            )
        ),
        "a mask of 0 and 1",
    ),
    "layers in a circle": (model_json(in_a_circle), "wait for one another without end"),
    "a layer that is code": (model_json(calls_code), "'system' of os, which|'system' of os:"),
    "a model of a list": (model_json(lambda described: [described]), "model description"),
    "own classes that are none": (
        model_json(lambda described: described | {"layer_paths": 3}),
        "model description",
    ),
    # images
    "a GIF named PNG": (images(b"GIF89a" + bytes(20)), "2.png cannot be read as one"),
    "half a PNG": (images(GREY[:40]), "2.png cannot be read"),
    "a text": (images(b"cat"), "it is none"),
    "an empty image": (images(b"", "jpg"), "it is empty"),
    "a PNG of 10 gigabytes": (images(png_of_size(60_000, 60_000)), "2.png cannot be read"),
    "a PNG that lies": (images(png_of_size(5_000, 5_000)), "2.png cannot be read|one size"),
    "images of two sizes": (images(png(np.zeros((5, 4), np.uint8))), "images of one size"),
    "images of one class": (images(None, classes=("cat",)), "two classes or more"),
    "images of no class": (images(None, classes=()), "there is no folder"),
    "an image size that is none": (classes_alone("--image_size=3y4"), "--image_size expects HxW"),
    "an image size without end": (classes_alone("--image_size=99999"), "from 1 to 4,096"),
    "an image size of other data": ([*DRAWN, "--image_size=8"], "--image_size is for --dataset"),
    "two channels": (classes_alone("--image_channels=2"), "--image_channels expects 1"),
    "a resizing that is none": (
        classes_alone("--image_resize=crop"),
        "nearest: center_crop",
    ),
    "nothing to test on": (classes_alone("--test_share=0"), "--test_share expects a share above 0"),
    "one image of each class": (classes_alone(each=1), "two images or more of a class"),
    "one class alone": (classes_alone(names=("cat",)), "two classes or more"),
    "train without test": (classes_alone(names=("train/a", "cat")), "expects a folder test"),
    "other test images than the ticket's": (
        lambda place: [
            *("retrain", f"--ticket={place.copy('ticket')}", place.out),
            *("--dataset=image_folder", "--test_seed=1", f"--data_dir={place.folder}"),
        ],
        "Expected a ticket for --dataset=image_folder",
    ),
    # arrays
    "no examples": (idx((0, 8, 8), ()), "holds no pixels"),
    "no pixels": (idx((10, 0, 8)), "holds no pixels"),
    "one label": (idx((10, 8, 8), [0] * 10), "two classes or more"),
    "labels beyond the classes": (idx((10, 8, 8), [0, 1, 255] * 3 + [0]), "of every class"),
    "more images than labels": (idx((11, 8, 8)), "as many images as labels"),
    "a gzip bomb": (idx((10, 8, 8), packed=True), "holds more"),
    "a batch of all and more": (
        lambda place: [*idx((10, 8, 8))(place), "--batch_size=11"],
        "--batch_size",
    ),
    "images of another size": (
        idx((10, 9, 9), command=of_another_model),
        "shape 8×8×1; --dataset=idx has 9×9×1",
    ),
    "labels that the model has not": (
        idx((12, 8, 8), range(12), command=of_another_model),
        "to 12 classes",
    ),
    # runs
    "half a checkpoint's state": (
        run("unfinished", ("checkpoint/state.json", cut), then=goes_on),
        "checkpoint",
    ),
    "another digit in it, too": (
        run("unfinished", ("checkpoint/state.json", digit), then=goes_on),
        "checkpoint",
    ),
    "a checkpoint's weights": (
        run("unfinished", ("checkpoint/weights.npz", flip), then=goes_on),
        "checkpoint",
    ),
    "a checkpoint of nothing": (
        run("unfinished", ("checkpoint/state.json", written('{"rows":1}')), then=goes_on),
        "checkpoint",
    ),
    "half of a run's settings": (
        run("retrained", ("config.json", cut), then=goes_on),
        "JSON in .*config.json",
    ),
    "another digit in them": (run("retrained", ("config.json", digit), then=goes_on), "checksum"),
    "settings that are a list": (
        run("retrained", ("config.json", written("[]")), then=goes_on),
        "something else",
    ),
    "settings of lists": (
        run("retrained", ("config.json", written("[" * 100_000)), then=evaluated),
        "damaged",
    ),
    "a run of a later release": (
        run("retrained", ("config.json", lambda path: edit(path, warp=9)), then=goes_on),
        "warp is 9 there and None here",
    ),
    "no tweaks": (
        run("retrained", ("config.json", lambda path: edit(path, tweaks=[])), then=goes_on),
        "something else",
    ),
    "a rate that is none": (
        run(
            "retrained",
            ("config.json", lambda path: edit(path, batch_size="9")),
            then=exported,
        ),
        "--batch_size to be a whole number, got '9'",
    ),
    "another digit in a result": (
        run("retrained", ("result.json", digit), then=exported),
        "checksum",
    ),
    "a result of other kinds": (
        run("retrained", ("result.json", lambda path: edit(path, sparsity="x")), then=goes_on),
        "its sparsity is 'x'",
    ),
    "a result without its time": (
        run("retrained", ("result.json", lambda path: edit(path, seconds=...)), then=goes_on),
        "its seconds is",
    ),
    "a model's metadata": (
        run("retrained", ("model/keras_metadata.pb", flip), then=evaluated),
        "checksum",
    ),
    "a model's graph": (run("retrained", ("model/saved_model.pb", cut), then=exported), "checksum"),
    "a model that is gone": (
        run("retrained", ("model", shutil.rmtree), then=exported),
        "checksum",
    ),
    "a report of damage": (run("retrained", ("result.json", digit), then=reported), "damaged"),
    "a report of other kinds": (
        run("retrained", ("config.json", lambda path: edit(path, data_seed={})), then=reported),
        "damaged",
    ),
    "rounds of another digit": (
        lambda place: [
            *("find", *TINY, "--rounds=2", "--rewind_to=5it"),
            f"--out={run('found', ('metrics.jsonl', digit), then=lambda _, f: f)(place)}",
        ],
        "checksum",
    ),
    # models
    "no model": (lambda place: ["evaluate", f"--model={place.folder}"], "SavedModel"),
    "a .keras file of bytes": (model_file("m.keras", b"PK\x03\x04"), "that Keras loads"),
    "an .h5 file of bytes": (model_file("m.h5", b"\x89HDF\r\n\x1a\n"), "that Keras loads"),
    "a .tflite file of bytes": (model_file("m.tflite", bytes(100)), "LiteRT"),
    "a SavedModel of bytes": (
        lambda place: [
            "evaluate",
            f"--model={place.file('m/saved_model.pb', bytes(range(9, 99))).parent}",
        ],
        "that Keras loads",
    ),
    "a teacher of bytes": (
        lambda place: [
            *("retrain", f"--ticket={place.copy('ticket')}", "--recipe=distillation"),
            *(f"--distillation_teacher={place.file('m.keras', b'PK')}", place.out),
        ],
        "that Keras loads",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, found, retrained, unfinished, tmp_path, capfd, monkeypatch):
    runs = {"found": found, "retrained": retrained, "unfinished": unfinished}
    place = Place(tmp_path, runs | {"ticket": found / "tickets" / "round_02"})
    prepare, told = CASES[name]
    words = prepare(place) if callable(prepare) else [*prepare, place.out]
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    code = main(words)
    out, err = capfd.readouterr()
    *notes, sentence = err.splitlines()
    assert code == 2, err
    assert "Traceback" not in err
    assert sentence.startswith(f"lottery-tf {words[0]}: ") and re.search(told, sentence), err
    # What the log says is no error, and goes to stderr in some orders of the tests.
    known = ("circular flagfile", "left dense", "there are no test images", "no folders train")
    assert all(any(each in note for each in known) for note in notes), notes
    assert "\x1b" not in out + err
    assert tree(tmp_path) == before


# Names that are odd and right

ODD = "a b [red] $x$ :bomb: ž日本 'q' %s {} =1"


@pytest.mark.parametrize("name", [ODD, os.fsdecode(b"\xff latin")], ids=["letters", "bytes"])
def test_names_of_folders_may_be_odd(name, found, retrained, tmp_path, monkeypatch, capfd):
    prove_here(monkeypatch)
    home = tmp_path / name
    run, ticket = shutil.copytree(retrained, home / "run"), home / "ticket"
    shutil.copytree(found / "tickets" / "round_02", ticket)
    write_study(home / "study")
    for words in (
        [*DRAWN, f"--out={home / 'drawn'}"],
        ["retrain", f"--ticket={ticket}", *SMOOTHED, f"--out={run}"],
        ["inspect", str(ticket), f"--json={home / 'facts.json'}"],
        ["evaluate", f"--run={run}"],
        ["export", f"--run={run}", f"--out={home / 'export'}"],
    ):
        assert main(words) == 0, capfd.readouterr().err
    words = ["report", str(home / "study"), f"--out={home / 'report'}", "--noflops"]
    if name != ODD:  # pandas has no such texts
        assert main(words) == 2 and "name is no UTF-8" in capfd.readouterr().err
        return
    assert main(words) == 0
    assert f"{home / 'report' / 'report.html'}" in capfd.readouterr().out.replace("\n", "")
