"""What is left of a ticket's network, and what signal reaches its layers; as a picture too."""

from lottery_tf.common.lazy import loads

_WHERE = {
    "PICTURE": "inspecting.picture",
    "LayerSignal": "inspecting.signal",
    "Signal": "inspecting.signal",
    "SignalRow": "inspecting.signal",
    "TicketFacts": "inspecting.facts",
    "WeightFacts": "inspecting.facts",
    "blocked": "inspecting.signal",
    "draw": "inspecting.picture",
    "draw_signal": "inspecting.picture",
    "inspect": "inspecting.facts",
    "sentence_of": "inspecting.signal",
    "side_by_side": "inspecting.signal",
}
__all__ = list(_WHERE)
__getattr__ = loads(__name__, _WHERE)
