"""The tweaks that spend a ticket better, by name.

A new tweak needs its parameters in ``settings``, a module, and a line in PARAMETERS and in TWEAKS.
"""

from lottery_tf.common.lazy import loads

_WHERE = {"TWEAKS": "tweaks.table", "Tweak": "tweaks.tweak"}
__all__ = list(_WHERE)
__getattr__ = loads(__name__, _WHERE)
