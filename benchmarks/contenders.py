"""What ``masked_steps.py`` compares: one contender a process.

    python contenders.py NAME DATA_DIR SPARSITY

builds the contender NAME and answers each line of its standard input with a line of JSON. The
first answer comes unasked, when it is built: its settings and versions. A number of steps is
answered when that many have been trained: ``{"seconds": …, "cpu_seconds": …}``. ``finish`` is
answered with what was trained, ``{"sparsity": …, "test_accuracy": …}``, and ends the process.

Run as a script, so that the torch contenders need neither TensorFlow nor lottery_tf: all imports
of a framework are inside functions.
"""

import contextlib
import gzip
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH_SIZE = 60
LEARNING_RATE = 1.2e-3
STEPS_PER_EPOCH = 900  # 54,000 training images; the other 6,000 are lottery_tf's dev split


class Contender(NamedTuple):
    """A network that can be trained on.

    Attributes:
      train: trains the number of steps given, a multiple of an epoch's, from where it stands.
      finish: → (share of zeros in the hidden layers' kernels, accuracy on the test images).
      packages: whose versions are of interest.
      settings: what was decided when it was built.
    """

    train: Callable[[int], None]
    finish: Callable[[], tuple[float, float]]
    packages: tuple[str, ...]
    settings: Mapping[str, Any] = {}


def lottery_tf(data_dir: str, sparsity: float) -> Contender:
    """``lottery-tf find`` of a ticket: its Trainer, its stream, its defaults."""
    return _trainer(data_dir, sparsity)


def dense(data_dir: str, sparsity: float) -> Contender:
    """The same Trainer and stream on the plain model without masks."""
    return _trainer(data_dir, None)


def keras3(data_dir: str, sparsity: float) -> Contender:
    """The same as lottery_tf on a network of Keras 3, with the same defaults."""
    return _trainer(data_dir, sparsity, "keras")


def keras3_dense(data_dir: str, sparsity: float) -> Contender:
    """The same on the plain model of Keras 3 without masks."""
    return _trainer(data_dir, None, "keras")


def _trainer(data_dir: str, sparsity: float | None, keras: str = "tf_keras") -> Contender:
    from lottery_tf.graph.compat import KERASES, keras_of
    from lottery_tf.graph.layers import named_variables
    from lottery_tf.masks.allocate import prune_to
    from lottery_tf.masks.masks import Masks
    from lottery_tf.masks.prunable import prunable_weights
    from lottery_tf.tickets.ticket import Ticket
    from lottery_tf.training.optimizers import make_optimizer
    from lottery_tf.training.settings import TrainingSettings
    from lottery_tf.training.trainer import Trainer
    from lottery_tf.tweaks.recipe import Recipe

    data, model = _data_and_model(data_dir, keras)
    settings = TrainingSettings(optimizer="adam", learning_rate=LEARNING_RATE)
    recipe = Recipe("vanilla")
    if sparsity is not None:
        masks = Masks.ones(prunable_weights(model))
        variables = named_variables(model)
        scores = {name: np.abs(variables[name].numpy()) for name in masks}
        model = Ticket.of(model, prune_to(scores, masks, sparsity)).build()
    trainer = Trainer(
        recipe.prepare(model),
        data.stream,
        data.steps_per_epoch,
        make_optimizer(settings, data.steps_per_epoch, keras_of(model)),
        recipe.loss(),
        settings.jit_compile,
        settings.steps_per_execution,
    )
    trainer.reset(0)

    def finish():
        kernels = [named_variables(model)[f"{name}/kernel"].numpy() for name in _HIDDEN]
        return _zeros(kernels), trainer.evaluate(data.batches("test"))["accuracy"]

    def train(steps):
        trainer.fit(trainer.step + steps)

    chosen = {
        "jit_compile": trainer.model.jit_compile,
        "steps_per_execution": settings.steps_per_execution,
    }
    backend = KERASES["keras"].backend.backend()
    packages = (*_TF_PACKAGES, "keras", *({backend} - {"tensorflow"}))
    return Contender(train, finish, packages, chosen)


def tfmot(data_dir: str, sparsity: float) -> Contender:
    """tfmot as its guide shows it: NumPy arrays in ``model.fit``, UpdatePruningStep, defaults."""
    return _tfmot(data_dir, sparsity, stream=False)


