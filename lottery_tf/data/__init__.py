"""Datasets: ``load`` reads one into memory, splits it, and says how it is normalised.

A new dataset is a function ``data_dir -> Source`` and one line in ``readers.READERS``. What else is
known of each dataset stands beside that table.
"""

from lottery_tf.common.lazy import loads

_WHERE = {
    "AUGMENTED": "data.readers",
    "READERS": "data.readers",
    "DataSettings": "data.settings",
    "Dataset": "data.dataset",
    "Source": "data.source",
    "Split": "data.source",
    "content_sha256": "data.loading",
    "load": "data.loading",
}
__all__ = list(_WHERE)
__getattr__ = loads(__name__, _WHERE)
