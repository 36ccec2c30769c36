"""Trainers of a model with one weight."""

import numpy as np
import tensorflow as tf

from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.training.trainer import Trainer


def small_trainer(**options):
    """A model of one weight and batches that hold the number of their step; without XLA."""
    options.setdefault("jit_compile", False)
    seen = []

    def stream(start):
        def batches():
            step = start
            while True:
                seen.append(step)
                yield np.full((1, 1), step, np.float32), np.zeros((1, 1), np.float32)
                step += 1

        spec = tf.TensorSpec((1, 1), tf.float32)
        return tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))

    k = options.pop("its_keras", keras)
    kind = options.pop("kind", k.Sequential)
    model = kind([k.Input((1,)), k.layers.Dense(1, use_bias=False, name="one")])
    optimizer = options.pop("optimizer", None) or k.optimizers.SGD(1e-3, 0.9)
    return Trainer(model, stream, 5, optimizer, "mse", metrics=(), **options), seen


class Steps:
    """Where a trainer stands after each epoch, and after those that look at dev images."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.epochs, self.looks = [], []

    def callback(self):
        callbacks = keras_of(self.trainer.model).callbacks
        return callbacks.LambdaCallback(on_epoch_end=self.on_epoch_end)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.trainer.step)
        if "val_loss" in logs:
            self.looks.append(self.epochs[-1])
