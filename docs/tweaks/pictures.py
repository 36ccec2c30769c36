"""The pictures of the tweaks' pages, drawn from what the library computes.

Writes signal_scaling.svg, soft_activation.svg, ghost_skips.svg, rescaled_init.svg,
label_smoothing.svg and distillation.svg; the same each time on one machine. A minute on two cores.
Needs the extra [plot].

    python docs/tweaks/pictures.py [--out=docs/tweaks]
"""

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.training.trainer import make_deterministic
from lottery_tf.tweaks.fade import Schedule
from lottery_tf.tweaks.rescaled_init import find_scales
from lottery_tf.tweaks.settings import CURVES
from lottery_tf.tweaks.soft_activation import SoftReLU

# Colours that colour-blind readers can tell.
BLUE, RED, GREEN, ORANGE, GREY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#777777"
STYLES = dict(zip(CURVES, ((BLUE, "-"), (RED, "--"), (GREEN, "-.")), strict=True))
layers = keras.layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    make_deterministic()
    plt.rcParams |= {"svg.hashsalt": "lottery_tf", "axes.titlesize": "medium", "font.size": 10}
    pictures = (signal_scaling, soft_activation, ghost_skips)
    for picture in (*pictures, rescaled_init, label_smoothing, distillation):
        keras.utils.set_random_seed(0)
        figure = picture()
        figure.savefig(out / f"{picture.__name__}.svg", metadata={"Date": None})
        plt.close(figure)


def signal_scaling() -> plt.Figure:
    """The second moment of what each layer of a deep chain gives: dense, ticket, scaled."""
    depth, width, sparsity, draws = 12, 64, 0.95, 10
    hidden = [
        layers.Dense(width, "relu", kernel_initializer="he_normal", name=f"hidden{i}")
        for i in range(depth)
    ]
    x = np.random.default_rng(0).standard_normal((512, width)).astype(np.float32)
    lines = {"dense": (GREY, ":"), "ticket": (RED, "--"), "ticket, scaled": (BLUE, "-")}
    found = {label: np.zeros((draws, depth)) for label in lines}
    for draw in range(draws):
        keras.utils.set_random_seed(draw)
        fresh = [layers.Dense.from_config(each.get_config()) for each in hidden]
        model = keras.Sequential([keras.Input((width,)), *fresh, layers.Dense(10)])
        ticket = lt.prune(model, "random", sparsity, scope="layerwise", seed=draw).build()
        networks = (model, ticket, lt.SignalScaling().prepare(ticket))
        for label, network in zip(lines, networks, strict=True):
            z = x
            for i, layer in enumerate(network.layers[:depth]):
                z = layer(z)
                found[label][draw, i] = np.log10(np.mean(np.square(z)))
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    numbers = np.arange(1, depth + 1)
    for label, (colour, style) in lines.items():
        middle, spread = found[label].mean(0), found[label].std(0, ddof=1)
        axes.plot(numbers, 10**middle, style, color=colour, label=label)
        axes.fill_between(
            numbers, 10 ** (middle - spread), 10 ** (middle + spread), color=colour, alpha=0.15
        )
    axes.set(yscale="log", xlabel="layer", ylabel="second moment of its output", xticks=numbers)
    axes.set_title(f"A chain of width {width}, {draws} random masks of {100 * sparsity:.0f} %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower left")
    return figure


