"""The formats by name, and how exact an export has to be."""

FORMATS = ("saved_model", "tflite", "onnx", "keras")  # exporting.formats has what writes them
# The largest |Δ| of an output that is allowed between the model and its export.
MAX_DIFFERENCE = 1e-5


class CannotHold(Exception):
    """A format has no place for something in the model; the text says what its converter says."""
