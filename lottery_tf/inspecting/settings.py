"""What a picture of a ticket may be."""

SUFFIXES = (".png", ".svg")