def soft_activation() -> plt.Figure:
    """The units, and β over the training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    x = np.linspace(-4, 1.5, 276, dtype=np.float32)
    keep = {"keep_signal": lt.SoftActivation().keep_signal}
    units = {
        "PSwish, β = 1 (Swish)": (SoftReLU("pswish", start=1.0, **keep), BLUE, "-"),
        "PSwish, β = 3": (SoftReLU("pswish", start=3.0, **keep), RED, "-"),
        "PSwish, β = 10": (SoftReLU("pswish", start=10.0, **keep), GREEN, "-"),
        "Mish": (SoftReLU("mish", start=0.0, end=1.0, **keep), ORANGE, "--"),
    }
    for label, (unit, colour, style) in units.items():
        left.plot(x, unit(x), style, color=colour, label=label)
    faded = SoftReLU()
    faded.build(x.shape)
    faded.length.assign(0)
    left.plot(x, faded(x), ":", color="black", label="ReLU")
    left.set(xlabel="x", ylabel="output", ylim=(-0.4, 1.2), title="Soft units and ReLU")
    left.legend(frameon=False)

    tweak, shares = lt.SoftActivation(), np.linspace(0, 1, 201)
    for curve, (colour, style) in STYLES.items():
        schedule = Schedule(tweak.beta_start, tweak.beta_end, curve)
        values = [schedule.at(share / tweak.share) for share in shares[shares <= tweak.share]]
        right.plot(shares[shares <= tweak.share], values, style, color=colour, label=curve)
    right.axvspan(tweak.share, 1, color=GREY, alpha=0.15, linewidth=0)
    right.text((1 + tweak.share) / 2, tweak.beta_end / 2, "ReLU", ha="center", va="center")
    right.set(xlabel="share of the training", ylabel="β", xlim=(0, 1))
    right.set_title("PSwish's β, by --soft_activation_curve")
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def ghost_skips() -> plt.Figure:
    """A skip at three moments, and α over the training."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.6, 3.4), width_ratios=(1.25, 1), layout="constrained"
    )
    # As in a chain; beside a shortcut it begins at a tenth of that.
    tweak, shares = lt.GhostSkips(alpha=1.0), np.linspace(0, 1, 401)
    for row, share in enumerate((1.0, 0.5, 0.0)):
        _draw_skip(left, -2.6 * row, share, tweak.alpha)
    left.set(xlim=(-0.5, 10.6), ylim=(-5.9, 1.8), aspect="equal")
    left.set_title("A ghost skip at the first step, half-way and gone")
    left.axis("off")
    for curve in ("linear", "cosine"):
        colour, style = STYLES[curve]
        schedule = Schedule(tweak.alpha, 0.0, curve)
        values = [schedule.at(share / tweak.share) for share in shares]
        right.plot(shares, values, style, color=colour, label=curve)
    right.axvspan(tweak.share, 1, color=GREY, alpha=0.15, linewidth=0)
    right.text((1 + tweak.share) / 2, tweak.alpha / 2, "no skips", ha="center", va="center")
    right.set(xlabel="share of the training", ylabel="α", xlim=(0, 1))
    right.set_title("α, by --ghost_skips_curve")
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    return figure


def _draw_skip(axes: plt.Axes, y: float, share: float, start: float) -> None:
    """x → conv → BN → + → ReLU, with a skip as visible as the ``share`` left of α at the start."""
    # Name → its middle and half of its width.
    boxes = {"x": (0, 0.3), "conv": (2.2, 0.8), "BN": (4.5, 0.6)}
    boxes |= {"+": (6.5, 0.35)} if share else {}
    boxes |= {"ReLU": (8.5, 0.85), "": (10.4, 0)}
    shape = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "black"}
    arrow = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    for (name, (place, half)), (_, (after, width)) in itertools.pairwise(boxes.items()):
        axes.text(place, y, name, ha="center", va="center", bbox=None if name == "x" else shape)
        axes.annotate("", (after - width, y), (place + half, y), arrowprops=arrow)
    if share:
        curved = arrow | {"color": BLUE, "linewidth": 2, "alpha": share, "linestyle": "--"}
        curved["connectionstyle"] = "arc3,rad=-0.28"
        axes.annotate("", (6.5, y + 0.42), (0, y + 0.35), arrowprops=curved)
        axes.text(3.25, y + 0.85, "α·S(x)", ha="center", va="center", color=BLUE)
    axes.text(8.5, y + 1.0, f"α = {share * start:g}", ha="center", va="center")