def tfmot_stream(data_dir: str, sparsity: float) -> Contender:
    """tfmot with its defaults but for the batches, which are those of our stream."""
    return _tfmot(data_dir, sparsity, stream=True)


def tfmot_tuned(data_dir: str, sparsity: float) -> Contender:
    """tfmot with what lottery_tf sets by default: our stream, jit_compile, 50 steps a call."""
    return _tfmot(data_dir, sparsity, True, jit_compile=True, steps_per_execution=50)


def _tfmot(data_dir: str, sparsity: float, stream: bool, **settings: Any) -> Contender:
    import tensorflow_model_optimization as stock

    from lottery_tf.graph.compat import keras

    sparsity_api = stock.sparsity.keras
    data, model = _data_and_model(data_dir)
    # One update of the masks, at the first step, in the warm-up: they are frozen from then on.
    schedule = sparsity_api.ConstantSparsity(sparsity, begin_step=1, end_step=1, frequency=1)

    def wrap(layer):
        if layer.name not in _HIDDEN:
            return layer
        return sparsity_api.prune_low_magnitude(layer, pruning_schedule=schedule)

    model = keras.models.clone_model(model, clone_function=wrap)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **settings,
    )
    if stream:
        given = {"x": data.stream(), "steps_per_epoch": data.steps_per_epoch}
    else:
        images = data.normalise(data.train.images)
        given = {"x": images, "y": data.train.labels, "batch_size": BATCH_SIZE}

    def train(steps):
        epochs = steps // data.steps_per_epoch
        callbacks = [sparsity_api.UpdatePruningStep()]
        model.fit(**given, epochs=epochs, callbacks=callbacks, verbose=0)

    def finish():
        stripped = sparsity_api.strip_pruning(model)
        kernels = [stripped.get_layer(name).kernel.numpy() for name in _HIDDEN]
        _, accuracy = model.evaluate(data.batches("test"), verbose=0)
        return _zeros(kernels), accuracy

    return Contender(train, finish, _TF_PACKAGES, settings)


def torch(data_dir: str, sparsity: float) -> Contender:
    """A plain torch loop with OpenLTH's masking: ``param.data *= mask`` before each forward."""
    return _torch(data_dir, sparsity, tuned=False)


def torch_tuned(data_dir: str, sparsity: float) -> Contender:
    """The same at torch's best: fused Adam, as many threads as a trial finds fastest."""
    return _torch(data_dir, sparsity, tuned=True)


