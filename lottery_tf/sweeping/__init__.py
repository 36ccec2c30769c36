"""Many runs of find and retrain as one: what they share is done once, by several processes.

This module is empty, so that an engine's process can set its environment before TensorFlow is
imported.
"""
