"""Masks: which weights stay, how masks are made of scores, and how models are masked."""
