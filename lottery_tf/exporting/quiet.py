"""Saving and converting without what TensorFlow notes on stderr while it does so."""

import contextlib
import os
import sys
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what the block writes to stderr; exceptions come through.

    The converter writes from C++ past Python's loggers, about settings that are its own.
    """
    logger = tf.get_logger()
    level = logger.level
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        logger.setLevel("ERROR")
        yield
    finally:
        logger.setLevel(level)
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
