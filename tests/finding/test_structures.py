"""Structures of masks by every method: whole runs on small networks, and what is refused."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    examples,
    layers,
    mlp,
    values,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_utils import is_pruned_m_by_n

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.finding.gmp import prune_gradually, schedule
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.layers import assign, named_variables
from lottery_tf.masks.allocate import prune_to
from lottery_tf.masks.kernel_axes import structured
from lottery_tf.training.trainer import Trainer

# Of kernels of 4x6 and 6x5 the units, and what is left of the weights of M:N.
TOGETHER = {
    "block:2x1": (12, 15),
    "block:1x3:max": (8, 12),  # the last blocks of 5 outputs are smaller
    "block:2x3": (4, 6),
    "channel": (6, 5),
}
M_BY_N = {"1:2": (12, 15), "2:4": (12, 20), "1:3": (12, 10)}  # of 6 inputs 2 + 2, of 4 inputs 1 + 1
METHODS_OF_TWO = [method for method in METHODS if METHODS[method].scope is None]


def data():
    """Five batches, an epoch."""
    return tf.data.Dataset.from_tensor_slices(examples(20)).batch(4, drop_remainder=True)


def units(text, shape, mask):
    """The survivors of each unit, by hand."""
    if text == "channel":
        return mask.sum(0)
    height, width = map(int, text.removeprefix("block:").removesuffix(":max").split("x"))
    rows, columns = range(0, shape[0], height), range(0, shape[1], width)
    return np.array([[mask[r : r + height, c : c + width].sum() for c in columns] for r in rows])


def check_structure(text, ticket):
    """Whole units, or groups as tfmot's own check has them."""
    for name, mask in ticket.masks.items():
        if text in M_BY_N:
            m, n = map(int, text.split(":"))
            assert is_pruned_m_by_n(tf.constant(ticket.weights[name]), (n - m, n)), name
        else:
            left, whole = (units(text, mask.shape, each) for each in (mask, np.ones_like(mask)))
            assert ((left == 0) | (left == whole)).all(), name
    assert ticket.info["structure"] == text
    assert_zeros(ticket.build(), ticket.masks)


# Without training


@pytest.mark.parametrize(
    ("method", "text", "scope"),
    [
        *((method, text, "global") for method in METHODS_OF_TWO for text in ("2:4", "channel")),
        *(("omp", text, scope) for text in TOGETHER for scope in ("global", "layerwise", "erk")),
        *(("omp", text, scope) for text in M_BY_N for scope in ("global", "layerwise")),
        *(("erk", text, "global") for text in TOGETHER),
    ],
)
@both_kerases
@pytest.mark.usefixtures("all_eager")
def test_every_method(method, text, scope, its_keras):
    """Counts are exact in units; M:N is reached exactly."""
    model = mlp(its_keras.layers)
    ticket = lt.prune(
        *(model, method, None if text in M_BY_N else 0.4, data()),
        structure=text,
        scope=scope,
        rounds=min(3, METHODS[method].rounds),
        batches=1,
    )
    check_structure(text, ticket)
    kept = [int(mask.sum()) for mask in ticket.masks.values()]
    if text in M_BY_N:
        assert kept == [*M_BY_N[text]]
        return
    counts = [np.count_nonzero(units(text, m.shape, m)) for m in ticket.masks.values()]
    total = TOGETHER[text]
    if scope == "layerwise":
        assert counts == [each - round(0.4 * each) for each in total]
    else:
        assert sum(counts) == sum(total) - round(0.4 * sum(total))


@both_kerases
@pytest.mark.usefixtures("untraced")
def test_convolutions(its_keras):
    """Filters go whole; tfmot's check reads the kernel of a transposed convolution by its last
    channel, the inputs."""
    layers = its_keras.layers
    model = chain(
        layers.Conv2D(4, 3, name="conv"),
        layers.Conv2DTranspose(3, 2, name="transposed"),
        layers.Flatten(),
        layers.Dense(3),
        shape=(5, 5, 8),
    )
    ticket = lt.prune(model, "omp", structure="2:4")
    for name, last in (("conv/kernel", "C_OUT"), ("transposed/kernel", "C_IN")):
        assert ticket.masks[name].mean() == 0.5
        assert is_pruned_m_by_n(tf.constant(ticket.weights[name]), (2, 4), last)
    ticket = lt.prune(model, "omp", 0.5, structure="channel", scope="layerwise")
    magnitudes = {name: np.abs(value) for name, value in values(model).items()}
    filters = magnitudes["conv/kernel"].mean((0, 1, 2))
    kept = ticket.masks["conv/kernel"].all((0, 1, 2))
    assert set(np.flatnonzero(kept)) == set(np.argsort(filters)[-2:])
    assert ticket.masks["transposed/kernel"].any((0, 1, 3)).sum() == 1  # of 3: round(1.5) are gone


