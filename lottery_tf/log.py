"""The library's logger: one line a message on stderr, silenced as any other logger."""

import logging

log = logging.getLogger("lottery_tf")
if not log.handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(_handler)
    log.setLevel(logging.INFO)
    log.propagate = False
