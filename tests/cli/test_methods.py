"""lottery-tf find by every method, and from a pruned model's file, on digits."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
from conftest import TINY
from networks import assert_same, chain, layers, random_masks, values

import lottery_tf as lt
from lottery_tf.cli.find import _unused
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines
from lottery_tf.data import DataSettings
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.models import ModelSettings
from lottery_tf.runs import find as stage
from lottery_tf.runs.experiment import load_data
from lottery_tf.runs.folder import load_pruned, load_saved_model
from lottery_tf.runs.settings import Experiment
from lottery_tf.training.settings import TrainingSettings

QUICK = (*TINY, "--train_for=1ep", "--nojit_compile", "--rewind_to=2it")
# Not a step: those of SNIP below go to step 2 as all that are trained do.
UNTRAINED = ["--notrain_tickets", "--rewind_to=0it"]
OF = {
    "imp": ["--prune_fraction=0.9"],
    "omp": [],
    "gmp": ["--gmp_end=15it", "--gmp_frequency=4it", "--regrow", "--steps_per_execution=50"],
    "snip": [],
    "iterative_snip": ["--score_rounds=5", "--score_batches=2", *UNTRAINED],
    "grasp": UNTRAINED,
    "synflow": UNTRAINED,
    "random": UNTRAINED,
    "erk": UNTRAINED,
}
WEIGHTS = 64 * 30 + 30 * 10
TICKET = {"ticket.json", "masks.npz", "weights.npz", "model.json"}


def find(out, method, *words):
    words = ["--sparsity=0.9", *OF[method], *words]
    return main(["find", *QUICK, f"--method={method}", *words, f"--out={out}"])


@pytest.fixture(scope="module")
def snip(tmp_path_factory):
    """A finished run that has trained its tickets."""
    out = tmp_path_factory.mktemp("methods") / "snip"
    assert find(out, "snip") == 0
    return out


@pytest.fixture(scope="module")
def gmp(snip):
    """Likewise."""
    assert find(snip.parent / "gmp", "gmp") == 0
    return snip.parent / "gmp"


@pytest.fixture(scope="module")
def untrained(snip):
    """The same with tickets that were not trained."""
    out = snip.parent / "untrained"
    assert find(out, "snip", "--notrain_tickets") == 0
    return out


def check_run(out, method):
    """What docs/files.md says of a run with a round of pruning."""
    config = read_json(out / "config.json")
    trained = config["train_tickets"]
    names = {".lock", "config.json", "metrics.jsonl", "tickets"}
    names |= {"dense_model"} if trained else set()
    assert {file.name for file in out.iterdir()} == names
    assert (config["command"], config["method"], config["sparsity"]) == ("find", method, 0.9)
    rows = read_json_lines(out / "metrics.jsonl")
    kept = WEIGHTS - round(0.9 * WEIGHTS)
    assert [row["round"] for row in rows] == [0, 1]
    assert [row["sparsity"] for row in rows] == [0, (WEIGHTS - kept) / WEIGHTS]
    for number, row in enumerate(rows):
        measured = {f"{split}_{m}" for split in ("dev", "test") for m in ("loss", "accuracy")}
        names = {"round", "sparsity", "sparsity_total", "seconds", *(measured if trained else ())}
        names |= {"dense_model_sha256"} if trained and number == 0 else set()
        assert row.keys() == names
        folder = out / "tickets" / f"round_{number:02}"
        assert {file.name for file in folder.iterdir()} == TICKET
        record = json.loads((folder / "ticket.json").read_text())
        assert (record["method"], record["round"]) == (method, number)
        begins = 0 if UNTRAINED[1] in OF[method] else 2
        assert (record["rewind_step"], record["sparsity"]) == (begins, row["sparsity"])
    dense, ticket = (lt.Ticket.load(out / "tickets" / f"round_{n:02}") for n in (0, 1))
    assert ticket.masks.kept == kept
    for name, value in ticket.weights.items():
        np.testing.assert_array_equal(value, dense.weights[name] * ticket.masks.get(name, 1))


# IMP's runs are looked at in test_commands.py.
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.e2e if m == "imp" else ()) for m in OF]
)
def test_every_method(method, snip, gmp, tmp_path):
    out = {"snip": snip, "gmp": gmp}.get(method, tmp_path / method)
    assert out.exists() or find(out, method) == 0
    check_run(out, method)


def test_scores_that_are_all_0_leave_what_is_there(tmp_path, monkeypatch, capfd):
    """The run goes on when the method has been mended."""

    def zeros(network):
        return {name: np.zeros(value.shape) for name, value in network.values().items()}

    monkeypatch.setitem(METHODS, "own", dataclasses.replace(METHODS["omp"], score=zeros))
    monkeypatch.setitem(OF, "own", UNTRAINED)
    assert find(tmp_path, "own") == 2
    said = capfd.readouterr().err
    assert "lottery-tf find: own: Expected scores that tell weights apart; those of" in said
    assert "Traceback" not in said
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / "tickets" / "round_00" / "ticket.json" in before
    assert find(tmp_path, "own") == 2
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setitem(METHODS, "own", METHODS["omp"])
    assert find(tmp_path, "own") == 0
    check_run(tmp_path, "own")


def test_no_method_is_left_out():
    assert OF.keys() == {"imp", "gmp", *METHODS}


@pytest.mark.e2e  # as those of IMP are, in test_distilled_runs.py
def test_a_ticket_of_snip_is_taught_by_the_dense_model(snip, tmp_path):
    ticket = snip / "tickets" / "round_01"
    out = tmp_path / "retrained"
    assert main(["retrain", f"--ticket={ticket}", "--recipe=distillation", f"--out={out}"]) == 0
    assert read_json(out / "result.json")["sparsity"] == lt.Ticket.load(ticket).sparsity


def test_tickets_that_are_not_trained(snip, untrained, tmp_path, capfd):
    """The same tickets, nothing measured, and no dense model to distil from."""
    check_run(untrained, "snip")
    for number in (0, 1):
        one, other = (
            lt.Ticket.load(run / "tickets" / f"round_{number:02}") for run in (snip, untrained)
        )
        assert one.masks == other.masks
        assert_same(one.weights, other.weights)
    words = [f"--ticket={untrained}/tickets/round_01", "--recipe=distillation"]
    capfd.readouterr()
    assert main(["retrain", *words, f"--out={tmp_path / 'out'}"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert "dense_model; there is none" in message and "--notrain_tickets" in message
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_left_alone(untrained, capsys):
    before = (untrained / "metrics.jsonl").read_text()
    assert find(untrained, "snip", "--notrain_tickets") == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert (untrained / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("method", "words", "line"),
    [
        ("snip", ["--rounds=3"], "not used by snip: --rounds"),
        ("erk", ["--scope=global", "--regrow"], "not used by erk: --regrow, --scope"),
        ("omp", ["--score_batches=3", "--gmp_end=1ep"], "not used by omp: --gmp_end, --score_"),
        ("synflow", ["--score_batches=3"], "not used by synflow: --score_batches"),
        ("gmp", ["--prune_fraction=0.3"], "not used by gmp: --prune_fraction"),
    ],
)
def test_flags_that_say_nothing_to_a_method(method, words, line, tmp_path, monkeypatch, lines):
    asked = []
    monkeypatch.setattr("lottery_tf.cli.find.run_find", lambda *args: asked.append(args))
    monkeypatch.setattr("lottery_tf.cli.find.say_next", lambda *commands: None)
    assert find(tmp_path / "out", method, *words) == 0
    assert len(asked) == 1 and [each.startswith(line) for each in lines] == [True]
    del lines[:]
    assert find(tmp_path / "out", method) == 0
    assert not lines


def test_flags_that_a_method_uses_are_not_told():
    of_scores = {"scope", "score_rounds", "score_batches"}
    used = {method: of_scores - _unused(method) for method in METHODS}
    assert used == {
        "omp": {"scope"},
        "snip": of_scores,
        "iterative_snip": of_scores,
        "grasp": of_scores,
        "synflow": {"scope", "score_rounds"},
        "random": {"scope", "score_rounds"},
        "erk": {"score_rounds"},
    }


# Structures


@pytest.fixture(scope="module")
def two_of_four(tmp_path_factory):
    """A run of IMP to 2:4, in two rounds."""
    out = tmp_path_factory.mktemp("structures") / "imp"
    assert main(["find", *QUICK, *TWO_OF_FOUR, f"--out={out}"]) == 0
    return out


TWO_OF_FOUR = ("--structure=2:4", "--prune_fraction=0.4", "--rounds=9")


def test_a_run_of_imp_to_two_of_four(two_of_four):
    """The second kernel has 30 inputs, of whose last two both stay."""
    config = read_json(two_of_four / "config.json")
    assert (config["structure"], config["min_kept"], config["sparsity"]) == ("2:4", 0, None)
    rows = read_json_lines(two_of_four / "metrics.jsonl")
    kept = [round((1 - row["sparsity"]) * WEIGHTS) for row in rows]
    assert kept == [WEIGHTS, WEIGHTS - round(0.4 * WEIGHTS), 32 * 30 + 16 * 10]
    assert not (two_of_four / "next_ticket").exists()
    ticket = lt.Ticket.load(two_of_four / "tickets" / "round_02")
    assert ticket.info["structure"] == ticket.info["settings"]["structure"] == "2:4"
    for mask in ticket.masks.values():
        assert max(mask[row : row + 4].sum(0).max() for row in range(0, len(mask), 4)) == 2


def test_it_is_the_same_run_whatever_the_rounds_and_another_with_another_structure(
    two_of_four, capfd
):
    words = ["find", *QUICK, f"--out={two_of_four}", "--prune_fraction=0.4"]
    assert main([*words, "--structure=2:4"]) == 0
    assert "is finished; nothing to do" in capfd.readouterr().out
    assert main([*words, "--structure=1:2"]) == 2
    assert "another: structure is '2:4' there and '1:2' here" in capfd.readouterr().err
    assert main([*words, "--structure=2:4", "--min_kept=1"]) == 2
    assert "another: min_kept is 0 there and 1 here" in capfd.readouterr().err


def test_its_ticket_is_inspected(two_of_four, capfd):
    assert main(["inspect", str(two_of_four / "tickets" / "round_02")]) == 0
    said = capfd.readouterr().out
    assert "dense1/kernel" in said and "50.0" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--structure=2:4", "--sparsity=0.9"], "Expected no --sparsity with --structure=2:4"),
        (["--structure=4x1", "--rounds=1"], "--structure takes unstructured, M:N (M < N stay), "),
        (["--structure=2:4", "--method=erk"], "with --structure=2:4, which makes all layers"),
        (["--rounds=1", "--min_kept=-1"], "Expected --min_kept of 0 or more"),
    ],
)
def test_structures_that_cannot_be(words, told, tmp_path, capfd):
    assert main(["find", *QUICK, *words, f"--out={tmp_path / 'out'}"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lottery-tf find: ") and told in message
    assert not (tmp_path / "out").exists()


# Interrupted runs

EXPERIMENT = Experiment(
    DataSettings(batch_size=64),
    ModelSettings(width=12),
    TrainingSettings(train_for="1ep", optimizer="adam", learning_rate=0.002, jit_compile=False),
)


def test_a_schedule_that_cannot_be_is_told_before_anything_is_trained(tmp_path, capfd):
    assert find(tmp_path / "out", "gmp", "--gmp_begin=15it") == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lottery-tf find: Expected --gmp_begin before --gmp_end")
    assert not (tmp_path / "out").exists()


class Stopped(Exception):
    """In the place of a power cut."""


def stop(*args):
    raise Stopped


@pytest.mark.parametrize("method", ["snip", pytest.param("gmp", marks=pytest.mark.e2e)])
def test_an_interrupted_run_goes_on_at_the_next_round(method, snip, gmp, tmp_path, monkeypatch):
    """Stopped when round 0 is written, or just before: its masks are the same the second time."""
    whole, out = {"snip": snip, "gmp": gmp}[method], tmp_path / method
    if method == "snip":
        shutil.copytree(whole, out)
        rows = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
        (out / "metrics.jsonl").write_text(rows[0])
    else:
        with monkeypatch.context() as patch:
            patch.setattr(stage, "measured", stop)
            assert find(out, method) == 1
        assert not (out / "metrics.jsonl").exists() and (out / "tickets" / "round_01").exists()
    assert find(out, method) == 0
    check_run(out, method)
    one, other = (lt.Ticket.load(run / "tickets" / "round_01") for run in (whole, out))
    assert one.masks == other.masks
    for name, value in one.weights.items():
        np.testing.assert_allclose(value, other.weights[name], rtol=1e-5, atol=1e-7)
    rows = [read_json_lines(run / "metrics.jsonl") for run in (whole, out)]
    for mine, theirs in zip(*rows, strict=True):
        assert mine["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)


# A ticket with an empty layer


def warnings(lines):
    return [line for line in lines if line.startswith("Nothing is left of ")]


def test_a_resumed_run_names_what_its_ticket_has_nothing_of(untrained, tmp_path, lines):
    """The ticket lies in its folder; the round was not finished."""
    out = shutil.copytree(untrained, tmp_path / "run")
    rows = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text(rows[0])
    ticket = lt.Ticket.load(out / "tickets" / "round_01")
    masks = {n: mask & (n != "dense2/kernel") for n, mask in ticket.masks.items()}
    ticket.with_masks(lt.Masks(masks)).save(out / "tickets" / "round_01")
    assert find(out, "snip", "--notrain_tickets") == 0
    (line,) = warnings(lines)
    assert line.startswith("Nothing is left of dense2/kernel at a sparsity of ")


def test_retrain_names_it_too(tmp_path, lines):
    """Before it trains; a finished run has nothing to train."""
    model, path = network(), tmp_path / "ticket"
    lt.Ticket.of(model, lt.Masks({"one/kernel": np.zeros((64, 20))})).save(path)
    words = ["retrain", f"--ticket={path}", "--dataset=digits", *DATA, f"--out={tmp_path / 'run'}"]
    assert main(words) == 0
    told = "Nothing is left of one/kernel at a sparsity of 100.00 %: no signal passes there."
    assert warnings(lines) == [told]
    assert main(words) == 0
    assert warnings(lines) == [told]


# The zeros of a model's file


def network(shape=(8, 8, 1)):
    return chain(
        layers.Flatten(name="flatten"),
        layers.Dense(20, activation="relu", name="one"),
        layers.Dense(10, name="head"),
        shape=shape,
    )


def pruned(kind):
    """(a model with zeros, its masks): stripped, wrapped by us, or by tfmot and dense for now."""
    plain = network()
    every = random_masks(plain, 0.3)
    masks = lt.Masks({"one/kernel": every["one/kernel"]})
    if kind == "ours":
        return lt.wrap(plain, masks), masks
    if kind == "stripped":
        return lt.strip(lt.wrap(plain, masks)), masks
    model = tfmot.sparsity.keras.prune_low_magnitude(plain)
    for layer in model.layers[2:]:
        ((_, mask, _),) = layer.pruning_vars
        mask.assign(np.float32(masks.get(f"{layer.layer.name}/kernel", np.ones(mask.shape))))
    return model, lt.Masks({**masks, "head/kernel": np.ones((20, 10))})


@pytest.mark.parametrize("form", ["saved_model", ".keras", ".h5"])
@pytest.mark.parametrize("kind", ["stripped", "ours", "tfmot"])
def test_files_of_pruned_models(kind, form, tmp_path):
    """A mask counts where there is one; the ticket's weights are 0 where it prunes."""
    model, masks = pruned(kind)
    path = tmp_path / (form if form == "saved_model" else f"model{form}")
    model.save(path)
    ticket = lt.Ticket.from_pruned(load_pruned(path))
    assert ticket.masks == masks
    for name, value in values(model).items():
        np.testing.assert_array_equal(ticket.weights[name], value * masks.get(name, 1))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A finished run on a pruned model's file, rewound to another's weights."""
    folder = tmp_path_factory.mktemp("imported")
    model, masks = pruned("stripped")
    start = network()
    model.save(folder / "pruned.keras")
    start.save(folder / "start.h5")
    words = [f"--model_path={folder}/pruned.keras", f"--rewind_path={folder}/start.h5"]
    assert main(["find", "--method=from_model", *words, *DATA, f"--out={folder}/run"]) == 0
    return folder, model, masks, values(start)


DATA = ("--train_for=1ep", "--batch_size=64", "--learning_rate=0.05", "--nojit_compile")


def test_a_run_from_a_file(imported):
    """One row, measured on the model as it is; the weights are those to rewind to."""
    folder, model, masks, start = imported
    run = folder / "run"
    names = {".lock", "config.json", "metrics.jsonl", "tickets"}
    assert {file.name for file in run.iterdir()} == names
    assert [each.name for each in (run / "tickets").iterdir()] == ["round_01"]
    (row,) = read_json_lines(run / "metrics.jsonl")
    ticket = lt.Ticket.load(run / "tickets" / "round_01")
    assert ticket.masks == masks and row["round"] == ticket.info["round"] == 1
    assert row["sparsity"] == ticket.sparsity == masks.sparsity
    for name, value in ticket.weights.items():
        np.testing.assert_array_equal(value, start[name] * masks.get(name, 1))
    config = read_json(run / "config.json")
    assert config["model"] is None and config["model_sha256"] and config["rewind_sha256"]
    assert ticket.info["rewind_step"] == 0 and ticket.info["method"] == "from_model"
    data = load_data(EXPERIMENT)
    right = model.predict(data.normalise(data.test.images), verbose=0).argmax(1)
    assert row["test_accuracy"] == pytest.approx(np.mean(right == data.test.labels), abs=1e-6)


def test_its_ticket_is_retrained(imported, tmp_path):
    """In the same experiment, without a model of the zoo."""
    folder, _, masks, _ = imported
    ticket, out = folder / "run" / "tickets" / "round_01", tmp_path / "retrained"
    assert main(["retrain", f"--ticket={ticket}", "--recipe=vanilla", f"--out={out}"]) == 0
    result = read_json(out / "result.json")
    assert (result["sparsity"], result["epochs"]) == (masks.sparsity, 1)
    kernel = load_saved_model(out / "model").get_layer("one").kernel.numpy()
    np.testing.assert_array_equal(kernel != 0, masks["one/kernel"])


def test_there_is_no_dense_model_to_distil_from(imported, tmp_path, capfd):
    ticket = imported[0] / "run" / "tickets" / "round_01"
    capfd.readouterr()
    words = [f"--ticket={ticket}", "--recipe=distillation", f"--out={tmp_path / 'out'}"]
    assert main(["retrain", *words]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert "dense_model; there is none" in message and "from_model" in message


def test_the_run_is_known_by_the_files_sums(imported, tmp_path, capfd):
    """Wherever they lie; other files are another run's."""
    folder = imported[0]
    before = (folder / "run" / "config.json").read_text()
    for name in ("pruned.keras", "start.h5"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    words = [f"--model_path={tmp_path}/pruned.keras", f"--rewind_path={tmp_path}/start.h5"]
    words = ["find", "--method=from_model", *words, *DATA, f"--out={folder}/run"]
    assert main(words) == 0
    (tmp_path / "start.h5").write_bytes((folder / "pruned.keras").read_bytes())
    assert main(words) == 2
    assert "belongs to another: rewind_sha256 is" in capfd.readouterr().err
    assert (folder / "run" / "config.json").read_text() == before


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Models that cannot be used, by name."""
    folder = tmp_path_factory.mktemp("files")
    network().save(folder / "dense.keras")
    lt.strip(pruned("ours")[0]).save(folder / "good.keras")
    wide = network((28, 28, 1))
    lt.strip(lt.wrap(wide, random_masks(wide))).save(folder / "wide.keras")
    other = chain(layers.Flatten(), layers.Dense(10, name="tail"), shape=(8, 8, 1))
    other.save(folder / "other.keras")
    # The masks would fit it.
    *first, head = network().layers[1:]
    two = layers.Dense(20, name="two")
    chain(*first, two, head, shape=(8, 8, 1)).save(folder / "deeper.keras")
    (folder / "damaged.keras").write_bytes(b"PK no zip file")
    return folder


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model_path=/no.keras"], "there is none at /no.keras"),
        (["--model_path=F/good.keras", "--rewind_path=/no"], "there is none at /no."),
        (["--model_path=F/damaged.keras"], "that Keras loads"),
        (["--model_path=F/dense.keras"], "none of its 1,280 prunable weights is 0"),
        (["--model_path=F/wide.keras"], "from images (8, 8, 1) to 10 classes"),
        (["--model_path=F/good.keras", "--rewind_path=F/other.keras"], "(one/kernel, one/bias, "),
        (["--model_path=F/good.keras", "--rewind_path=F/deeper.keras"], "or shapes (two/kernel, "),
        (["--model_path=F/good.keras", "--rewind_to=9ep"], "--rewind_to before the end"),
        ([], "--model_path=FILE"),
    ],
)
def test_files_that_cannot_be_used(words, told, files, tmp_path, capfd):
    words = [word.replace("=F/", f"={files}/") for word in words]
    capfd.readouterr()
    out = tmp_path / "out"
    assert main(["find", "--method=from_model", *DATA, *words, f"--out={out}"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lottery-tf find: ") and told in message
    assert not out.exists()


def test_stages_need_no_flags(files, tmp_path):
    """The experiment's own model plays no part."""
    finding = FindingSettings(method="from_model", model_path=str(files / "good.keras"))
    (row,) = stage.find(tmp_path / "run", EXPERIMENT, finding)
    assert stage.find(tmp_path / "run", EXPERIMENT, finding) == [row]
    other = dataclasses.replace(EXPERIMENT, data=DataSettings(batch_size=32))
    with pytest.raises(UsageError, match="belongs to another"):
        stage.find(tmp_path / "run", other, finding)
