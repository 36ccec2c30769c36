"""What a report says first: one sentence a case, and never more than the tests say."""

import re

import pytest
from report_runs import write_run, write_study, write_ticket

from lottery_tf.reporting import answer, report
from lottery_tf.reporting.comparing import SIGNIFICANT
from lottery_tf.reporting.verdict import Comparison, Kind, verdict

A, B, C, D = (Kind(share) for share in (0.75, 0.9, 0.95, 0.98))
IMP, ERK = Kind(0.75, ("imp",)), Kind(0.75, ("erk",))
WIDE = [Kind(0.75, ("imp", "idx fashion_mnist", f"width {width}")) for width in (8, 16, 32, 64)]


def of(recipe, *gains, pairs=5):
    """A recipe's comparisons from (kind, gain in points, p): p None for no test."""
    return [
        Comparison(recipe, kind, points / 100, float("nan") if p is None else p, pairs)
        for kind, points, p in gains
    ]


CASES = {
    "one seed": (
        of("tost", (A, 2, None), pairs=1),
        ["tost is ahead of vanilla, by 2.00 points; with one seed not established."],
    ),
    "two seeds": (
        of("distillation", (A, 0.3, 0.2), (B, 0.8, 0.06), pairs=2),
        [
            "distillation is ahead of vanilla at both sparsities, by 0.30 to 0.80 points; with two "
            "seeds not established."
        ],
    ),
    "established": (
        of("tost", (A, 1, 0.01), (B, 2, 0.049), (C, 3, 0.001)),
        [
            "tost is ahead of vanilla at all three sparsities, by 1.00 to 3.00 points; established "
            "with five seeds."
        ],
    ),
    "at the limit": (
        of("tost", (A, 1, SIGNIFICANT)),
        ["tost is ahead of vanilla, by 1.00 points; with five seeds not established."],
    ),
    "established at one sparsity": (
        of("tost", (A, 1, 0.2), (B, 2, 0.01)),
        [
            "tost is ahead of vanilla at both sparsities, by 1.00 to 2.00 points; established at "
            "90 % only, with five seeds."
        ],
    ),
    "ahead at one sparsity, behind at another": (
        of("tost", (A, -1, 0.01), (B, 2, 0.3)),
        [
            "tost is ahead of vanilla at 90 % and behind at 75 %; established at 75 % only, with "
            "five seeds."
        ],
    ),
    "behind": (
        of("tost", (A, -1, 0.01)),
        ["tost is behind vanilla, by 1.00 points; established with five seeds."],
    ),
    "behind on all kinds of tickets, not established": (
        of("tost", (IMP, -1, 0.5), (ERK, -1, 0.5), pairs=3),
        [
            "tost is behind vanilla on both kinds of tickets, by 1.00 points; with three seeds not "
            "established."
        ],
    ),
    "level": (
        of("tost", (A, 0.004, 0.001)),
        ["tost is level with vanilla; with five seeds not established."],
    ),
    "the same difference for all seeds": (
        of("tost", (A, 1, None), pairs=3),
        [
            "tost is ahead of vanilla, by 1.00 points; there is no test, as the difference is the "
            "same for all seeds."
        ],
    ),
    "long names are counted": (
        of("tost", *((kind, g, 0.2) for kind, g in zip(WIDE, (1, 1, -1, -1), strict=True))),
        [
            "tost is ahead of vanilla on 2 of 4 kinds of tickets and behind on the other two; with "
            "five seeds not established."
        ],
    ),
    "a recipe that was tried on some": (
        of("tost", (A, 1, 0.01), (B, 1, 0.01), (C, 1, 0.01), (D, 2, 0.01))
        + of("other", (A, 0.1, 0.2), (B, 0.1, 0.2), (C, 0.1, 0.2), pairs=2),
        [
            "tost is ahead of vanilla at all four sparsities, by 1.00 to 2.00 points; established "
            "with five seeds.",
            "other is ahead of vanilla at all 3 sparsities that it was tried on, by 0.10 points; "
            "with two seeds not established.",
        ],
    ),
    "what is established goes before what gains more": (
        of("a", (A, 9, 0.5)) + of("b", (A, 1, 0.01)),
        [
            "b is ahead of vanilla, by 1.00 points; established with five seeds.",
            "a is ahead of vanilla, by 9.00 points; with five seeds not established.",
        ],
    ),
    "many recipes": (
        of("a", (A, 1, 0.01), (B, 2, 0.01))
        + of("b", (A, 3, 0.3), (B, 1, 0.01))
        + of("c", (A, -3, 0.01), (B, -1, 0.2))
        + of("d", (A, -3, 0.3), (B, -1, 0.2)),
        [
            "a is ahead of vanilla at both sparsities, by 1.00 to 2.00 points; established with "
            "five seeds.",
            "Also established as ahead: b on 1 of 2.",
            "Established as behind: c on 1 of 2.",
        ],
    ),
    "many recipes, one established": (
        of("a", (A, 1, 0.01)) + [c for n in "bcd" for c in of(n, (A, -1, 0.01))],
        [
            "a is ahead of vanilla, by 1.00 points; established with five seeds.",
            "Established as behind: b, c, d.",
            "No other recipe is established as ahead.",
        ],
    ),
    "many recipes, none established": (
        [c for n in "abcd" for c in of(n, (A, ord(n) / 100 - 0.98, 0.9), pairs=2)],
        [
            "d is ahead of vanilla, by 0.02 points; with two seeds not established.",
            "With two seeds nothing is established about the other three recipes.",
        ],
    ),
    "many recipes, all behind": (
        [c for n in "abcd" for c in of(n, (A, -1, 0.01 if n == "c" else 0.9))],
        ["No recipe is ahead of vanilla.", "Established as behind: c."],
    ),
    "many recipes, all behind, none established": (
        [c for n in "abcd" for c in of(n, (A, -1, None), pairs=1)],
        [
            "No recipe is ahead of vanilla.",
            "With one seed nothing is established about the differences.",
        ],
    ),
    "a recipe without partners": (
        of("tost", (A, 1, 0.01)) + of("other", (A, float("nan"), None), pairs=0),
        [
            "tost is ahead of vanilla, by 1.00 points; established with five seeds.",
            "No gain is known for other: vanilla was not run on the same ticket with the same "
            "seeds and settings.",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_sentences(case):
    comparisons, told = CASES[case]
    assert verdict(comparisons) == told
    for sentence in told:
        assert len(re.findall(r"\S+", sentence)) <= 27


UNKNOWN = of("tost", (A, float("nan"), None), pairs=0)


@pytest.mark.parametrize(
    ("comparisons", "more", "told"),
    [
        ([], {}, "Only vanilla was run, so there is no recipe to compare with it."),
        (
            UNKNOWN,
            {"has_baseline": False},
            "No gain is known: there is no run of vanilla to compare with.",
        ),
        (UNKNOWN, {"tested": False}, "No gain is known: no run was measured on the test images."),
        (
            UNKNOWN,
            {},
            "No gain is known: vanilla was not run on the same ticket with the same seeds and "
            "settings as another recipe.",
        ),
    ],
    ids=["vanilla alone", "no vanilla", "not tested", "no pairs"],
)
def test_where_nothing_can_be_compared(comparisons, more, told):
    assert verdict(comparisons, **more) == [told]


def test_shared_tickets_are_told():
    told = verdict(of("tost", (A, 1, 0.01)), shared_tickets=True)
    assert told[-1] == "Some runs share a ticket, so this says little about other tickets."


def test_another_baseline():
    (told,) = verdict(of("tost", (A, 1, 0.01)), "label_smoothing")
    assert told.startswith("tost is ahead of label_smoothing, by")


# What follows goes from files to the sentences.


def test_of_a_study(tmp_path):
    """2 ± 0.58 points with p = 0.074 each, and so 0.15 when corrected."""
    assert answer(report([write_study(tmp_path, (0.75, 0.9))])) == [
        "tost is ahead of vanilla at both sparsities, by 2.00 points; with three seeds not "
        "established."
    ]


def test_runs_on_one_ticket(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    for seed, gain in enumerate((0.100, 0.101, 0.102)):
        write_run(tmp_path / f"vanilla_{seed}", ticket, test=0.5, seed=seed)
        write_run(tmp_path / f"tost_{seed}", ticket, "tost", 0.5 + gain, seed=seed)
    first, second = answer(report([tmp_path]))
    assert first == "tost is ahead of vanilla, by 10.10 points; established with three seeds."
    assert second.startswith("Some runs share a ticket")


def test_vanilla_is_missing(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    for recipe in ("tost", "distillation"):
        write_run(tmp_path / recipe, ticket, recipe)
    assert "there is no run of vanilla" in " ".join(answer(report([tmp_path])))


def test_rates_of_which_each_recipe_has_its_best(tmp_path):
    """Of tost the second, of vanilla the first, though the other would be better on test images."""
    ticket = write_ticket(tmp_path / "ticket", 0)
    for recipe, rate, dev, test in (
        *(("vanilla", 0.1, 0.8, 0.5), ("vanilla", 0.2, 0.7, 0.9)),
        *(("tost", 0.1, 0.6, 0.9), ("tost", 0.2, 0.7, 0.51)),
    ):
        more = {"learning_rate": rate, "dev_accuracy": dev}
        write_run(tmp_path / f"{recipe}_{rate}", ticket, recipe, test, **more)
    assert answer(report([tmp_path])) == [
        "tost is ahead of vanilla, by 1.00 points; with one seed not established."
    ]
    # None chosen: each rate is a kind of its own, as both recipes share it.
    assert answer(report([tmp_path], tune=())) == [
        "tost is ahead of vanilla at 75 % (learning_rate 0.1) and behind at 75 % (learning_rate "
        "0.2); with one seed not established."
    ]


def test_settings_of_tweaks_make_recipes_and_others_kinds(tmp_path):
    for width in (4, 8):
        ticket = write_ticket(tmp_path / f"ticket_{width}", 0, width=width)
        write_run(tmp_path / f"vanilla_{width}", ticket, width=width)
        for share in (0.2, 0.5):
            tweaks = {"soft_activation": {"share": share}}
            name = tmp_path / f"{width}_{share}"
            test = 0.8 + share / 10 * (1 if share == 0.5 else -1)
            write_run(name, ticket, "soft_activation", test, tweaks=tweaks, width=width)
    assert answer(report([tmp_path])) == [
        "soft_activation (share 0.5) is ahead of vanilla on both kinds of tickets, by 5.00 points; "
        "with one seed not established.",
        "soft_activation (share 0.2) is behind vanilla on both kinds of tickets, by 2.00 points; "
        "with one seed not established.",
    ]
