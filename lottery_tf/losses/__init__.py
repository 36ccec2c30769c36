"""Losses: the cross-entropy, its derivatives, and the kind of a model's outputs."""
