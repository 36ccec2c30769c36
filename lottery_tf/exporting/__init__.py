"""Exports: files that compute what the trained model computes, and the proof that they do.

docs/architecture.md says what a new format takes.
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
