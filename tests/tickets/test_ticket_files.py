"""A ticket's folder: whole and right, or refused; and nothing of the user's is lost."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from networks import chain, layers, mlp, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import sha256, sum_of
from lottery_tf.tickets.ticket import FORMAT_VERSION

PARTS = ("masks.npz", "weights.npz", "model.json")


def drawn(**info):
    """A ticket of a model with random masks."""
    model = mlp()
    return lt.Ticket.of(model, random_masks(model), info)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("tickets") / "saved"
    drawn().save(path)
    return path


@pytest.fixture
def folder(saved, tmp_path):
    """A whole ticket, for this test alone."""
    return shutil.copytree(saved, tmp_path / "round_01")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncate,
    "a bit flipped": flip_a_bit,
    "another file": lambda path: path.write_bytes(b"PK\x03\x04"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_is_refused(folder, part, damage):
    DAMAGES[damage](folder / part)
    with pytest.raises(UsageError, match=f"{part} .*missing, damaged or changed. Copy the ticket"):
        lt.Ticket.load(folder)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a bit flipped"])
def test_a_damaged_ticket_json_is_refused(folder, damage):
    DAMAGES[damage](folder / "ticket.json")
    with pytest.raises(UsageError, match="Expected a ticket"):
        lt.Ticket.load(folder)


def edited(folder, **changes):
    record = json.loads((folder / "ticket.json").read_text())
    record = {key: value for key, value in {**record, **changes}.items() if value is not ...}
    (folder / "ticket.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "changes",
    [
        *({"sha256": value} for value in (..., [], 3, "x", None)),
        *({"trainable_parameters": value} for value in (..., "many", None)),
        {"format_version": ...},
    ],
)
def test_a_ticket_json_without_what_it_must_say_is_refused(folder, changes):
    edited(folder, **changes)
    with pytest.raises(UsageError, match="damaged"):
        lt.Ticket.load(folder)


UNSAID = ["round", "rewind_step", "seed", "dense_norms", "settings", "method", "structure"]


@pytest.mark.parametrize("name", UNSAID)
def test_null_is_as_if_left_out_and_another_kind_is_refused(folder, name):
    text = (folder / "ticket.json").read_text()

    def load_with(value):
        record = {**json.loads(text), name: value}
        record["sha256"]["ticket.json"] = sum_of(record, "ticket.json")
        (folder / "ticket.json").write_text(json.dumps(record))
        return lt.Ticket.load(folder)

    ticket = load_with(None)
    assert name not in ticket.info
    assert ticket.build().count_params() > 0
    with pytest.raises(UsageError, match=f"as {name}, which is"):
        load_with([3])


@pytest.mark.parametrize("text", ["[]", "3", "null", "\ufeff{", "{" * 10])
def test_a_ticket_json_of_another_kind_is_refused(folder, text):
    (folder / "ticket.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        lt.Ticket.load(folder)


@pytest.mark.parametrize("sums", [{}, {part: "0" * 64 for part in PARTS}, {PARTS[0]: None}])
def test_sums_must_be_there_and_right(folder, sums):
    edited(folder, sha256=sums)
    with pytest.raises(UsageError, match="checksum that ticket.json gives"):
        lt.Ticket.load(folder)


def test_a_digit_that_was_changed_is_told(folder):
    """ticket.json has a sum of its own; one of an older release had none, and is read."""
    text = (folder / "ticket.json").read_text()
    (folder / "ticket.json").write_text(text.replace('"sparsity": 0', '"sparsity": 1'))
    with pytest.raises(UsageError, match=r"Expected .*ticket.json to have the checksum"):
        lt.Ticket.load(folder)
    record = json.loads(text)
    edited(folder, sparsity=0.0, sha256={part: record["sha256"][part] for part in PARTS})
    assert lt.Ticket.load(folder).masks
    (folder / "ticket.json").write_text(json.dumps(record))  # written otherwise, the same
    assert lt.Ticket.load(folder).masks


@pytest.mark.parametrize("name", ["first/kernel", "first/more"])
def test_arrays_of_absurd_shapes_are_refused_by_their_headers(folder, name, monkeypatch):
    """A file that unpacks to gigabytes, with the right sums; nothing of it is unpacked."""
    with np.load(folder / "weights.npz") as held:
        arrays = dict(held)
    packed = zipfile.ZipFile(folder / "weights.npz", "w", zipfile.ZIP_DEFLATED)
    with packed as file:
        for each, array in arrays.items():
            if each == name:
                continue
            with file.open(f"{each}.npy", "w") as member:
                np.save(member, array)
        with file.open(f"{name}.npy", "w") as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
            np.lib.format.write_array_header_1_0(member, header)
    edited(folder, sha256={part: sha256(folder / part) for part in PARTS})
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(UsageError, match=f"at most .* numbers in .*; {name} would be 1,099,511"):
        lt.Ticket.load(folder)


def test_a_newer_format_is_refused_by_name(folder):
    edited(folder, format_version=FORMAT_VERSION + 1, sha256=...)
    with pytest.raises(UsageError, match="format 1 in .*, got 2: read it with the release"):
        lt.Ticket.load(folder)


def test_no_ticket_at_all(tmp_path):
    with pytest.raises(UsageError, match="Expected a ticket's folder .* there is none"):
        lt.Ticket.load(tmp_path / "none")


def test_a_pickle_with_the_right_sum_is_not_loaded(folder):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    for part in ("masks.npz", "weights.npz"):
        copy = folder.with_name(f"with_{part}")
        shutil.copytree(folder, copy)
        np.savez(copy / part, a=np.array([Bomb()], dtype=object))
        edited(copy, sha256={name: sha256(copy / name) for name in PARTS})
        with pytest.raises(UsageError, match=f"Expected arrays in .*{part}; it is damaged"):
            lt.Ticket.load(copy)


def test_parts_that_do_not_belong_together(folder):
    """Each whole, with the right sum, but of different models."""
    lt.Ticket.of(chain(layers.Dense(2, name="d")), lt.Masks({})).save(folder.with_name("other"))
    for part in PARTS:
        copy = folder.with_name(f"with_{part}")
        shutil.copytree(folder, copy)
        shutil.copy(folder.with_name("other") / part, copy / part)
        edited(copy, sha256={name: sha256(copy / name) for name in PARTS})
        if part == "weights.npz":
            with pytest.raises(UsageError, match="masks for weights of the ticket"):
                lt.Ticket.load(copy)
            continue
        ticket = lt.Ticket.load(copy)
        if part != "masks.npz":  # no masks are masks of any model
            with pytest.raises(UsageError, match="another model"):
                ticket.build()


def test_a_ticket_is_not_written_over_something_else(tmp_path, folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(UsageError, match="new or a ticket; it holds something else"):
            drawn().save(path)
    assert contents(tmp_path / "mine") == {"notes.txt": b"years of work"}
    assert (tmp_path / "file").read_text() == "mine"


def test_a_ticket_replaces_a_ticket_or_an_empty_folder(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    ticket = drawn(seed=7)
    for path in (folder, tmp_path / "empty"):
        ticket.save(path)
        assert lt.Ticket.load(path).info["seed"] == 7
        assert set(contents(path)) == {*PARTS, "ticket.json"}


def test_info_that_is_no_json_leaves_the_ticket_before_it(folder):
    before = contents(folder)
    with pytest.raises(TypeError):
        drawn(thing=object()).save(folder)
    assert contents(folder) == before


def test_more_constants_than_parameters_are_no_damage(tmp_path):
    class Table(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(name="table", shape=(9, 120_000), trainable=False)

        def call(self, x):
            return x + self.table[0, 0]

    model = chain(layers.Dense(3, name="first"), Table(name="t"), layers.Dense(2))
    lt.prune(model, "omp", 0.5).save(tmp_path / "t")
    assert lt.Ticket.load(tmp_path / "t").weights["t/table"].size == 1_080_000