def _torch(data_dir: str, sparsity: float, tuned: bool) -> Contender:
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    # All images as one normalised float tensor in memory. Indexing it is faster than a DataLoader.
    pixels = read_idx(data_dir, "train-images-idx3-ubyte").reshape(-1, 784)
    count = STEPS_PER_EPOCH * BATCH_SIZE
    mean, std = pixels[:count].mean(), pixels[:count].std()

    def tensors(images_name, labels_name):
        images = (read_idx(data_dir, images_name).reshape(-1, 784) - mean) / std
        labels = read_idx(data_dir, labels_name).astype(np.int64)
        return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)

    images, labels = tensors("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    images, labels = images[:count], labels[:count]

    class LeNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dense1 = torch.nn.Linear(784, 300)
            self.dense2 = torch.nn.Linear(300, 100)
            self.head = torch.nn.Linear(100, 10)

        def forward(self, x):
            x = functional.relu(self.dense1(x))
            return self.head(functional.relu(self.dense2(x)))

    class PrunedModel(torch.nn.Module):
        """As OpenLTH's ``pruning/pruned_model.py``."""

        def __init__(self, model, masks):
            super().__init__()
            self.model = model
            for name, mask in masks.items():
                self.register_buffer(self.to_mask_name(name), mask.float())
            self._apply_mask()

        @staticmethod
        def to_mask_name(name):
            return "mask_" + name.replace(".", "___")

        def _apply_mask(self):
            for name, param in self.model.named_parameters():
                if hasattr(self, self.to_mask_name(name)):
                    param.data *= getattr(self, self.to_mask_name(name))

        def forward(self, x):
            self._apply_mask()
            return self.model(x)

    network = LeNet()
    kernels = {f"{name}.weight": getattr(network, name).weight.detach() for name in _HIDDEN}
    scores = torch.cat([kernel.abs().flatten() for kernel in kernels.values()])
    threshold = scores.kthvalue(round(sparsity * len(scores))).values
    model = PrunedModel(network, {name: k.abs() > threshold for name, k in kernels.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=tuned or None)
    criterion = torch.nn.CrossEntropyLoss()

    def run(batches):
        model.train()
        for index in batches:
            optimizer.zero_grad()
            criterion(model(images[index]), labels[index]).backward()
            optimizer.step()

    def train(steps):
        for _ in range(steps // STEPS_PER_EPOCH):
            run(torch.randperm(count).split(BATCH_SIZE))

    def seconds(threads):
        torch.set_num_threads(threads)
        run(torch.randperm(count).split(BATCH_SIZE)[:50])
        start = time.perf_counter()
        run(torch.randperm(count).split(BATCH_SIZE)[:200])
        return time.perf_counter() - start

    if tuned:
        torch.set_num_threads(min(range(1, torch.get_num_threads() + 1), key=seconds))

    def finish():
        model.eval()
        test_images, test_labels = tensors("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
        with torch.no_grad():
            right = model(test_images).argmax(1) == test_labels  # the forward pass masks
        return _zeros([k.numpy() for k in kernels.values()]), right.float().mean().item()

    return Contender(train, finish, ("torch", "numpy"), {"threads": torch.get_num_threads()})


CONTENDERS = {
    make.__name__: make
    for make in (
        lottery_tf,
        dense,
        keras3,
        keras3_dense,
        tfmot,
        tfmot_stream,
        tfmot_tuned,
        torch,
        torch_tuned,
    )
}
TORCH = ("torch", "torch_tuned")
# Contender → what KERAS_BACKEND is for it; else they are ``keras3`` and ``keras3_dense``.
BACKENDS = {f"keras3_{it}{end}": it for it in ("jax", "torch") for end in ("", "_dense")}
CONTENDERS |= {name: keras3_dense if name.endswith("_dense") else keras3 for name in BACKENDS}

_HIDDEN = ("dense1", "dense2")
_TF_PACKAGES = ("tensorflow", "tf_keras", "tensorflow_model_optimization", "numpy")


def _data_and_model(data_dir, keras="tf_keras"):
    """The images and a new network, as the flagfile's experiment has them."""
    from lottery_tf import models
    from lottery_tf.data import DataSettings, load
    from lottery_tf.graph.compat import KERASES

    data = load(DataSettings(dataset="idx", data_dir=data_dir, batch_size=BATCH_SIZE))
    if data.steps_per_epoch != STEPS_PER_EPOCH:
        raise ValueError(f"Expected Fashion-MNIST, 60,000 training images, in {data_dir}.")
    KERASES[keras].utils.set_random_seed(0)
    shapes = data.input_shape, data.num_classes
    return data, models.create("lenet_300_100", *shapes, keras=keras)


def read_idx(data_dir: str, name: str) -> np.ndarray:
    """An IDX file of bytes, gzipped or not; what it holds is not checked."""
    path = Path(data_dir) / name
    raw = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _zeros(kernels) -> float:
    return sum(int((kernel == 0).sum()) for kernel in kernels) / sum(k.size for k in kernels)


def _quiet_start(name):
    if name in TORCH:
        return contextlib.nullcontext()
    from lottery_tf.common.stderr import quiet_start

    return quiet_start()


def main(name: str, data_dir: str, sparsity: str) -> None:
    """Serves one contender until its input ends."""
    # Libraries print to standard output; the answers go to a copy of it that only this has.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what):
        print(json.dumps(what), file=answers, flush=True)

    make = CONTENDERS[name]
    with _quiet_start(name):
        contender = make(data_dir, float(sparsity))
    versions = {package: importlib.metadata.version(package) for package in contender.packages}
    versions["python"] = platform.python_version()
    answer(what=make.__doc__, settings=dict(contender.settings), versions=versions)
    for line in sys.stdin:
        if line.strip() == "finish":
            zeros, accuracy = contender.finish()
            answer(sparsity=zeros, test_accuracy=accuracy)
            return
        wall, cpu = time.perf_counter(), time.process_time()
        contender.train(int(line))
        answer(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