@pytest.mark.usefixtures("untraced")
def test_a_masked_model_is_pruned_further_to_two_of_four():
    """Also where more than half is gone already, in several rounds too."""
    for share, rounds in ((0.8, 1), (0.3, 1), (0.3, 3)):
        model = mlp()
        random = np.random.default_rng(0)
        masks = lt.Masks(
            {n: random.random(s) < share for n, s in {"first/kernel": (4, 6),
                                                      "second/kernel": (6, 5)}.items()}
        )  # fmt: skip
        ticket = lt.prune(lt.wrap(model, masks), "omp", structure="2:4", rounds=rounds)
        check_structure("2:4", ticket)
        assert ticket.masks.nested_in(masks)
        for name, mask in masks.items():
            groups = [mask[i : i + 4].sum(0) for i in range(0, len(mask), 4)]
            expected = sum(int(np.minimum(each, 2).sum()) for each in groups)
            assert ticket.masks[name].sum() == expected


def small_first(model):
    """The first kernel's weights are smaller than all others."""
    small = np.linspace(0.001, 0.002, 24, dtype=np.float32).reshape(4, 6)
    assign(model, {**values(model), "first/kernel": small, "second/kernel": np.ones((6, 5))})
    return model


@both_kerases
def test_what_a_layer_keeps_at_least(its_keras, lines):
    model = small_first(mlp(its_keras.layers))
    for least, kept in ((0, 0), (1, 1), (3, 3)):
        masks = lt.prune(model, "omp", 0.5, min_kept=least).masks
        assert [int(mask.sum()) for mask in masks.values()] == [kept, 27 - kept]
        assert (len([line for line in lines if line.startswith("Nothing is left")]) == 1) == (
            not least
        )
        del lines[:]
    masks = lt.prune(model, "omp", 0.6, structure="channel", min_kept=5).masks
    assert [int(mask.sum()) for mask in masks.values()] == [8, 12]  # two channels of each


def test_the_figure_of_a_warning_is_of_channels(lines):
    """Six of eleven have to go before the first layer is empty: 5.5 of 11 round to 6."""
    lt.prune(small_first(mlp()), "omp", 0.6, structure="channel")
    (line,) = [line for line in lines if line.startswith("Nothing is left of ")]
    assert line.endswith(" Up to 49.99 % of the channels each layer keeps a weight.")


def test_channels_that_stay_with_a_score_of_0_are_counted(lines):
    model = chain(layers.Dense(6, name="first"), layers.Dense(3, name="head"))
    kernel = np.zeros((4, 6), np.float32)
    kernel[:, 0] = 1
    kernel[0, 1] = 1  # a weight of 0 beside it is none that hangs on the order
    assign(model, {**values(model), "first/kernel": kernel})
    lt.prune(model, "omp", 0.5, structure="channel")
    assert "omp: 1 of the 3 channels that stay have a score of 0" in "".join(lines)
    del lines[:]
    lt.prune(model, "omp", 0.7, structure="channel")
    assert "score of 0" not in "".join(lines)


# With training


def optimizer(its_keras):
    return its_keras.optimizers.SGD(0.3, momentum=0.9)


def draw(model, its_keras, **settings):
    """An epoch of five steps, rewound to step 1."""
    options = {"optimizer": optimizer(its_keras), "rewind_to": "1it", "epochs": 1}
    return list(lt.find_tickets(model, data(), jit_compile=False, **{**options, **settings}))


def trainer_of(ticket, its_keras):
    return Trainer(
        *(ticket.build(), lambda start: data().repeat().skip(start), 5),
        *(optimizer(its_keras), cross_entropy(its_keras)),
        jit_compile=False,
    )


def magnitudes_of(tickets, its_keras):
    """The trained magnitudes of each ticket, by hand."""
    trainer = trainer_of(tickets[0], its_keras)
    for ticket in tickets:
        assign(trainer.model, ticket.weights)
        lt.set_masks(trainer.model, ticket.masks)
        trainer.reset(1)
        trainer.fit(5)
        yield {name: np.abs(value) for name, value in values(trainer.model).items()}


