"""Tickets: masks with the weights to rewind to."""
