"""Exports: files that compute what the trained model computes, and the proof that they do.

A new format is one function that writes it and one entry of ``FORMATS``.
"""

from lottery_tf.common.lazy import loads

_WHERE = {
    "EXPORT": "exporting.exports",
    "FORMATS": "exporting.formats",
    "MAX_DIFFERENCE": "exporting.settings",
    "REPORT": "exporting.exports",
    "SAVED_MODEL": "exporting.saved_model",
    "export": "exporting.exports",
    "write_exports": "exporting.exports",
}
__all__ = list(_WHERE)
__getattr__ = loads(__name__, _WHERE)
