"""lottery-tf inspect as its user runs it."""

import json

import numpy as np
import pytest
from networks import chain, layers

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.settings import restore
from lottery_tf.data import DataSettings
from lottery_tf.graph.compat import keras


@pytest.fixture
def saved(tmp_path):
    """(name, mask of four weights) → the folder of a ticket of 2 → 2 → 1."""

    def save(name, mask, *between):
        dense, head = keras.layers.Dense(2, name="d"), keras.layers.Dense(1, name="head")
        model = keras.Sequential([keras.Input((2,)), dense, *between, head])
        lt.Ticket.of(model, lt.Masks({"d/kernel": mask})).save(tmp_path / name)
        return str(tmp_path / name)

    return save


def rows(out, name="d/kernel"):
    """The cells of each row of that name."""
    cells = ([cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines())
    return [row for row in cells if row and row[0] == name]


def test_the_table_and_the_totals(saved, capsys):
    assert main(["inspect", saved("one", [[1, 0], [1, 0]])]) == 0
    out = capsys.readouterr().out
    # The kernel has 8 of the 12 FLOPs.
    assert rows(out) == [["d/kernel", "2×2", "2", "50.00 %", "1 of 2", "66.67 %", "33.33 %"]]
    assert rows(out, "left dense") == [["left dense", *[""] * 4, "33.33 %", "33.33 %"]]
    assert rows(out, "total") == [["total", "", "2", "50.00 %", "", "100.00 %", "66.67 %"]]
    assert "50.00 % of the 4 prunable weights, 22.22 % of all 9 trainable parameters" in out
    assert "FLOPs of one example: 12 dense, 8 if pruned weights cost nothing" in out
    assert "Jaccard" not in out and "collapsed" not in out


def test_a_collapsed_layer(saved, capsys):
    assert main(["inspect", saved("one", np.zeros((2, 2)))]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert row[2:5] == ["0", "collapsed", "2 of 2"]


def test_two_tickets_as_table_json_and_picture(saved, tmp_path, capsys):
    one, other = saved("one", [[1, 0], [1, 0]]), saved("other", [[1, 0], [0, 0]])
    numbers, picture = tmp_path / "out" / "facts.json", tmp_path / "out" / "facts.png"
    words = [f"--compare={other}", f"--json={numbers}", f"--plot={picture}"]
    assert main(["inspect", one, *words]) == 0
    out = capsys.readouterr().out
    assert rows(out)[1] == ["d/kernel", "50.00 %", "75.00 %", "0.500", "0.200"]
    assert rows(out, "total")[1] == ["total", "50.00 %", "75.00 %", "0.500", "0.200"]
    facts = json.loads(numbers.read_text())
    assert (facts["flops_dense"], facts["flops_sparse"], facts["jaccard"]) == (12, 8, 0.5)
    assert facts["weights"][0]["name"] == "d/kernel" and facts["weights"][0]["dead_outputs"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_tickets_with_masks_of_other_layers(saved, tmp_path, capsys):
    """d is compared, the head named; the picture and JSON are written all the same."""
    model = lt.strip(lt.Ticket.load(saved("one", [[1, 0], [1, 0]])).build())
    masks = lt.Masks({"d/kernel": [[1, 0], [0, 0]], "head/kernel": [[0], [1]]})
    lt.Ticket.of(model, masks).save(tmp_path / "two")
    words = [f"--json={tmp_path / 'a.json'}", f"--plot={tmp_path / 'a.png'}"]
    assert main(["inspect", str(tmp_path / "two"), f"--compare={tmp_path / 'one'}", *words]) == 0
    out = capsys.readouterr().out
    assert rows(out, "total")[1] == ["total", "75.00 %", "50.00 %", "0.500", "0.200"]
    assert len(rows(out, "head/kernel")) == 1
    assert "Not compared, since one ticket has no mask there: head/kernel" in out
    assert json.loads((tmp_path / "a.json").read_text())["not_compared"] == ["head/kernel"]
    assert (tmp_path / "a.png").exists()


def test_a_ticket_of_a_run(found, capsys):
    ticket = found / "tickets" / "round_02"
    assert main(["inspect", str(ticket), f"--compare={found / 'tickets' / 'round_01'}"]) == 0
    out = capsys.readouterr().out
    # Round 2 keeps 80 % of what round 1 keeps.
    assert float(rows(out, "total")[1][3]) == pytest.approx(0.8, abs=0.002)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_an_architecture_that_is_not_read_from_a_file(saved, capsys):
    ticket = saved("one", [[1, 0], [1, 0]], keras.layers.Lambda(lambda x: x))
    assert main(["inspect", ticket]) == 0
    out = capsys.readouterr().out
    assert rows(out) == [["d/kernel", "2×2", "2", "50.00 %", "–", "–", "–"]]
    assert "FLOPs: unknown. Expected layers that are data; the model has a Lambda layer" in out


# The signal


def deep():
    """Eight layers of 64 units at 90 % on digits, without a normalisation: nothing comes out."""
    hidden = (
        layers.Dense(64, "relu", kernel_initializer="he_normal", name=f"hidden{i}")
        for i in range(8)
    )
    model = chain(layers.Flatten(), *hidden, layers.Dense(10, name="head"), shape=(8, 8, 1))
    return lt.prune(model, "erk", 0.9)


def test_the_signal_of_a_run(found, tmp_path, capsys):
    """Ticket, dense network and recipe, as table, JSON and picture, on the run's own data."""
    numbers, picture = tmp_path / "a.json", tmp_path / "a.svg"
    words = ["--signal", "--recipe=signal_scaling,soft_activation", "--batches=2"]
    words += ["--soft_activation_share=0.5", f"--json={numbers}", f"--plot={picture}"]
    ticket = found / "tickets" / "round_02"
    assert main(["inspect", str(ticket), *words]) == 0
    out = capsys.readouterr().out
    written = json.loads(numbers.read_text())
    signal = written["signal"]
    assert [row["layer"] for row in signal["layers"]] == ["dense1", "dense2", "head"]
    networks = ["ticket", "dense", "recipe"]
    for row in signal["layers"]:
        cells = [row[what][name] for what in ("activations", "gradient") for name in networks]
        assert rows(out, row["layer"]) == [[row["layer"], *(f"{cell:.3g}" for cell in cells)]]
        assert min(cells) > 0 and len(set(cells)) > 3
    assert list(signal["loss"]) == networks and signal["inputs"] == pytest.approx(1, abs=0.1)
    assert signal["blocked"] == {"ticket": [], "recipe": []}
    assert "No gradient" not in out
    assert "With signal_scaling+soft_activation: the signal reaches every layer." in out
    assert written["weights"][0]["name"] == "dense1/kernel"
    said = picture.read_text()
    for text in ("dense1", "Norm of gradients", "with signal_scaling+soft_activation", "dense"):
        assert f"<!-- {text} -->" in said, text


def test_a_recipe_has_its_own_parameters(found, monkeypatch):
    """Those that the reference's recipe has by itself, but where a flag says otherwise; as
    ``retrain`` has them."""
    seen = []

    def looked_at(recipe, path, experiment):
        seen.append(recipe.describe())
        return lt.Recipe("vanilla")

    monkeypatch.setattr("lottery_tf.cli.inspect.complete_recipe", looked_at)
    words = ["--signal", "--recipe=tost_reference", "--rescaled_init_iterations=7"]
    assert main(["inspect", str(found / "tickets" / "round_01"), *words]) == 0
    expected = lt.Recipe("tost_reference", {"rescaled_init_iterations": 7}).describe()
    assert seen == [expected]
    assert expected["soft_activation"]["beta_start"] == 2


def test_the_numbers_are_those_of_the_first_batches_of_its_training(found, tmp_path):
    path = found / "tickets" / "round_01"
    assert main(["inspect", str(path), "--signal", f"--json={tmp_path / 'a.json'}"]) == 0
    signal = json.loads((tmp_path / "a.json").read_text())["signal"]
    ticket = lt.Ticket.load(path)
    settings = restore(DataSettings, ticket.info["settings"])
    mine = lt.signal(ticket.build(), lt.data.load(settings).stream(5))
    assert signal["loss"]["ticket"] == mine.loss
    assert [row["gradient"]["ticket"] for row in signal["layers"]] == [
        row.gradient for row in mine.layers
    ]


def test_a_ticket_that_will_not_train(tmp_path, capsys, lines):
    """It is from a program: there is no dense network, and the data have to be named."""
    path = tmp_path / "a" / "ticket"
    deep().save(path)
    words = ["--signal", "--dataset=digits", "--recipe=signal_scaling"]
    assert main(["inspect", str(path), *words, f"--json={tmp_path / 'a.json'}"]) == 0
    out = capsys.readouterr().out
    told = "this ticket will not train as it is; signal_scaling would help."
    assert "No gradient reaches hidden" in out and told in out
    assert "With signal_scaling: the signal reaches every layer." in out
    assert f"No dense network to compare with: there is no {tmp_path}/tickets/round_00." in lines
    signal = json.loads((tmp_path / "a.json").read_text())["signal"]
    assert list(signal["loss"]) == ["ticket", "recipe"]
    assert signal["blocked"]["ticket"][-1] == "head" and not signal["blocked"]["recipe"]


SIGNAL_MISTAKES = {
    "no data known": (["--signal"], "say which data its network is trained on; it does not"),
    "other data": (["--signal", "--dataset=digits"], "Expected a model from images (8, 8, 1) to"),
    "a recipe alone": (["--recipe=tost"], "--recipe goes with --signal: add that, or leave"),
    "data alone": (["--batch_size=2"], "--batch_size goes with --signal"),
    "a parameter alone": (["--ghost_skips_share=1"], "--ghost_skips_share goes with --signal"),
    "a parameter of no tweak": (
        ["--signal", "--ghost_skips_share=0.5"],
        "is a parameter of ghost_skips, which is not in --recipe=vanilla",
    ),
    "no batches": (["--signal", "--batches=0"], "Expected --batches of 1 or more, not 0"),
}


@pytest.mark.parametrize("mistake", SIGNAL_MISTAKES)
def test_mistakes_with_the_signal(mistake, saved, capfd):
    words, told = SIGNAL_MISTAKES[mistake]
    assert main(["inspect", saved("one", [[1, 0], [1, 0]]), *words]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lottery-tf inspect: ") and told in message


# What is wrong


MISTAKES = {
    "no ticket": ([], "Expected one ticket, RUN/tickets/round_NN"),
    "two tickets": (["T", "T"], "a second one goes to --compare); got 2"),
    "no such folder": (["/no"], "ticket.json) at /no; there is none"),
    "no such folder to compare": (["T", "--compare=/no"], "ticket.json) at /no; there is none"),
    "another network": (["T", "--compare=OTHER"], "not in both: d/kernel, other/kernel. Compare"),
    "unknown kind of picture": (["T", "--plot=a.pdf"], "--plot takes a file .png or .svg, not 'a"),
    "a place that cannot be": (["T", "--json=T/ticket.json/a.json"], "files that can be written;"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(mistake, saved, tmp_path, capfd):
    words, told = MISTAKES[mistake]
    ticket, other = saved("one", [[1, 0], [1, 0]]), tmp_path / "other"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="other")])
    lt.Ticket.of(model, lt.Masks({"other/kernel": np.ones((2, 2))})).save(other)
    places = {"T": ticket, "--compare=OTHER": f"--compare={other}"}
    words = [places.get(word, word.replace("=T/", f"={ticket}/")) for word in words]
    assert main(["inspect", *words]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lottery-tf inspect: ") and told in message
