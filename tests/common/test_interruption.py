"""Signals are heeded, held back, and left alone where they are ignored."""

import os
import signal

import pytest

from lottery_tf.common import interruption
from lottery_tf.common.interruption import Stopped, asked, heed_again, heeded, held_back


def tell(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """Those of before, whatever a test does."""
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_raises(number, error):
    with pytest.raises(KeyboardInterrupt) as told, heeded():
        tell(number)
    assert type(told.value) is error and not asked()


def test_one_that_is_held_back_is_noted_and_raised_at_the_end():
    passed = []
    with pytest.raises(Stopped), heeded(), held_back():
        with held_back():
            tell(signal.SIGTERM)
            passed.append(asked())
        passed.append("of the inner block")  # the outermost one raises
    assert passed == [True, "of the inner block"]


def test_the_second_signal_ends_it_at_once():
    with pytest.raises(KeyboardInterrupt), heeded(), held_back():
        tell(signal.SIGTERM)
        tell(signal.SIGINT)
        pytest.fail("it went on")


def test_sigterm_does_not_disturb_the_end():
    """A launcher tells again whoever has not ended yet."""
    with pytest.raises(Stopped), heeded():
        try:
            tell(signal.SIGTERM)
        finally:
            tell(signal.SIGTERM)


def test_a_handler_that_another_library_has_set_is_replaced():
    """As those of TensorFlow's several workers and of Ray are."""
    with pytest.raises(Stopped), heeded():
        signal.signal(signal.SIGTERM, lambda *_: None)
        tell(signal.SIGTERM)
        heed_again()
        tell(signal.SIGTERM)


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeded():
            tell(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_a_command_nothing_changes():
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    heed_again()
    with held_back():
        assert [signal.getsignal(number) for number in interruption.SIGNALS] == before
    assert not asked()
