"""Keras models: the one door to Keras, layers by name, copies, and models on disk."""
