"""Losses: the cross-entropy, its derivatives, and what a model's outputs are."""
