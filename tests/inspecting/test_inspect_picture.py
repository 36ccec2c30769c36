"""The picture of a ticket: what is in it, and what it refuses."""

import sys

import pytest
from networks import mlp, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.inspecting import draw


def facts(other=True):
    model = mlp()
    masks = dict(random_masks(model))
    masks["second/kernel"] = masks["second/kernel"] & False
    tickets = [lt.Ticket.of(model, m) for m in (lt.Masks(masks), random_masks(model, seed=1))]
    return lt.inspect(*tickets[: 1 + other])


@pytest.mark.parametrize("other", [False, True])
def test_an_svg_names_every_weight(tmp_path, other):
    draw(facts(other), tmp_path / "new" / "a.svg", ("one", "two"))
    # Beside the outlines of each text matplotlib writes it into a comment.
    said = (tmp_path / "new" / "a.svg").read_text()
    for words in ("first/kernel", "second/kernel", "head/kernel", "collapsed", "one"):
        assert f"<!-- {words} -->" in said, words
    assert ("<!-- Jaccard overlap -->" in said) == other
    assert ("<!-- compared with two -->" in said) == other


def test_what_is_not_compared_is_said(tmp_path):
    model = mlp()
    masks = random_masks(model)
    fewer = lt.Masks({name: masks[name] for name in ("first/kernel", "head/kernel")})
    both = lt.inspect(lt.Ticket.of(model, masks), lt.Ticket.of(model, fewer))
    draw(both, tmp_path / "a.svg", ("one", "two"))
    said = (tmp_path / "a.svg").read_text()
    assert "<!-- compared with two, but for second/kernel -->" in said
    total = 100 * fewer.sparsity
    assert f"<!-- ticket: {total:.2f} in total -->" in said
    assert f"<!-- compared: {total:.2f} in total -->" in said and "nan" not in said


def test_a_png(tmp_path):
    draw(facts(), tmp_path / "a.PNG")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["a.PNG"]


def test_other_kinds_of_files(tmp_path):
    with pytest.raises(UsageError, match=r"a picture .png or .svg, got .*a.pdf"):
        draw(facts(), tmp_path / "a.pdf")


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        UsageError, match=r"not installed: install lottery_tf with its extra \[plot"
    ):
        draw(facts(), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
