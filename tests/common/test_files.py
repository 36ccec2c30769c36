import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lottery_tf.common import files
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import (
    check_part,
    clear_leftovers,
    plain_path,
    read_json,
    read_json_lines,
    sha256,
    write_json,
    write_json_lines,
    write_record,
    write_text,
)
from lottery_tf.common.ownership import Kind

ROOT = Path(files.__file__).parents[2]


def any_content(file):
    return True


ANY = Kind("a folder of these tests", {"*": any_content, "sub/*": any_content})


def whole_folder(path):
    return files.whole_folder(path, ANY)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


# Folders


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "tickets" / "round_01"
    with whole_folder(path) as folder:
        (folder / "a").write_text("1")
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("2")
        assert not path.exists()
        assert folder.parent == path.parent and folder.name.startswith(".")
    assert contents(path) == {"a": "1", "sub/b": "2"}
    assert os.listdir(path.parent) == ["round_01"]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("old", "new"):
        with whole_folder(path) as folder:
            (folder / name).write_text(name)
    assert contents(tmp_path) == {"model/new": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_nothing(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "model") as folder:
        (folder / "half").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_block_that_raises_leaves_the_folder_before_it(tmp_path):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "old").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model"):
        raise RuntimeError
    assert contents(tmp_path) == {"model/old": "old"}


def test_a_rename_that_fails_leaves_the_folder_before_it(tmp_path, monkeypatch):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "old").write_text("old")
    rename, renamed = os.rename, []

    def second_fails(source, target):
        renamed.append(source)
        if len(renamed) == 2:
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="disk full"), whole_folder(tmp_path / "model"):
        pass
    assert contents(tmp_path) == {"model/old": "old"}
    assert os.listdir(tmp_path) == ["model"]


KILLED = """
import os, pathlib, shutil, sys
from lottery_tf.common.files import whole_folder
from lottery_tf.common.ownership import Kind
moment, path = int(sys.argv[1]), pathlib.Path(sys.argv[2])

def dies(function):
    def wrapped(*args, **kwargs):
        global moment
        if moment == 0:
            os._exit(9)
        moment -= 1
        return function(*args, **kwargs)
    return wrapped

for name in ("unlink", "rmdir", "rename", "fsync"):
    setattr(os, name, dies(getattr(os, name)))
with whole_folder(path, Kind("a folder", {"?": bool})) as folder:
    for name in "abc":
        (folder / name).write_text("new")
"""


def test_a_process_killed_at_any_moment_leaves_the_folder_whole_or_away(tmp_path):
    """Killed before each call that touches the disk: three fsync, two renames, the old one's end.

    Whatever stands at the path is the old folder or the new one, with all of its three files. Where
    none does, the old one comes back when leftovers are cleared.
    """
    seen = []
    for moment in range(12):
        path = tmp_path / str(moment) / "model"
        with whole_folder(path) as folder:
            for name in "abc":
                (folder / name).write_text("old")
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(moment), str(path)], cwd=ROOT, check=False
        )
        if path.exists():
            assert len(contents(path)) == 3
            (word,) = set(contents(path).values())
            seen.append(word)
        else:
            seen.append("away")
        clear_leftovers(path.parent, ["model"])
        assert os.listdir(path.parent) == ["model"]
        assert contents(path) == dict.fromkeys("abc", "old" if seen[-1] == "away" else seen[-1])
        if killed.returncode == 0:
            break
    assert killed.returncode == 0
    assert seen[:6] == ["old", "old", "old", "old", "away", "new"]
    assert set(seen[5:]) == {"new"}


def test_leftovers_of_known_places_alone_are_cleared(tmp_path):
    kept = [".lock", ".a.json.12345678x", "a.json.12345678", "sub/b", ".a.json.1234567g"]
    kept += [".results.20261130", "other/.b.20250101", "elsewhere/.c.20250101"]
    left = [".a.json.0123abcd", ".a.json.0123abcd.old", "sub/.b.0123abcd", "sub/.b.0123abcd.old"]
    for name in [*kept, *left, "a.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".a.json.aaaaaaaa").symlink_to(tmp_path / "a.json")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    clear_leftovers(tmp_path, ["a.json", "sub/b", "link/c", "no/d"])
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    folders = {"sub", "other", "elsewhere", "link"}
    assert found - folders == {*kept, "a.json", ".a.json.aaaaaaaa"}


def test_two_old_copies_are_told_and_kept(tmp_path, caplog):
    """A release before this one gave the folder that it replaced no other name than the new one."""
    for name in (".model.aaaaaaaa", ".model.bbbbbbbb"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path, ["model"])
    assert len(os.listdir(tmp_path)) == 2
    assert "model is missing; it may be one of" in caplog.text


def test_a_link_is_followed(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "scratch")
    with whole_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "model").is_symlink()
    assert contents(tmp_path / "scratch") == {"a": "1"}
    assert sorted(os.listdir(tmp_path)) == ["model", "scratch"]


def test_a_file_in_the_way_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(UsageError, match="a folder of these tests; it holds something else, wh"):
        whole_folder(tmp_path / "model").__enter__()
    assert contents(tmp_path) == {"model": "mine"}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_a_folder_has_the_permissions_of_any_other(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with whole_folder(tmp_path / "model"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == mode


# Files


def test_a_text_is_written_into_a_folder_that_is_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "Žluť\n")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "Žluť\n"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "latest").symlink_to(tmp_path / "first")
    write_text(tmp_path / "latest", "1")
    assert (tmp_path / "latest").is_symlink() and (tmp_path / "first").read_text() == "1"


