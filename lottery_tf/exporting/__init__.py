"""Exports: files that compute what the trained model computes, and the proof that they do.

A new format is one function that writes it and one entry of ``FORMATS``.
"""

from lottery_tf.exporting.formats import FORMATS, Format
from lottery_tf.exporting.proof import MAX_DIFFERENCE
from lottery_tf.exporting.writing import REPORT, export, write_exports

__all__ = ["FORMATS", "MAX_DIFFERENCE", "REPORT", "Format", "export", "write_exports"]