def one_of_two(magnitudes, masks, number):
    """``masks`` without the ``number`` smallest weights whose pair along the inputs is larger."""
    free = []
    for name, mask in masks.items():
        for row, column in zip(*np.nonzero(mask), strict=True):
            mine, other = magnitudes[name][[row, row ^ 1], column]
            if mask[row ^ 1, column] and mine < other:
                free.append((mine, name, row, column))
    found = {name: mask.copy() for name, mask in masks.items()}
    for _, name, row, column in sorted(free)[:number]:
        found[name][row, column] = False
    return lt.Masks(found)


@pytest.mark.long
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_a_whole_run_of_imp_to_one_of_two(its_keras, lines):
    """54, 38, 27: three tenths of the survivors, and then all that one of two lets go."""
    settings = {"structure": "1:2", "prune_fraction": 0.3, "rounds": 9}
    tickets = draw(mlp(its_keras.layers), its_keras, **settings)
    assert "1:2 has its own end, after 2 rounds of this size; rounds=9 is not used." in lines
    assert [ticket.masks.kept for ticket in tickets] == [54, 38, 27]
    trained = magnitudes_of(tickets[:-1], its_keras)
    for (one, other), magnitudes in zip(itertools.pairwise(tickets), trained, strict=True):
        gone = one.masks.kept - other.masks.kept
        assert other.masks == one_of_two(magnitudes, one.masks, gone)
    assert [each.info.get("structure") for each in tickets] == [None, None, "1:2"]
    check_structure("1:2", tickets[-1])


def largest_channels(magnitudes, masks, number):
    means = {}
    for name, mask in masks.items():
        for channel in np.flatnonzero(mask.any(0)):
            means[name, channel] = magnitudes[name][:, channel].mean()
    found = {name: np.zeros_like(mask) for name, mask in masks.items()}
    for name, channel in sorted(means, key=means.__getitem__)[len(means) - number :]:
        found[name][:, channel] = True
    return lt.Masks(found)


@pytest.mark.long
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_a_whole_run_of_imp_by_channels(its_keras):
    """11 channels, of which 3 go, and then 2."""
    settings = {"structure": "channel", "prune_fraction": 0.3, "rounds": 2}
    tickets = draw(mlp(its_keras.layers), its_keras, **settings)
    trained = magnitudes_of(tickets[:-1], its_keras)
    for one, other, magnitudes, left in zip(tickets, tickets[1:], trained, (8, 6), strict=False):
        assert other.masks == largest_channels(magnitudes, one.masks, left)
        check_structure("channel", other)


@pytest.mark.long
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_imp_to_a_sparsity_of_blocks_with_weights_kept(its_keras):
    """24 + 30 weights are 12 + 15 blocks of two; the last round ends on 27 - 19 = 8 of them."""
    model = small_first(mlp(its_keras.layers))
    settings = {"structure": "block:2x1", "prune_fraction": 0.5, "sparsity": 0.7, "min_kept": 3}
    tickets = draw(model, its_keras, optimizer=its_keras.optimizers.SGD(1e-9), **settings)
    blocks = [sum(int(m[::2].sum()) for m in ticket.masks.values()) for ticket in tickets]
    assert blocks == [27, 13, 8]
    assert tickets[-1].masks["first/kernel"].sum() == 4


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "regrow"), [("1:2", False), ("2:4", True), ("channel", True), ("block:2x3", False)]
)
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_gmp(text, regrow, its_keras):
    """Exact at each update, and at the last one whole, or M of N."""
    sparsity = {} if text in M_BY_N else {"sparsity": 0.5}
    settings = {"gmp_end": "1ep", "gmp_frequency": "2it", "regrow": regrow, **sparsity}
    model = mlp(its_keras.layers)
    dense, ticket = draw(model, its_keras, method="gmp", structure=text, **settings)
    check_structure(text, ticket)
    trainer, masks = trainer_of(dense, its_keras), dense.masks
    trainer.reset(1)
    structure = structured(trainer.model, masks, text)
    updates = schedule(0.0, 0.5, 0, 5, 2)[1:]
    assert [step for step, _ in updates] == [2, 4, 5]
    if regrow:
        masks = prune_gradually(trainer, masks, updates, regrow=True, structure=structure)
    else:
        for step, sparsity in updates:
            before = masks
            masks = prune_gradually(trainer, before, [(step, sparsity)], structure=structure)
            assert masks.nested_in(before)
            left, least = structure.units(masks), 27 if text == "1:2" else 0
            assert left.kept == max(left.total - round(sparsity * left.total), least)
    assert ticket.masks == masks


