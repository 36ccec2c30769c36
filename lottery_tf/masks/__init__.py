"""Masks: which weights stay; how scores become masks, and models masked ones."""
