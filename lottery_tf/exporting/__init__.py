"""Exports: files that compute what the trained model computes, and the proof that they do.

A new format is one function that writes it and one entry of ``FORMATS``.
"""

from lottery_tf.exporting.exports import EXPORT, REPORT, export, write_exports
from lottery_tf.exporting.formats import FORMATS, Format
from lottery_tf.exporting.proof import MAX_DIFFERENCE
from lottery_tf.exporting.saved_model import SAVED_MODEL

__all__ = [
    "EXPORT",
    "FORMATS",
    "MAX_DIFFERENCE",
    "REPORT",
    "SAVED_MODEL",
    "Format",
    "export",
    "write_exports",
]