@pytest.mark.parametrize("text", ["1:2", "channel"])
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_gmp_regrows_whole_units(text, its_keras):
    """What the first update prunes returns at the second, when the others have shrunk."""
    model = mlp(its_keras.layers)
    kernel = np.tile(np.arange(1, 7, dtype=np.float32), (4, 1))
    kernel[::2] += 0.5
    assign(model, {**values(model), "first/kernel": kernel})
    masks = lt.Masks.ones({"first/kernel": (4, 6)})
    trainer = trainer_of(lt.Ticket.of(model, masks), its_keras)
    trainer.reset(0)
    structure = structured(trainer.model, masks, text)
    first = prune_to({"first/kernel": kernel}, masks, 0.5, structure=structure)["first/kernel"]

    class Shrinks(its_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            named_variables(trainer.model)["first/kernel"].assign(0.01 * kernel * first)

    updates = [(0, 0.5), (1, 0.5)]
    last = prune_gradually(
        trainer, masks, updates, regrow=True, callbacks=[Shrinks()], structure=structure
    )["first/kernel"]
    np.testing.assert_array_equal(last, ~first)
    np.testing.assert_array_equal(values(trainer.model)["first/kernel"], kernel * last)


def test_where_m_by_n_ends():
    """M:N ends by itself: rounds of a flagfile say nothing to it, more of them follow nothing."""
    settings = FindingSettings(structure="2:4", rounds=18)
    assert (settings.last_round, settings.target, settings.extendable) == (4, 0.5, False)
    assert FindingSettings(structure="1:4", sparsity=0.75, prune_fraction=0.5).last_round == 2
    assert FindingSettings(structure="1:3", sparsity=0.666667).target == 1 - 1 / 3
    assert FindingSettings(structure="channel", rounds=3).target is None
    assert FindingSettings(method="snip", structure="1:4").target == 0.75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structure": "4x1", "rounds": 1}, "`structure` takes unstructured, M:N .*not '4x1'"),
        ({"structure": "chanel", "rounds": 1}, "nearest: channel"),
        (
            {"structure": "2:4", "sparsity": 0.9},
            "no `sparsity` with `structure=2:4`.* 0.5, not 0.9",
        ),
        (
            {"structure": "2:4", "sparsity": 0.3, "method": "gmp"},
            "which has the sparsity 0.5, not 0.3",
        ),
        ({"structure": "2:4", "method": "erk"}, "not by ERK"),
        ({"structure": "2:4", "scope": "erk"}, "not by ERK"),
        ({"structure": "2:4", "min_kept": 3}, "`min_kept` of at most 2 with `structure=2:4`"),
        (
            {"rounds": 1, "min_kept": -1},
            "`min_kept` of 0 or more weights a layer, a whole number, not -1",
        ),
        ({"structure": "channel"}, "either `rounds` or `sparsity`.* neither"),
        ({"structure": "channel", "method": "snip"}, "`sparsity` with `method=snip`"),
        (
            {"structure": "2:4", "method": "gmp", "gmp_initial_sparsity": 0.6},
            "at most `sparsity=0.5`, not 0.6",
        ),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message) as error:
        FindingSettings(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected `sparsity`, the share of the prunable weights"),
        ({"structure": "channel"}, "Expected `sparsity`"),
        ({"structure": "2:4", "sparsity": 0.6}, "which has the sparsity 0.5, not 0.6"),
        ({"structure": "2:4", "scope": "erk"}, "not by ERK"),
        ({"structure": "2:4", "min_kept": 3}, "at most 2"),
        ({"structure": "two of four"}, "not 'two of four'"),
    ],
)
@both_kerases
def test_mistakes_of_prune(options, message, its_keras):
    with pytest.raises(UsageError, match=message):
        lt.prune(mlp(its_keras.layers), "omp", **options)


@both_kerases
def test_kernels_that_do_not_fit_are_told_before_anything_is_trained(its_keras, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it was trained"))
    layers = its_keras.layers
    model = chain(layers.Reshape((4, 1)), layers.LSTM(3, name="lstm"), layers.Dense(3, name="head"))
    with pytest.raises(UsageError, match="fits, not lstm/kernel, lstm/recurrent_kernel, several"):
        draw(model, its_keras, structure="channel", rounds=1)


def test_the_sparsity_of_m_by_n_is_one_and_the_same_whether_it_is_said_or_not():
    said = FindingSettings(method="omp", structure="2:4", sparsity=0.5)
    assert said == FindingSettings(method="omp", structure="2:4")
    assert said.sparsity is None and said.target == 0.5


def test_of_a_file_there_is_no_structure():
    found = FindingSettings(
        method="from_model", model_path="x", structure="2:4", sparsity=0.9, min_kept=3
    )
    assert (found.structure, found.min_kept, found.target) == ("unstructured", 0, 0.9)
