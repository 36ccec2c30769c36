"""A recipe of several tweaks has one spelling wherever people read it."""

import re

import pytest
from plotly.offline import get_plotlyjs
from report_runs import FADES, write_run, write_ticket

from lottery_tf.cli.main import main
from lottery_tf.reporting import reports
from lottery_tf.tweaks.settings import as_read


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        *(("vanilla", "vanilla"), ("tost,distillation", "tost+distillation")),
        *(("tost, mine", "tost+mine"), ("tost+mine", "tost+mine")),
        *(("epsilon 0.1, 5 epochs", "epsilon 0.1, 5 epochs"), ("64,32", "64,32"), ("", "")),
    ],
)
def test_names_are_joined_and_labels_are_left(recipe, words):
    assert as_read(recipe) == words


def test_tweaks_of_a_recipe_are_joined_by_plus_wherever_people_read(tmp_path, monkeypatch, capfd):
    """The files that programs read have commas, as config.json has."""
    monkeypatch.setattr(reports, "draw", lambda figure, title: {})
    both, three = "label_smoothing,soft_activation", "label_smoothing,soft_activation,ghost_skips"
    for seed in range(2):
        for sparsity in (0.75, 0.9):
            folder = tmp_path / "runs" / f"{seed}_{sparsity}"
            ticket = write_ticket(folder / "ticket", seed, sparsity)
            for recipe, gain in ((both, 0.0), (three, 0.01 + 0.001 * seed)):
                for rate in (0.1, 0.2):
                    own = {"tweaks": FADES, "learning_rate": rate}
                    write_run(folder / f"{recipe}_{rate}", ticket, recipe, 0.8 + gain, seed, **own)
    words = ["report", str(tmp_path / "runs"), "--baseline=label_smoothing,soft_activation"]
    assert main([*words, f"--out={tmp_path / 'page.html'}", "--noflops"]) == 0
    out, err = capfd.readouterr()
    page = (tmp_path / "page.html").read_text().replace(get_plotlyjs(), "")
    page = re.sub(r'<wbr>|data-value="[^"]*"', "", page)  # what is sorted by is not read
    tables = [
        (tmp_path / "page" / f"{name}.md").read_text() for name in ("table", "tuned", "pooled")
    ]
    for text in (out, page, *tables):
        assert "label_smoothing,soft" not in text and "soft_activation,ghost" not in text
        assert "label_smoothing+soft_activation" in text
    assert both not in err
    assert f'"{both}"' in (tmp_path / "page" / "table.csv").read_text()
    assert main([*words[:2], "--baseline=label_smoothing+soft_activatio"]) == 2
    said = capfd.readouterr().err
    assert "got 'label_smoothing+soft_activatio'; nearest: label_smoothing+soft_activation" in said