def rescaled_init() -> plt.Figure:
    """The scales of a small convolutional ticket on scikit-learn's digits."""
    x, y = _digits()
    data = tf.data.Dataset.from_tensor_slices((x.reshape(-1, 8, 8, 1), y))
    data = data.shuffle(2000, seed=0).batch(64, drop_remainder=True)
    inputs = keras.Input((8, 8, 1))
    z = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(inputs)
    z = layers.ReLU()(layers.BatchNormalization(name="norm1")(z))
    z = layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="conv2")(z)
    z = layers.ReLU()(layers.BatchNormalization(name="norm2")(z))
    z = layers.Dense(32, "relu", name="hidden")(layers.Flatten()(z))
    model = keras.Model(inputs, layers.Dense(10, name="head")(z))
    adam = keras.optimizers.Adam()
    ticket = lt.find_ticket(model, data, optimizer=adam, epochs=2, sparsity=0.9, prune_fraction=0.5)
    found = find_scales(ticket.build(), data)
    # A tensor that is 0 keeps the scale 1: nothing to see.
    shown = {name: round(c, 3) for name, c in found.scales.items() if np.any(ticket.weights[name])}
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    places = np.arange(len(shown))[::-1]
    axes.barh(places, list(shown.values()), color=BLUE)
    for place, scale in zip(places, shown.values(), strict=True):
        axes.text(scale, place, f" {scale:.2f}", va="center")
    axes.axvline(1, color="black", linestyle=":")
    axes.margins(x=0.1)
    axes.set_yticks(places, list(shown))
    before, after = found.loss
    axes.set_xlabel("scale c of the tensor; those that are 0 (new biases) keep 1")
    axes.set_title(
        f"A convolutional ticket at {100 * ticket.sparsity:.0f} % on digits: loss after the first "
        f"step {before:.2f} → {after:.2f}"
    )
    return figure


def label_smoothing() -> plt.Figure:
    """The targets with and without, which are softmax(z) less the loss's gradient by z."""
    tweak, classes, true = lt.LabelSmoothing(), 10, 3
    logits = tf.Variable(tf.zeros((1, classes)))
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    losses = {"one-hot": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    losses[f"ε = {tweak.epsilon:g}"] = tweak.loss()
    for i, ((label, loss), colour) in enumerate(zip(losses.items(), (GREY, BLUE), strict=True)):
        with tf.GradientTape() as tape:
            value = loss(tf.constant([true]), logits)
        (target,) = (tf.nn.softmax(logits) - tape.gradient(value, logits)).numpy()
        bars = axes.bar(
            np.arange(classes) + 0.4 * (i - 0.5), target, 0.4, color=colour, label=label
        )
        shown = [f"{each:.3g}" if i or each > 0.5 else "" for each in target]
        axes.bar_label(bars, shown, fontsize="small", color=colour)
    axes.set_xticks(range(classes))
    axes.set(xlabel="class", ylabel="target", ylim=(0, 1.12))
    axes.set_title(f"The target of an example of class {true}, {classes} classes")
    axes.legend(frameon=False)
    return figure


def distillation() -> plt.Figure:
    """What a teacher says of one digit that it did not see in training."""
    tweak, (x, y) = lt.Distillation(), _digits()
    teacher = keras.Sequential(
        [keras.Input((64,)), layers.Dense(100, "relu"), layers.Dense(100, "relu"), layers.Dense(10)]
    )
    teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(x[:1500], y[:1500], epochs=10, verbose=0)
    logits = teacher(x[1500:])
    right = np.argmax(logits, 1) == y[1500:]
    # One of which it is not quite sure.
    second = np.where(right, np.sort(tf.nn.softmax(logits), 1)[:, -2], 0)
    place = int(np.argmin(np.abs(second - 0.2)))
    figure, (image, axes) = plt.subplots(
        1, 2, figsize=(8, 3), width_ratios=(1, 3.2), layout="constrained"
    )
    image.imshow(x[1500 + place].reshape(8, 8), cmap="gray_r")
    image.set(xticks=[], yticks=[], title=f"A digit {y[1500 + place]}")
    for i, (tau, colour) in enumerate(((1, GREY), (tweak.temperature, BLUE))):
        soft = np.round(tf.nn.softmax(logits[place] / tau), 3)
        axes.bar(np.arange(10) + 0.4 * (i - 0.5), soft, 0.4, color=colour, label=f"τ = {tau:g}")
    axes.set_xticks(range(10))
    axes.set(xlabel="class", ylabel="softmax(z/τ)", title="What its teacher says of it")
    axes.legend(frameon=False)
    return figure


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: float32 [1797, 64] in [0, 1], and labels."""
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


if __name__ == "__main__":
    main()
