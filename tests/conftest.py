"""What every test gets: quiet TensorFlow, fixed seeds and names."""

import contextlib
import functools
import gc
import importlib
import logging
import os
import random
import signal
import sys
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A third of a small training's time is XLA's compiler seeking speed that no test needs.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import pytest
from hypothesis import settings

# A shell has its jobs in the background ignore Ctrl-C, which some tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A case that takes long on a busy machine, or while slipcover takes out its probes, is no mistake.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are found
def pytest_collection_modifyitems(items):
    """What is long has Keras 3 in the default suite, and tf_keras with the whole runs (e2e)."""
    for item in items:
        if item.get_closest_marker("long") and "tf_keras" in item.callspec.id.split("-"):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(autouse=True)
def same_start():
    """Tests that touch TensorFlow start from the same random state, whatever ran before.

    So does the count in the names that Keras gives to layers.
    """
    if "tf_keras" in sys.modules:
        _light()
    with _kernels_kept():
        if "keras" in sys.modules:  # Keras 3
            sys.modules["keras"].utils.set_random_seed(0)
            sys.modules["keras"].utils.clear_session(free_memory=False)
        if "tf_keras" in sys.modules:
            sys.modules["tf_keras"].utils.set_random_seed(0)
            sys.modules["tf_keras"].backend.reset_uids()


_drawn = True  # whether a kernel that counts what it draws may be there


@contextlib.contextmanager
def _kernels_kept():
    """Both Kerases would have TensorFlow throw all kernels away, and to make them anew takes a
    quarter of the time.

    That is for those that count what they draw (tests/test_same_start.py). They ask TensorFlow for
    their seeds; where none has since the last start there is none.
    """
    global _drawn
    drawn, _drawn = _drawn, False
    if drawn or "tf_keras" not in sys.modules:
        yield
        return
    from tensorflow.python.eager.context import Context

    def seed_alone(context, seed):
        context._seed, context._rng = seed, random.Random(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "_set_global_seed", seed_alone)
        patch.setattr(Context, "clear_kernel_cache", lambda context: None)
        yield


@functools.cache
def _light() -> None:
    """Leaves out what pays off in long trainings, or for a reader, only; once, when TensorFlow is
    there.

    Grappler rewrites graphs that run a few steps here, and Python's collector walks through all of
    TensorFlow again and again: a fifth of the time. Each operation of a graph notes from where it
    was made, below all of pytest, and Python before 3.12 finds out anew what a protocol asks for,
    whenever TensorFlow looks at a tensor: a twentieth. Commands in processes of their own have all
    of it.
    """
    from tensorflow.python.framework import random_seed
    from tensorflow.python.util import tf_stack

    sys.modules["tensorflow"].config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    here, get_seed = tf_stack.extract_stack(), random_seed.get_seed
    tf_stack.extract_stack = lambda stacklevel=1: here
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)

    def noted(op_seed):
        global _drawn
        _drawn = True
        return get_seed(op_seed)

    random_seed.get_seed = noted


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.e2e)], ids=["eager", "graph"])
def eager(request):
    """For ``compile(run_eagerly=…)``: eagerly, and with the whole runs (e2e) in graphs too.

    Tracing takes longer than the few steps of a test, but graphs are what users train in.
    """
    return request.param


@pytest.fixture(params=["tf_keras", "keras"])
def of(request):
    """Each of the two Kerases, for what is to be true of the models of both."""
    return importlib.import_module(request.param)


@pytest.fixture
def all_eager(eager):
    """Likewise for all that TensorFlow would make graphs of, not Keras' steps alone."""
    from networks import eagerly

    with eagerly(eager):
        yield eager


@pytest.fixture
def untraced():
    """Nothing is traced, for what a graph has no part in, or has another test of."""
    from networks import eagerly

    with eagerly():
        yield


@pytest.fixture
def proved_here(monkeypatch):
    """Exports are proved in this process: a fresh one spends seconds on importing TensorFlow."""
    from networks import prove_here

    prove_here(monkeypatch)


@pytest.fixture(params=["here", pytest.param("in a process", marks=pytest.mark.e2e)])
def proved(request):
    """Where exports are proved: as above, and with the whole runs (e2e) as users have it too."""
    if request.param == "here":
        request.getfixturevalue("proved_here")


@pytest.fixture
def lines():
    """The lines that the library logs while the test runs."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("lottery_tf")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(level)
    logger.removeHandler(handler)
