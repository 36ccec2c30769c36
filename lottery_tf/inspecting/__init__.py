"""What is left of a ticket's network, in numbers and as a picture."""

from lottery_tf.common.lazy import loads

_WHERE = {
    "PICTURE": "inspecting.picture",
    "TicketFacts": "inspecting.facts",
    "WeightFacts": "inspecting.facts",
    "draw": "inspecting.picture",
    "inspect": "inspecting.facts",
}
__all__ = list(_WHERE)
__getattr__ = loads(__name__, _WHERE)
