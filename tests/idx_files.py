"""Small data sets in MNIST's format."""

import numpy as np


def write_idx(folder, **splits):
    """Writes ``train`` and ``t10k``, each (images [N, H, W], labels [N]) of whole numbers below
    256, as the four IDX files of a folder."""
    for split, arrays in splits.items():
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{split}-{kind}-ubyte").write_bytes(
                header + array.astype(np.uint8).tobytes()
            )
