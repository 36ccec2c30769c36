"""The one door to Keras.

tensorflow-model-optimization 0.8 wraps layers of Keras 2 (``tf_keras``) only, so all of
lottery_tf takes ``keras`` from here. ``model_files`` is the one door to models on disk.
"""

import tf_keras as keras

__all__ = ["keras"]
