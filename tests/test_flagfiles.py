"""Each file of flags/ is an experiment: its flags parse, its model is built and takes steps."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import lottery_tf as lt
from lottery_tf import data
from lottery_tf.cli.flags import parse
from lottery_tf.cli.settings import FIND
from lottery_tf.data import DataSettings, Source, Split
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.wrapper import all_kept
from lottery_tf.runs.experiment import create_model, load_data
from lottery_tf.runs.settings import Experiment
from lottery_tf.training.optimizers import learning_rate_schedule, make_optimizer
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
FLAGFILES = sorted(path.stem for path in (ROOT / "flags").glob("*.cfg"))
# Shape of an image, classes, training examples.
SHAPES = {
    "digits": ((8, 8, 1), 10, 1_438),
    "idx": ((28, 28, 1), 10, 60_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000),
}
NETWORKS = ("resnet18", "resnet34", "vgg16", "mobilenet")
GRID = [f"{dataset}_{net}" for dataset in list(SHAPES)[2:] for net in NETWORKS]


def flags_of(name: str, *more: str):
    return parse([f"--flagfile={ROOT / 'flags' / name}.cfg", "--data_dir=DIR", *more], FIND)


def experiment_of(name: str, *more: str) -> Experiment:
    flags = flags_of(name, *more)
    return Experiment(*(flags.settings(owner) for owner in Experiment.owners()))


def test_the_paper_s_grid_is_whole():
    assert set(GRID) <= set(FLAGFILES)
    for name in GRID:
        experiment = experiment_of(name)
        assert f"{experiment.data.dataset}_{experiment.model.model}" == name


@pytest.mark.parametrize("name", GRID)
def test_the_grid_is_trained_by_the_paper_s_protocol(name):
    experiment, finding = experiment_of(name), flags_of(name).settings(FindingSettings)
    dataset, _, network = name.rpartition("_")
    first = "random" if dataset == "tiny_imagenet" else "first"
    assert experiment.data == DataSettings(dataset, "DIR", dev_share=0.1, dev_split=first)
    assert experiment.data.batch_size == 128
    # The others' layers are convolutions and dense ones.
    kinds = ("conv", "depthwise") if network == "mobilenet" else PrunableSettings.prune_layers
    assert experiment.prunable == PrunableSettings(kinds, keep_dense=("last",))
    assert experiment.model.width is None
    assert finding == FindingSettings(rewind_to="4ep", prune_fraction=0.2, rounds=18)
    training = experiment.training
    assert training == TrainingSettings(
        train_for="182ep",
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=2e-4,
        schedule="step",
        milestones=("90ep", "135ep"),
        decay=0.1,
    )
    rates = learning_rate_schedule(training, 10)
    ends = [float(rates(step)) for step in (0, 899, 900, 1349, 1350, 1819)]
    np.testing.assert_allclose(ends, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def prepared(name, monkeypatch, *more):
    """The experiment, a data set of an image a class for it, and its model."""
    shape, classes, _ = SHAPES[experiment_of(name).data.dataset]
    kept = ["--dev_share=0", f"--train_examples={classes}", "--batch_size=2", f"--data_dir={ROOT}"]
    experiment = experiment_of(name, *kept, *more)
    random = np.random.default_rng(0)

    def read(data_dir):
        images = random.integers(0, 256, (classes, *shape), np.uint8)
        examples = Split(images, np.arange(classes, dtype=np.int32))
        return Source(examples, examples, classes)

    monkeypatch.setitem(data.READERS, experiment.data.dataset, read)
    settings = flags_of(name).settings(FindingSettings)
    dataset = load_data(experiment)
    last = experiment.training.steps(dataset.steps_per_epoch)
    assert settings.rewind_step(dataset.steps_per_epoch, last) >= 0
    model = create_model(experiment, dataset)
    assert (model.input_shape, model.output_shape) == ((None, *shape), (None, classes))
    return experiment, dataset, model


# What a network does with images of one data set it does with those of the others.
TRAINED = [
    *((name, ()) for name in FLAGFILES if name not in (*GRID, "fashion_mnist_resnet20")),
    *((f"cifar10_{net}", ("--width=4",)) for net in ("resnet18", "vgg16")),
]
AT_LENGTH = [
    *((name, ()) for name in ("fashion_mnist_resnet20", "cifar10_resnet18")),
    *((name, ("--width=4",)) for name in GRID if (name, ("--width=4",)) not in TRAINED),
]


# The networks of CIFAR-100 are those of CIFAR-10.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.e2e if name.startswith("cifar100") else ())
        for name in sorted({*FLAGFILES} - {name for name, _ in TRAINED})
    ],
)
def test_a_model_of_images_of_the_true_shape(name, monkeypatch):
    experiment, dataset, model = prepared(name, monkeypatch, "--width=2")
    assert prunable_weights(model, experiment.prunable)
    make_optimizer(experiment.training, dataset.steps_per_epoch).build(model.trainable_variables)


@pytest.mark.parametrize(
    ("name", "more"),
    [*TRAINED, *(pytest.param(*case, marks=pytest.mark.e2e) for case in AT_LENGTH)],
)
def test_two_steps_on_images_of_the_true_shape(name, more, monkeypatch):
    experiment, dataset, model = prepared(name, monkeypatch, *more)
    ticket = lt.Ticket.of(model, all_kept(model, experiment.prunable))
    recipe = lt.Recipe("vanilla")
    built = recipe.prepare(ticket.build())
    before = [np.array(variable) for variable in built.trainable_variables]
    optimizer = make_optimizer(experiment.training, dataset.steps_per_epoch)
    trainer = Trainer(built, dataset.stream, dataset.steps_per_epoch, optimizer, recipe.loss())
    built.run_eagerly = True  # two steps are not worth the tracing
    trainer.fit(2)
    assert trainer.step == 2
    for variable, value in zip(built.trainable_variables, before, strict=True):
        assert np.isfinite(variable).all() and not np.array_equal(variable, value), variable.name


# Each data set once; the others, too, take a network of full size.
COSTED = ("cifar10_resnet18", "cifar100_vgg16", "tiny_imagenet_mobilenet")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in COSTED else pytest.mark.e2e) for n in GRID]
)
def test_the_page_and_the_head_say_what_the_network_costs(name):
    experiment = experiment_of(name)
    shape, classes, examples = SHAPES[experiment.data.dataset]
    model = lt.models.create(experiment.model.model, shape, classes)
    flops = sum(lt.count_flops(model).values())
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    # docs/paper.md: forward and backward, 15 TFLOP/s, 1/15,000 s more an image.
    hours = 182 * 0.9 * examples * (3 * flops / 15e12 + 1 / 15_000) / 3600
    page = (ROOT / "docs" / "paper.md").read_text()
    (row,) = (line for line in page.splitlines() if f"[{name}](" in line)
    assert f"| {weights:,} | {flops / 1e9:.2f} | {hours:.1f} |" in row
    head = (ROOT / "flags" / f"{name}.cfg").read_text()
    assert float(re.search(r"About ([\d.]+) hours a training", head)[1]) == round(hours, 1)


def test_mobilenet_s_depthwise_kernels_are_pruned_with_the_rest():
    experiment = experiment_of("cifar10_mobilenet")
    model = lt.models.create("mobilenet", (32, 32, 3), 10, width=2)
    names = prunable_weights(model, experiment.prunable)
    assert sum("depthwise" in name for name in names) == 13 and len(names) == 13 + 13 + 1


def test_the_paper_s_grid_has_a_cell_a_row():
    grid = yaml.safe_load((ROOT / "flags" / "paper.yaml").read_text())
    assert grid["cells"] == {name: {"flagfile": f"{name}.cfg"} for name in GRID}
