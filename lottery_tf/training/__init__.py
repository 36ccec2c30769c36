"""Training: a trainer that compiles once, and retraining by a recipe."""
