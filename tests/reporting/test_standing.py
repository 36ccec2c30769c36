"""Which recipe a kind of tickets marks as the first."""

import re

import pytest
from report_runs import write_run, write_ticket

from lottery_tf.reporting import report, reports, write
from lottery_tf.reporting.kinds import parts


def gained(folder, **gains):
    """A report of three seeds of vanilla and recipes, whose gains are in points."""
    for seed in range(3):
        ticket = write_ticket(folder / f"{seed}" / "ticket", seed, 0.488)
        for recipe, points in {"vanilla": (0, 0, 0), **gains}.items():
            own = {"test": 0.8 + 0.01 * seed + points[seed] / 100, "seed": seed}
            write_run(folder / f"{seed}" / recipe, ticket, recipe, **own)
    return report([folder])


def standings(found):
    return {line.recipe: line.standing for part in parts(found) for line in part.lines}


ESTABLISHED, LIKELY, WORSE = (1, 1.1, 1.2), (-1, 1, 2), (-1, -1.1, -1.2)


@pytest.mark.parametrize(
    ("gains", "marked"),
    [
        ({"tost": ESTABLISHED}, {"tost": "best"}),
        ({"tost": LIKELY}, {"tost": "highest mean"}),
        ({"tost": WORSE}, {"vanilla": "best"}),
        ({"tost": (1, -1, -2)}, {"vanilla": "highest mean"}),
        ({"tost": WORSE, "other": (1, -1, -2)}, {"vanilla": "highest mean"}),
        ({"tost": (0, 1, -1)}, {"vanilla": "tie", "tost": "tie"}),
        ({"tost": (0.004, 0, 0.004)}, {"vanilla": "tie", "tost": "tie"}),
        ({"tost": (0.02, 0, 0.01)}, {"tost": "highest mean"}),
        ({"tost": ESTABLISHED, "other": ESTABLISHED[::-1]}, {"tost": "tie", "other": "tie"}),
    ],
)
def test_the_first_is_marked_as_what_it_is(tmp_path, gains, marked):
    unmarked = dict.fromkeys(["vanilla", *gains], "")
    assert standings(gained(tmp_path, **gains)) == unmarked | marked


def test_without_a_baseline_nothing_is_established(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    for recipe, accuracy in (("tost", 0.9), ("other", 0.80001), ("third", 0.8)):
        write_run(tmp_path / recipe, ticket, recipe, accuracy)
    assert standings(report([tmp_path])) == {"tost": "highest mean", "other": "", "third": ""}
    write_run(tmp_path / "fourth", ticket, "fourth", 0.90001)
    found = standings(report([tmp_path]))
    assert {name for name, standing in found.items() if standing == "tie"} == {"tost", "fourth"}


@pytest.mark.parametrize(
    ("gains", "told", "bold"),
    [
        (LIKELY, "highest mean: tost (+0.67)", 0),
        (ESTABLISHED, "best: tost +1.10", 1),
        ((0, 1, -1), "tie: vanilla, tost (+0.00)", 0),
    ],
)
def test_the_page_looks_as_what_is_established(tmp_path, monkeypatch, gains, told, bold):
    monkeypatch.setattr(reports, "draw", lambda figure, title: {})
    write(gained(tmp_path / "runs", tost=gains), tmp_path / "page.html", flops=False)
    page = (tmp_path / "page.html").read_text()
    assert f"<span>{told}</span>" in page
    badges = re.findall(r'<td class="recipe" data-standing="([^"]*)"', page)
    assert badges == [told.partition(":")[0]] * (2 if "tie" in told else 1)
    assert len(re.findall(r'<tr class="[^"]*best"', page)) == bold
