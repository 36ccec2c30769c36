"""What every test gets: quiet TensorFlow, fixed seeds."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


@pytest.fixture(autouse=True)
def fixed_seed(request):
    """Tests that touch TensorFlow start from the same random state, whatever ran before."""
    import sys

    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].utils.set_random_seed(0)