def test_a_text_that_fails_leaves_the_one_before_it(tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    write_text(path, "old")

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert contents(tmp_path) == {"b.txt": "old"}


def test_a_value_that_is_no_json_leaves_the_file_before_it(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [[{"writer": w, "row": r} for r in range(200)] for w in range(8)]
    threads = [threading.Thread(target=write_json_lines, args=(path, r)) for r in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_json_lines(path) in rows
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_json_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"round": 0, "name": "a\nb\u2028c"}, {"round": 1, "name": "ž"}, {}]
    write_json_lines(path, rows)
    assert read_json_lines(path) == rows
    assert path.read_bytes().count(b"\n") == 3
    write_json_lines(path, [])
    assert read_json_lines(path) == []
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_json_lines_of_others_may_hold_any_letter(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"name": "ž\u2028\x85"}\n', encoding="utf-8")
    assert read_json_lines(path) == [{"name": "ž\u2028\x85"}]


def test_a_loss_that_is_not_finite_is_null(tmp_path):
    """Python writes NaN, which is no JSON: other languages' readers refuse the file."""
    row = {"loss": float("nan"), "all": [1.0, float("inf")], "pair": (-np.inf, 2), "ok": 0.5}
    expected = {"loss": None, "all": [1.0, None], "pair": [None, 2], "ok": 0.5}
    write_json(tmp_path / "a.json", row)
    write_json_lines(tmp_path / "a.jsonl", [row])
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == expected
    assert read_json_lines(tmp_path / "a.jsonl") == [expected]


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 20) + 1, 5 << 19])
def test_sha256(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "weights").write_bytes(data)
    assert sha256(tmp_path / "weights") == hashlib.sha256(data).hexdigest()


def test_what_file_managers_leave_is_not_in_a_folders_sha256(tmp_path):
    write_text(tmp_path / "sub" / "weights", "1")
    before = sha256(tmp_path)
    for name in (".DS_Store", "sub/Thumbs.db", "sub/desktop.ini"):
        (tmp_path / name).touch()
    assert sha256(tmp_path) == before
    (tmp_path / "sub" / "notes").touch()
    assert sha256(tmp_path) != before


def test_sha256_of_abc(tmp_path):
    """The example of FIPS 180-2."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_record_tells_of_a_change_and_says_the_same_to_others(tmp_path):
    path, part = tmp_path / "result.json", tmp_path / "part"
    part.write_text("a")
    record = {"accuracy": 0.25, "loss": float("nan"), "name": "ž"}
    write_record(path, record, {"part": sha256(part)})
    raw = json.loads(path.read_text())
    assert raw.pop("sha256").keys() == {"result.json", "part"}
    assert raw == {"accuracy": 0.25, "loss": None, "name": "ž"}
    read = read_json(path)
    assert read == {**raw, "sha256": {"part": sha256(part)}}
    path.write_text(json.dumps(json.loads(path.read_text())))  # the same, written otherwise
    assert read_json(path) == read
    check_part(read, part)
    write_record(path, read)
    assert read_json(path) == read
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(UsageError, match="result.json to have the checksum"):
        read_json(path)
    path.write_text(path.read_text().replace('"sha256"', '"sha266"'))
    with pytest.raises(UsageError, match="result.json to have the checksum"):
        read_json(path)
    without = {key: value for key, value in read.items() if key != "sha256"}
    write_json(path, without)  # as an older release wrote it
    assert read_json(path) == without
    check_part(without, part)
    part.write_text("b")
    with pytest.raises(UsageError, match="part to have the checksum"):
        check_part(read, part)
    part.unlink()
    with pytest.raises(UsageError, match="part to have the checksum"):
        check_part(read, part)


def test_lines_tell_of_a_change_and_a_run_may_end_after_any(tmp_path):
    path, rows = tmp_path / "metrics.jsonl", [{"round": n, "loss": 0.5} for n in range(3)]
    write_json_lines(path, rows, summed=True)
    assert read_json_lines(path) == rows
    lines = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["loss"] for line in lines] == [0.5] * 3
    for kept in range(3):
        path.write_text("".join(lines[:kept]))
        assert read_json_lines(path) == rows[:kept]
    changed = [lines[0], lines[1].replace("0.5", "0.7"), lines[2]]
    unsummed = [line.replace('"sha256"', '"sha266"') for line in lines]
    some = [[*lines[:2], unsummed[2]], [unsummed[0], *lines[1:]]]
    for others in (changed, changed[:2], lines[1:], [lines[1], lines[0]], *some):
        path.write_text("".join(others))
        with pytest.raises(UsageError, match="metrics.jsonl to have the checksum"):
            read_json_lines(path)


@pytest.mark.parametrize("text", ["3", "[]\n", "{\n", "[" * 100_000])
def test_lines_that_are_no_objects_are_told(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UsageError, match="a JSON object a line in .*; it is damaged"):
        read_json_lines(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["run", "a[1]*?", os.fsdecode(b"\xff.keras"), "m[0].keras"])
def test_a_path_that_tensorflow_takes_as_it_is(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "file").write_text("a")
    with plain_path(folder) as place:
        assert (place / "file").read_text() == "a"
        assert (place == folder) == (name == "run")
        assert place.suffix == folder.suffix or name == "a[1]*?"
        str(place).encode()
        assert not set("[]*?") & set(place.name)
        (place / "other").write_text("b")
    assert (folder / "other").read_text() == "b"
