"""What is left of a ticket's network, in numbers and as a picture."""

from lottery_tf.inspecting.facts import TicketFacts, WeightFacts, inspect
from lottery_tf.inspecting.picture import PICTURE, SUFFIXES, draw

__all__ = ["PICTURE", "SUFFIXES", "TicketFacts", "WeightFacts", "draw", "inspect"]
